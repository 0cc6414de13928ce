"""A state on disk is whole or not there, whatever happens in between."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scored_rounds import scored_state
from small_disks import mounted_disk

from common.errors import CheckpointError
from common.plan import FederationPlan
from server.checkpoints import load_state, read_state, save_state
from server.round_state import RoundState

MakeState = Callable[..., RoundState]
MakePlan = Callable[..., FederationPlan]


def assert_same_state(left: RoundState | None, right: RoundState) -> None:
    assert left is not None
    assert (left.round, left.history, left.closing) == (right.round, right.history, right.closing)
    for ours, theirs in (
        (left.arrays, right.arrays),
        (left.strategy_arrays, right.strategy_arrays),
    ):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert (array.shape, array.dtype) == (theirs[name].shape, theirs[name].dtype)
            assert array.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("closed", [False, True])
def test_a_state_comes_back_bit_for_bit(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState, closed: bool
) -> None:
    state = make_state(3, closed=closed)
    path = save_state(tmp_path / "deep" / "checkpoints", state, plan)
    assert path.name == "round-00003"
    assert_same_state(read_state(path, plan), state)


def test_a_state_without_strategy_tensors_comes_back(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    state = replace(make_state(1), strategy_arrays={})
    save_state(tmp_path, state, plan)
    assert_same_state(load_state(tmp_path, plan), state)


def test_arrays_that_are_not_contiguous_come_back(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    state = replace(make_state(1), arrays={"t": table.T, "s": table[:, ::2]})
    save_state(tmp_path, state, plan)
    came = load_state(tmp_path, plan)
    assert came is not None
    np.testing.assert_array_equal(came.arrays["t"], table.T)
    np.testing.assert_array_equal(came.arrays["s"], table[:, ::2])


def test_no_folder_and_an_empty_one_hold_no_state(tmp_path: Path, plan: FederationPlan) -> None:
    assert load_state(tmp_path / "none", plan) is None
    assert load_state(tmp_path, plan) is None


def test_the_newest_state_is_loaded(
    tmp_path: Path, make_plan: MakePlan, make_state: MakeState
) -> None:
    plan = make_plan(rounds=(12,))
    for number in (9, 10):
        save_state(tmp_path, make_state(number), plan)
    assert_same_state(load_state(tmp_path, plan), make_state(10))


def test_the_closing_scores_replace_the_last_round(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    save_state(tmp_path, make_state(3), plan)
    save_state(tmp_path, make_state(3, closed=True), plan)
    assert_same_state(load_state(tmp_path, plan), make_state(3, closed=True))
    assert [path.name for path in tmp_path.iterdir()] == ["round-00003"]


def test_an_unfinished_folder_is_passed_over_and_swept_away(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    path = save_state(tmp_path, make_state(1), plan)
    shutil.copytree(path, tmp_path / "unfinished-whole")
    half = tmp_path / "unfinished-half"
    half.mkdir()
    (half / "models.safetensors").write_bytes((path / "models.safetensors").read_bytes()[:20])
    assert_same_state(load_state(tmp_path, plan), make_state(1))
    save_state(tmp_path, make_state(2), plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00001", "round-00002"]


def test_another_plans_state_is_refused(
    tmp_path: Path, plan: FederationPlan, make_plan: MakePlan, make_state: MakeState
) -> None:
    other = make_plan(seed=1)
    save_state(tmp_path, make_state(1), plan)
    message = rf"round-00001 belongs to the plan '{plan.federation}', not to '{other.federation}'"
    with pytest.raises(CheckpointError, match=f"{message}: .*another --out; .* the version before"):
        load_state(tmp_path, other)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 40)


def _list(path: Path) -> None:
    path.write_bytes(b"[]")


@pytest.mark.parametrize("damage", [_cut, _empty, _garbage, _list, Path.unlink])
@pytest.mark.parametrize("file", ["models.safetensors", "strategy.safetensors", "state.json"])
def test_damage_is_named_with_what_to_do(
    tmp_path: Path,
    plan: FederationPlan,
    make_state: MakeState,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    save_state(tmp_path, make_state(1), plan)
    path = save_state(tmp_path, make_state(2), plan)
    damage(path / file)
    with pytest.raises(CheckpointError, match=rf"round-00002/{file} cannot be read .*remove"):
        load_state(tmp_path, plan)
    shutil.rmtree(path)
    assert_same_state(load_state(tmp_path, plan), make_state(1))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"round": 2', '"rund": 2'), ('"outcome": "trained"', '"outcome": "bored"')],
)
def test_a_state_with_an_impossible_value_is_refused(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState, old: str, new: str
) -> None:
    path = save_state(tmp_path, make_state(2), plan) / "state.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(tmp_path, plan)


def test_the_ends_of_stages_and_the_last_two_rounds_stay(
    tmp_path: Path, make_plan: MakePlan, make_state: MakeState
) -> None:
    plan = make_plan(rounds=(3, 4))  # stages end with rounds 3 and 7
    kept = []
    for number in range(1, 8):
        save_state(tmp_path, make_state(number), plan)
        kept.append(sorted(int(path.name.removeprefix("round-")) for path in tmp_path.iterdir()))
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [3, 5, 6], [3, 6, 7]]


def test_the_promoted_round_stays_until_another_is_promoted(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    plan = make_plan((9,), release={"most_loss": 0.25})
    rounds = [{"a": {"task1": one}} for one in (0.75, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75)]
    kept = []
    for number in range(8):
        save_state(tmp_path, scored_state(plan, rounds[:number], closed=False), plan)
        kept.append(sorted(int(path.name.removeprefix("round-")) for path in tmp_path.iterdir()))
    # A round is saved first and judged with the next: round 5 passes when 6 is saved.
    assert kept == [[1], [1, 2], [1, 2, 3], [1, 3, 4], [1, 4, 5], [5, 6], [6, 7], [7, 8]]


def test_a_folder_that_may_not_be_made_is_our_error(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match=r"round 1 could not be saved .*File exists"):
        save_state(tmp_path / "checkpoints", make_state(1), plan)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", 256) as disk:
        yield disk


def test_a_full_disk_leaves_the_round_before(
    small_disk: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    save_state(small_disk, make_state(1), plan)
    large = replace(make_state(2), arrays={"a": np.zeros(100_000, np.float32)})
    with pytest.raises(CheckpointError, match=r"round 2 could not be saved .*No space left"):
        save_state(small_disk, large, plan)
    assert_same_state(load_state(small_disk, plan), make_state(1))
    save_state(small_disk, make_state(2), plan)  # the half-written folder takes no room now
    assert_same_state(load_state(small_disk, plan), make_state(2))


SAVE_FOR_EVER = """
import itertools, sys
from pathlib import Path
import numpy as np
from common.plan import FederationPlan
from server.checkpoints import save_state
from server.round_state import RoundRecord, RoundState
folder, plan = Path(sys.argv[1]), FederationPlan.model_validate_json(sys.argv[2])
for number in itertools.count(1):
    arrays = {"a": np.full(50_000, number, np.float32)}
    for closing in (None, RoundRecord(round=number, stage=0)):
        save_state(folder, RoundState(number, arrays, {}, (), closing), plan)
        print(number, flush=True)
"""


def test_a_killed_process_leaves_a_state_that_loads(tmp_path: Path, plan: FederationPlan) -> None:
    root = Path(__file__).parents[2]
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(folder), plan.model_dump_json()],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
            text=True,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.017 * attempt)
            process.send_signal(signal.SIGKILL)
            told = [int(line) for line in process.stdout]
        state = load_state(folder, plan)
        assert state is not None
        assert state.round >= max(told, default=1), "what was told as saved is there"
        assert (state.arrays["a"] == state.round).all()
