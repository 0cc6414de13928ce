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
# Their files take a minute and more, the others' seconds.
LONG = tuple(REPOSITORY / "tests" / name for name in ("federation", "simulations"))
REAL_SCANS = Path(os.environ.get("ONESLICE_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores, since federations mostly wait for Flower."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: [folder not in item.path.parents for folder in LONG])


@pytest.fixture
def real_scans() -> Path:
    """The folder of real scans; the test is skipped where there is none."""
    if not REAL_SCANS.is_dir():
        pytest.skip("no folder of real scans beside the project")
    return REAL_SCANS
