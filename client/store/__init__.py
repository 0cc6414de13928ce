"""A hospital's store: its scans, labels, memory and log, on its own disk."""
