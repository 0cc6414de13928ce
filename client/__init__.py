"""A hospital. The only package that may touch a patient's data."""
