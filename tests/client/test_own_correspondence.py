"""A hospital's own correspondence network: learned once, resumed, learned anew when outgrown."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_correspondence import SMALL_CORRESPONDENCE
from torch import Tensor
from torch.nn import Module

from client import own_correspondence as module
from client.learning.round_clock import OutOfTimeError, RoundClock
from client.local_round import Hospital
from client.own_correspondence import PARTS, own_correspondence
from client.propagation.learn_correspondence import learn_correspondence
from client.store.correspondence import load_learned
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.scans import list_scans
from client.store.store import Store, create_store
from common.networks.correspondence import CorrespondenceNetwork, build_correspondence
from common.plan import FederationPlan

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
CPU = torch.device("cpu")
TASK = {"classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 2}


class KilledError(Exception):
    """The power went off."""


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    return make_plan(
        correspondence=SMALL_CORRESPONDENCE, propagation={"candidates": ["correspondence"]}
    )


def weights_of(network: Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach()


def ids_of(store: Store) -> set[str]:
    return {scan.scan_id for scan in list_scans(store)}


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each part that is really learned: its number, and how many scans it sees."""
    seen: list[tuple[int, int]] = []

    def noting(*arguments: object, **named: object) -> float | None:
        seen.append((named["part"][0], len(arguments[1])))  # type: ignore[index,arg-type]
        return learn_correspondence(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "learn_correspondence", noting)
    return seen


def kill_at(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """The next training is killed at the beginning of that part."""

    def killed(*arguments: object, **named: object) -> float | None:
        if named["part"][0] == part:  # type: ignore[index]
            raise KilledError
        return learn_correspondence(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "learn_correspondence", killed)


def register(
    store: Store, plan: FederationPlan, folder: Path, shapes: list[tuple[int, ...]]
) -> None:
    """Adds scans of these shapes to the first task."""
    (folder / "images").mkdir(parents=True)
    for number, shape in enumerate(shapes):
        image = np.random.default_rng(1000 + number).normal(size=shape).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "images" / f"more-{number}.nii.gz")
    dataset = find_cases(folder)
    ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0])


def test_it_learns_from_all_scans_painted_or_not_and_only_once(
    make_hospital: MakeHospital, plan: FederationPlan, lessons: list[tuple[int, int]]
) -> None:
    store = make_hospital().store
    first = own_correspondence(store, plan, CPU)
    assert lessons == [(part, 6) for part in range(1, PARTS + 1)]
    untrained = build_correspondence(1, plan.correspondence, plan.seed)
    assert not torch.equal(weights_of(first), weights_of(untrained))
    again = own_correspondence(store, plan, CPU)
    assert len(lessons) == PARTS, "nothing is learned a second time"
    assert torch.equal(weights_of(first), weights_of(again))


def test_without_time_it_stops_between_two_parts_and_goes_on(
    make_hospital: MakeHospital, plan: FederationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady, late = make_hospital("steady").store, make_hospital("late").store
    now = 0.0
    monkeypatch.setattr("client.learning.round_clock.time.monotonic", lambda: now)

    def a_second_each(*arguments: object, **named: object) -> float | None:
        nonlocal now
        now += 1
        return learn_correspondence(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "learn_correspondence", a_second_each)
    wanted = own_correspondence(steady, plan, CPU)
    for _ in range(2):
        with pytest.raises(OutOfTimeError, match="what was made so far is kept"):
            own_correspondence(late, plan, CPU, clock=RoundClock(now + 4))
    began = now
    found = own_correspondence(late, plan, CPU, clock=RoundClock(now + 4))
    assert now - began == PARTS - 2 * 4
    assert torch.equal(weights_of(found), weights_of(wanted))


@pytest.mark.parametrize("part", [1, 4, PARTS])
def test_a_killed_training_goes_on_to_the_same_bits(
    make_hospital: MakeHospital, plan: FederationPlan, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    steady, killed = make_hospital("steady").store, make_hospital("killed").store
    wanted = own_correspondence(steady, plan, CPU)
    kill_at(monkeypatch, part)
    with pytest.raises(KilledError):
        own_correspondence(killed, plan, CPU)
    monkeypatch.undo()
    assert torch.equal(weights_of(own_correspondence(killed, plan, CPU)), weights_of(wanted))


def test_a_killed_training_does_only_what_is_left(
    make_hospital: MakeHospital,
    plan: FederationPlan,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    store = make_hospital().store
    kill_at(monkeypatch, 8)
    with pytest.raises(KilledError):
        own_correspondence(store, plan, CPU)
    lessons = request.getfixturevalue("lessons")
    own_correspondence(store, plan, CPU)
    assert lessons == [(8, 6), (9, 6), (10, 6)]


def test_it_is_learned_anew_when_the_scans_have_doubled_and_not_before(
    make_hospital: MakeHospital,
    plan: FederationPlan,
    lessons: list[tuple[int, int]],
    tmp_path: Path,
) -> None:
    store = make_hospital().store
    first = weights_of(own_correspondence(store, plan, CPU))
    register(store, plan, tmp_path / "five", [(20, 20, 16)] * 5)
    assert len(ids_of(store)) == 11
    assert torch.equal(weights_of(own_correspondence(store, plan, CPU)), first)
    assert len(lessons) == PARTS
    rng = np.random.default_rng(0)
    image = rng.normal(size=(21, 20, 16)).astype(np.float32)
    (tmp_path / "one" / "images").mkdir(parents=True)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "one" / "images" / "last.nii.gz")
    dataset = find_cases(tmp_path / "one")
    ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0])
    second = weights_of(own_correspondence(store, plan, CPU))
    assert lessons[PARTS:] == [(part, 12) for part in range(1, PARTS + 1)]
    assert not torch.equal(first, second)
    assert torch.equal(weights_of(own_correspondence(store, plan, CPU)), second)
    assert len(lessons) == 2 * PARTS


