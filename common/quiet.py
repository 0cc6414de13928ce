"""What processes of Flower and MLflow are started with: they phone nobody, and give memory back."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# Each thread of a server that passes models on would keep the memory that it had for one (glibc):
# here blocks of the size in which bodies are read go back to the system at once.
FRUGAL = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "60000",
    "MALLOC_TRIM_THRESHOLD_": "200000",
}
