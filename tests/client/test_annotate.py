"""What the page's background asks of the label engine and the model, and what it says of it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hospital_rounds import ask, first_arrays, ids_of
from small_correspondence import SMALL_CORRESPONDENCE

from client.annotate import NO_MODEL, NO_NETWORK, HospitalLabeller, join, show
from client.annotation.annotator import Annotator, paint_asked_slices
from client.annotation.page.previews import Made, Shown
from client.crop import Crop
from client.label_engine import label_maker, label_maker_now, shows_slices, spread_new
from client.local_round import Hospital
from client.own_correspondence import learned_correspondence, own_correspondence
from client.store.annotations import latest_annotations, save_annotation
from client.store.label_maps import find_label_map, load_label_map
from client.store.store import Store
from common.plan import FederationPlan
from common.scans import LabelMap, SliceRef

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
MakeOracle = Callable[[FederationPlan], Annotator]
Paint = Callable[..., None]
CPU = torch.device("cpu")
LEARNED = {"candidates": ["patches", "correspondence", "registration"]}


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle) -> Hospital:
    """With the middle of each of the first task's scans painted."""
    hospital, plan = make_hospital(), make_plan(annotation={"slice_choice": "centre"})
    paint_asked_slices(hospital.store, plan, plan.tasks[0], oracle(plan))
    return hospital


def shown_in(made: Made) -> Shown:
    assert made.shown is not None
    return made.shown


def versions(store: Store, scan_id: str) -> int:
    with store.read() as connection:
        query = "SELECT COUNT(*) FROM label_maps WHERE scan_id = ?"
        return int(connection.execute(query, (scan_id,)).fetchone()[0])


def repaint(store: Store, scan_id: str) -> None:
    """Three pixels more on its painted slice."""
    (annotation,) = latest_annotations(store, scan_id)
    mask = annotation.mask.copy()
    mask[:3, 0] = 1
    save_annotation(store, replace(annotation, mask=mask))


# Spreading ----------------------------------------------------------------------------------------


def test_what_is_shown_is_what_training_uses(hospital: Hospital, make_plan: MakePlan) -> None:
    store, plan, scan_id = hospital.store, make_plan(), ids_of(hospital, "first")[0]
    made = HospitalLabeller(store, plan, CPU).spread(scan_id)
    kept = find_label_map(store, scan_id, plan.federation)
    spread_new(label_maker(store, plan, {}, CPU), [scan_id])
    assert find_label_map(store, scan_id, plan.federation) == kept, "a round finds it made already"
    assert versions(store, scan_id) == 1
    assert (made.sentence, made.suggestion) == ("", None)
    assert made.shown is not None
    labels = load_label_map(store, scan_id, plan.federation)
    np.testing.assert_array_equal(made.shown.labels, labels.hard())
    assert made.shown.voxels == {1: int((labels.hard() == 1).sum())}


