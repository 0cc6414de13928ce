"""What all tests need: quiet libraries, and where real scans may lie."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Nothing that a test starts may call anybody.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    # Ray's workers give way to all else by default, and beside other tests would miss deadlines.
    RAY_worker_niceness="0",
)

# On CI the examples are the same every time; at home new ones are drawn, and may find something.
settings.register_profile("repeatable", derandomize=True)
if "CI" in os.environ:
    settings.load_profile("repeatable")

REPOSITORY = Path(__file__).parent.parent
REAL_SCANS = Path(os.environ.get("ONESLICE_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture
def real_scans() -> Path:
    """The folder of real scans; the test is skipped where there is none."""
    if not REAL_SCANS.is_dir():
        pytest.skip("no folder of real scans beside the project")
    return REAL_SCANS
