"""The networks that are federated."""
