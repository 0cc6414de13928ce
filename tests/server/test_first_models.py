"""A federation's first models are saved by the command; its server loads them and no Torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import CheckpointError
from common.plan import FederationPlan
from server.checkpoints import load_state, read_state
from server.first_models import save_first_models
from server.rounds import first_state
from server.run_folder import RunFolder

# Hospitals that know no Torch either, and all that a server does in a real federation.
SERVER = """
import sys
from pathlib import Path
from flwr.app import Context, RecordDict
sys.path.insert(0, sys.argv[2])
from fake_hospitals import FakeHospitals
from server.app import make_server_app
from server.run_folder import RunFolder

folder = RunFolder(Path(sys.argv[1]))
app = make_server_app(lambda _: (folder.read_plan(), folder))
context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
app(FakeHospitals({1: "west", 2: "north", 3: "south", 4: "east"}).grid(), context)
print("torch" in sys.modules)
"""


@pytest.fixture
def folder(plan: FederationPlan, tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "run")
    found.keep_plan(plan)
    return found


def test_they_are_those_that_a_server_would_have_drawn(
    plan: FederationPlan, folder: RunFolder
) -> None:
    save_first_models(folder)
    state = load_state(folder.checkpoints, plan)
    assert state is not None
    fresh = first_state(plan)
    assert (state.round, state.history, state.closing) == (0, (), None)
    assert state.arrays.keys() == fresh.arrays.keys()
    for name, array in fresh.arrays.items():
        assert state.arrays[name].tobytes() == array.tobytes()


def test_a_run_that_has_begun_is_left_as_it_is(plan: FederationPlan, folder: RunFolder) -> None:
    save_first_models(folder)
    (only,) = folder.checkpoints.iterdir()
    later = only.rename(folder.checkpoints / "round-00004")
    save_first_models(folder)
    assert list(folder.checkpoints.iterdir()) == [later]
    assert read_state(later, plan).round == 0


def test_a_run_at_work_is_not_touched(folder: RunFolder) -> None:
    with (
        folder.only_server(),
        pytest.raises(CheckpointError, match="only server that works on"),
    ):
        save_first_models(folder)


def test_a_server_that_begins_with_them_never_loads_torch(
    plan: FederationPlan, folder: RunFolder
) -> None:
    save_first_models(folder)
    tests = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(folder.path), tests],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("False\n"), done.stdout + done.stderr
    state = load_state(folder.checkpoints, plan)
    assert state is not None
    assert state.closing is not None