def test_a_killed_training_goes_on_with_the_scans_that_it_began_with(
    make_hospital: MakeHospital,
    plan: FederationPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    steady, killed = make_hospital("steady").store, make_hospital("killed").store
    wanted = weights_of(own_correspondence(steady, plan, CPU))
    kill_at(monkeypatch, 5)
    with pytest.raises(KilledError):
        own_correspondence(killed, plan, CPU)
    monkeypatch.undo()
    register(killed, plan, tmp_path / "more", [(20, 20, 16)] * 3)
    assert torch.equal(weights_of(own_correspondence(killed, plan, CPU)), wanted)


def test_scans_too_short_for_a_chain_do_not_count(
    make_hospital: MakeHospital,
    plan: FederationPlan,
    lessons: list[tuple[int, int]],
    tmp_path: Path,
) -> None:
    store = create_store(tmp_path / "flat", "north")
    register(store, plan, tmp_path / "two", [(20, 20, 2)] * 2)
    nothing = own_correspondence(store, plan, CPU)
    untrained = build_correspondence(1, plan.correspondence, plan.seed)
    assert torch.equal(weights_of(nothing), weights_of(untrained))
    # One that is long enough makes all the difference.
    (tmp_path / "long" / "images").mkdir(parents=True)
    image = np.random.default_rng(0).normal(size=(20, 20, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "long" / "images" / "long.nii.gz")
    dataset = find_cases(tmp_path / "long")
    ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0])
    lessons.clear()
    learned = own_correspondence(store, plan, CPU)
    assert lessons == [(part, 1) for part in range(1, PARTS + 1)]
    assert not torch.equal(weights_of(learned), weights_of(untrained))


@pytest.mark.parametrize(
    "changes",
    [
        {"correspondence": {**SMALL_CORRESPONDENCE, "edge_gain": 3.0}},
        {"propagation": {"candidates": ["correspondence"], "search_radius_voxels": 2}},
        {"seed": 1},
        {"training": {"clip_norm": 0.1}},
        {"tasks": [{**TASK, "name": name, "plane": "coronal"} for name in ("first", "second")]},
    ],
    ids=["network", "window", "seed", "optimiser", "plane"],
)
def test_other_settings_learn_a_network_of_their_own(
    make_hospital: MakeHospital,
    make_plan: MakePlan,
    plan: FederationPlan,
    lessons: list[tuple[int, int]],
    changes: dict[str, object],
) -> None:
    store = make_hospital().store
    first = weights_of(own_correspondence(store, plan, CPU))
    values = {
        "correspondence": SMALL_CORRESPONDENCE,
        "propagation": {"candidates": ["correspondence"]},
    }
    other: CorrespondenceNetwork = own_correspondence(
        store, make_plan(**{**values, **changes}), CPU
    )
    assert len(lessons) == 2 * PARTS
    assert not torch.equal(weights_of(other), first)
    # The first is still there.
    assert torch.equal(weights_of(own_correspondence(store, plan, CPU)), first)
    assert len(lessons) == 2 * PARTS


def test_scans_of_tasks_that_the_plan_does_not_know_are_left_out(
    make_hospital: MakeHospital, make_plan: MakePlan, lessons: list[tuple[int, int]]
) -> None:
    task = {"name": "first", "classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 1}
    plan = make_plan(tasks=[task], correspondence=SMALL_CORRESPONDENCE)
    own_correspondence(make_hospital().store, plan, CPU)
    assert {scans for _, scans in lessons} == {3}


def test_a_training_goes_on_when_a_scan_comes_for_another_task(
    make_hospital: MakeHospital,
    plan: FederationPlan,
    lessons: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The ids that come first are other ones then, and the images the same."""
    store = make_hospital().store
    second = plan.tasks[1:]
    with monkeypatch.context() as patched:
        kill_at(patched, 3)
        with pytest.raises(KilledError):
            own_correspondence(store, plan, CPU, second)
    before = ids_of(store)
    dataset = find_cases(tmp_path / "cellar-second")
    ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0])
    assert len(ids_of(store)) == 9
    own_correspondence(store, plan, CPU, second)
    assert lessons == [(part, 3) for part in range(3, PARTS + 1)]
    names = load_learned(store, module._digest(plan, second))[-1].scans
    assert len(names) == 3
    assert set(names) < before
