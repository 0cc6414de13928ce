"""Spreading one painted slice through its volume."""
