"""What hospitals and the coordinator agree on: types, the plan, what crosses the wire, metrics."""
