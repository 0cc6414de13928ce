"""The coordinator: sees weights and numbers, never a scan."""
