"""Which slice to ask a clinician for, and how the answer comes back."""
