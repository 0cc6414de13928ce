"""A federation's model at work on scans that nobody has painted."""