def test_of_too_few_slices_the_page_says_so(
    hospital: Hospital, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.propagation.spread_labels.FEWEST_SLICES", 17)  # the scans have 16
    made = HospitalLabeller(hospital.store, make_plan(), CPU).spread(ids_of(hospital, "first")[0])
    assert made.sentence.startswith("Fewer than 3 slices along the plane: nothing can be carried")
    (painted,) = latest_annotations(hospital.store, ids_of(hospital, "first")[0])
    assert shown_in(made).voxels == {1: int(painted.mask.sum())}


def test_a_slice_that_was_painted_again_is_spread_again(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    store, scan_id = hospital.store, ids_of(hospital, "first")[0]
    plan = make_plan()
    labeller = HospitalLabeller(store, plan, CPU)
    for wanted in (1, 1, 2, 2):
        if wanted > versions(store, scan_id) > 0:
            repaint(store, scan_id)
        labeller.spread(scan_id)
        assert versions(store, scan_id) == wanted
        assert shows_slices(label_maker(store, plan, {}, CPU), scan_id)


def test_without_a_learned_network_the_others_carry_the_label_at_once(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    store, scan_id = hospital.store, ids_of(hospital, "first")[0]
    plan = make_plan(propagation=LEARNED, correspondence=SMALL_CORRESPONDENCE)
    made = HospitalLabeller(store, plan, CPU).spread(scan_id)
    assert made.sentence == NO_NETWORK
    assert learned_correspondence(store, plan) is None, "nothing was trained meanwhile"
    kept = find_label_map(store, scan_id, plan.federation)
    settings = {"candidates": ("patches", "registration")}
    others = replace(
        label_maker_now(store, plan, CPU)[0],
        propagation=plan.propagation.model_copy(update=settings),
    )
    spread_new(others, [scan_id])
    assert find_label_map(store, scan_id, plan.federation) == kept


def test_what_a_round_made_with_the_network_stays(hospital: Hospital, make_plan: MakePlan) -> None:
    store, scan_id = hospital.store, ids_of(hospital, "first")[0]
    plan = make_plan(propagation=LEARNED, correspondence={**SMALL_CORRESPONDENCE, "rounds": 1})
    labeller = HospitalLabeller(store, plan, CPU)
    labeller.spread(scan_id)
    repaint(store, scan_id)
    maker, is_whole = label_maker_now(store, plan, CPU)
    assert (maker.network, is_whole) == (None, False)
    # A round brings the federation's network.
    own = own_correspondence(store, plan, CPU)
    spread_new(replace(maker, propagation=plan.propagation, network=own), [scan_id])
    by_round = find_label_map(store, scan_id, plan.federation)
    labeller.spread(scan_id)
    assert find_label_map(store, scan_id, plan.federation) == by_round
    repaint(store, scan_id)  # the same mask again: nothing to do
    labeller.spread(scan_id)
    assert find_label_map(store, scan_id, plan.federation) == by_round


def test_the_hospitals_own_network_is_used_once_it_is_learned(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    store, scan_id = hospital.store, ids_of(hospital, "first")[0]
    plan = make_plan(propagation=LEARNED, correspondence=SMALL_CORRESPONDENCE)
    own_correspondence(store, plan, CPU)
    made = HospitalLabeller(store, plan, CPU).spread(scan_id)
    assert made.sentence == ""
    kept = find_label_map(store, scan_id, plan.federation)
    spread_new(label_maker(store, plan, {}, CPU), [scan_id])
    assert find_label_map(store, scan_id, plan.federation) == kept


def test_a_network_that_is_half_learned_is_none(hospital: Hospital, make_plan: MakePlan) -> None:
    store = hospital.store
    plan = make_plan(propagation=LEARNED, correspondence=SMALL_CORRESPONDENCE)
    own_correspondence(store, plan, CPU)
    with store.connect() as connection:
        connection.execute("DELETE FROM correspondence WHERE part > 4")
    assert learned_correspondence(store, plan) is None


def test_with_no_other_candidate_the_patches_carry_the_label(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan(
        propagation={"candidates": ["correspondence"]}, correspondence=SMALL_CORRESPONDENCE
    )
    maker, is_whole = label_maker_now(hospital.store, plan, CPU)
    assert (maker.propagation.candidates, is_whole) == (("patches",), False)
    assert label_maker_now(hospital.store, make_plan(), CPU)[1]


def test_a_label_shows_its_slices_until_one_is_painted(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    store, (scan_id, other, _) = hospital.store, ids_of(hospital, "first")
    maker = label_maker(store, make_plan(), {}, CPU)
    assert not shows_slices(maker, scan_id), "there is none yet"
    spread_new(maker, [scan_id, other])
    assert shows_slices(maker, scan_id)
    (painted,) = latest_annotations(store, scan_id)
    save_annotation(store, replace(painted, ref=SliceRef(scan_id, 2, 0)))
    assert not shows_slices(maker, scan_id)
    (painted,) = latest_annotations(store, other)
    save_annotation(store, replace(painted, looked_for=(1, 2)))
    assert not shows_slices(maker, other), "another class was looked for on the same mask"


# Updating -----------------------------------------------------------------------------------------


def test_without_a_model_nothing_is_claimed(hospital: Hospital, make_plan: MakePlan) -> None:
    labeller = HospitalLabeller(hospital.store, make_plan(), CPU)
    scan_id = ids_of(hospital, "first")[0]
    spread = shown_in(labeller.spread(scan_id))
    made = labeller.update(scan_id, spread, lambda: None)
    assert (made.shown, made.suggestion, made.sentence) == (None, None, NO_MODEL)
    plan = make_plan(propagation=LEARNED, correspondence=SMALL_CORRESPONDENCE)
    made = HospitalLabeller(hospital.store, plan, CPU).update(scan_id, spread, lambda: None)
    assert made.sentence == f"{NO_MODEL} {NO_NETWORK}"


def test_with_a_model_its_view_is_shown_and_the_training_labels_stay(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    store, plan = hospital.store, make_plan()
    ask(hospital, plan, 1, first_arrays(plan))
    scan_id = ids_of(hospital, "first")[0]
    labeller = HospitalLabeller(store, plan, CPU)
    spread = shown_in(labeller.spread(scan_id))
    before = find_label_map(store, scan_id, plan.federation)
    made = labeller.update(scan_id, spread, lambda: None)
    fused = shown_in(made)
    assert fused.source == "fused"
    assert (fused.confidence != spread.confidence).any()
    (painted,) = latest_annotations(store, scan_id)
    np.testing.assert_array_equal(fused.labels[painted.ref.selection], painted.mask)
    assert find_label_map(store, scan_id, plan.federation) == before
    assert versions(store, scan_id) == 1
    if made.suggestion is None:
        assert made.sentence == "one was enough"
    else:
        assert f"axial {made.suggestion.index}" in made.suggestion.sentence


def test_a_volume_is_shown_in_bytes() -> None:
    soft = np.zeros((3, 2, 1, 2), np.float16)
    soft[:, 0, 0, 0] = (0.2, 0.3, 0.5)
    soft[:, 0, 0, 1] = (1, 0, 0)
    soft[:, 1, 0, 0] = (0.25, 0.75, 0)
    soft[:, 1, 0, 1] = (0, 1, 0)
    weight = np.ones((2, 1, 2), np.float16)
    labels = LabelMap((3, 7), soft, weight, weight > 2, (3,), "propagated")
    shown = show(labels)
    np.testing.assert_array_equal(shown.labels[:, 0], [[7, 0], [3, 3]])
    # 0.5 and 0.75 of 255, rounded to the nearest even where they lie between two.
    np.testing.assert_array_equal(shown.confidence[:, 0], [[128, 255], [191, 255]])
    assert (shown.source, shown.voxels) == ("propagated", {3: 2, 7: 1})
    # The model looked at the second row alone, and found the other class there.
    part = LabelMap((3, 7), soft[[0, 2, 1], 1:], weight[1:], weight[1:] > 2, (3,), "pseudo")
    joined = join(shown, Crop((1, 0, 0), (2, 1, 2)), part)
    np.testing.assert_array_equal(joined.labels[:, 0], [[7, 0], [7, 7]])
    np.testing.assert_array_equal(joined.confidence[0], shown.confidence[0])
    assert (joined.source, joined.voxels) == ("fused", {7: 3})
    assert shown.voxels == {3: 2, 7: 1}, "what was spread is not changed"
