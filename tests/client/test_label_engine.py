"""Labels made from painted slices, and made again with the segmenter where it earned that."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from small_correspondence import SMALL_CORRESPONDENCE

from client.annotation.annotator import Annotator, paint_asked_slices
from client.label_engine import LabelMaker, join_segmenter, label_maker, spread_new
from client.learning.predict import predict_probabilities
from client.local_round import Hospital
from client.own_correspondence import own_correspondence
from client.propagation.fuse import fuse
from client.store.annotations import latest_annotations, save_annotation
from client.store.label_maps import find_label_map, load_label_map
from client.store.scans import list_scans, load_scan
from client.store.store import Store
from common.networks.correspondence import build_correspondence
from common.networks.unet import SEGMENTER, build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.scans import LabelMap
from common.updates import CORRESPONDENCE

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
MakeOracle = Callable[[FederationPlan], Annotator]
MakeMaker = Callable[..., LabelMaker]
CPU = torch.device("cpu")
NAMES = frozenset({"first", "second"})


@pytest.fixture
def make_maker(make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle) -> MakeMaker:
    """A hospital whose first task is painted and spread; the segmenter may join from 0.5 on."""

    def make(name: str = "cellar", **changes: object) -> LabelMaker:
        propagation = {"segmenter_from": 0.5, "refresh_gain": 0.125}
        plan = make_plan(**{"propagation": propagation, **changes})
        store = make_hospital(name).store
        paint_asked_slices(store, plan, plan.tasks[0], oracle(plan))
        maker = LabelMaker(store, plan, plan.propagation, None, CPU, NAMES)
        spread_new(maker, ids_of(store))
        return maker

    return make


def ids_of(store: Store, task: str = "first") -> list[str]:
    return [scan.scan_id for scan in list_scans(store, task)]


def segmenter_of(plan: FederationPlan, seed: int = 0) -> UNet:
    return build_networks(plan.model_copy(update={"seed": seed}))[SEGMENTER]


def versions(store: Store, scan_id: str) -> int:
    with store.read() as connection:
        query = "SELECT COUNT(*) FROM label_maps WHERE scan_id = ?"
        return int(connection.execute(query, (scan_id,)).fetchone()[0])


def join(maker: LabelMaker, number: int, dice: float | None, *, seed: int = 0) -> int:
    """With the same Dice for every class, or for none."""
    names = [label.name for label in maker.plan.labels] if dice is not None else []
    held_back = {name: dice for name in names if dice is not None}
    segmenter = segmenter_of(maker.plan, seed)
    return join_segmenter(maker, segmenter, ids_of(maker.store), number, held_back)


def test_a_scan_is_judged_by_its_own_classes(make_maker: MakeMaker) -> None:
    maker = make_maker()
    scan_ids, segmenter = ids_of(maker.store), segmenter_of(maker.plan)
    classes = maker.plan.tasks[0].classes
    others = [label.name for label in maker.plan.labels if label.name not in classes]
    assert others
    # How well it knows classes that nobody looked for here does not matter.
    assert join_segmenter(maker, segmenter, scan_ids, 1, dict.fromkeys(others, 1.0)) == 0
    half = {**dict.fromkeys(others, 0.0), **dict.fromkeys(classes, 0.5)}
    assert join_segmenter(maker, segmenter, scan_ids, 1, half) == 3


def newest(maker: LabelMaker, scan_id: str) -> LabelMap:
    return load_label_map(maker.store, scan_id, maker.plan.federation)


def scores(maker: LabelMaker) -> set[tuple[str, int, float]]:
    """Federation, round and score of the label maps of all scans."""
    found = [
        find_label_map(maker.store, name, maker.plan.federation) for name in ids_of(maker.store)
    ]
    return {(made.federation, made.round, made.score) for made in found if made is not None}


def repaint(maker: LabelMaker, scan_id: str) -> None:
    """Three pixels more on its painted slice."""
    (annotation,) = latest_annotations(maker.store, scan_id)
    mask = annotation.mask.copy()
    mask[:3, 0] = 1
    save_annotation(maker.store, replace(annotation, mask=mask))


# With which network -------------------------------------------------------------------------------


def test_without_the_candidate_there_is_no_correspondence_network(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store, plan = make_hospital().store, make_plan()
    assert label_maker(store, plan, {}, CPU) == LabelMaker(
        store, plan, plan.propagation, None, CPU, NAMES
    )


def test_the_federations_network_is_the_one_that_came(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store = make_hospital().store
    plan = make_plan(
        correspondence={**SMALL_CORRESPONDENCE, "rounds": 2},
        propagation={"candidates": ["correspondence"]},
    )
    sent = build_correspondence(1, plan.correspondence, 99)
    network = label_maker(store, plan, networks_to_arrays({CORRESPONDENCE: sent}), CPU).network
    assert network is not None
    for one, other in zip(network.parameters(), sent.parameters(), strict=True):
        assert torch.equal(one, other)


def test_else_the_hospital_learns_its_own(make_hospital: MakeHospital, make_plan: MakePlan) -> None:
    store = make_hospital().store
    plan = make_plan(
        correspondence=SMALL_CORRESPONDENCE, propagation={"candidates": ["correspondence"]}
    )
    network = label_maker(store, plan, {}, CPU).network
    assert network is not None
    wanted = own_correspondence(store, plan, CPU)
    for one, other in zip(network.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(one, other)


# From painted slices ------------------------------------------------------------------------------


def test_labels_are_spread_again_for_other_settings_and_not_otherwise(
    make_maker: MakeMaker,
) -> None:
    maker = make_maker()
    scan_id = ids_of(maker.store)[0]
    other = maker.propagation.model_copy(update={"reach_slices": 3})
    for settings, wanted in ((maker.propagation, 1), (other, 2), (other, 2)):
        spread_new(replace(maker, propagation=settings), [scan_id])
        assert versions(maker.store, scan_id) == wanted


def test_federations_with_other_settings_leave_each_others_labels_alone(
    make_maker: MakeMaker, make_plan: MakePlan
) -> None:
    maker = make_maker()
    join(maker, 1, 0.75)
    far = {"propagation": {"segmenter_from": 0.5, "refresh_gain": 0.125, "reach_slices": 3}}
    plan = make_plan(**far)
    other = replace(maker, plan=plan, propagation=plan.propagation)
    names = ids_of(maker.store)
    for number in (2, 3):
        spread_new(other, names)
        join(other, number, 0.75)
        spread_new(maker, names)
        join(maker, number, 0.75)
    assert scores(maker) == {(maker.plan.federation, 1, 0.75)}
    assert scores(other) == {(plan.federation, 2, 0.75)}
    # Spread and joined once by each, however many rounds there are.
    assert [versions(maker.store, name) for name in names] == [4, 4, 4]


def test_a_federation_with_the_same_settings_spreads_nothing_again(
    make_maker: MakeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = make_maker()
    join(maker, 1, 0.75)
    monkeypatch.setattr("client.label_engine.spread_labels", None)
    other = replace(maker, plan=maker.plan.model_copy(update={"name": "other"}))
    spread_new(other, ids_of(maker.store))
    assert scores(other) == {(other.plan.federation, 0, 0.0)}
    assert scores(maker) == {(maker.plan.federation, 1, 0.75)}


def test_labels_are_spread_again_for_another_network(
    make_maker: MakeMaker, make_plan: MakePlan
) -> None:
    maker = make_maker()
    plan = make_plan(
        correspondence=SMALL_CORRESPONDENCE, propagation={"candidates": ["correspondence"]}
    )
    scan_id = ids_of(maker.store)[0]
    for seed, wanted in ((0, 2), (0, 2), (1, 3)):
        network = build_correspondence(1, plan.correspondence, seed)
        spread_new(LabelMaker(maker.store, plan, plan.propagation, network, CPU, NAMES), [scan_id])
        assert versions(maker.store, scan_id) == wanted


def test_only_the_scan_that_was_repainted_is_spread_again(make_maker: MakeMaker) -> None:
    maker = make_maker()
    scan_id, other, _ = ids_of(maker.store)
    repaint(maker, scan_id)
    spread_new(maker, ids_of(maker.store))
    assert (versions(maker.store, scan_id), versions(maker.store, other)) == (2, 1)
    (annotation,) = latest_annotations(maker.store, scan_id)
    found = newest(maker, scan_id).hard()[annotation.ref.selection]
    np.testing.assert_array_equal(found, annotation.mask)


# With the segmenter -------------------------------------------------------------------------------


@pytest.mark.parametrize("dice", [None, 0.0, 0.49], ids=["unknown", "none", "too little"])
def test_the_segmenter_has_no_say_before_it_has_earned_it(
    make_maker: MakeMaker, dice: float | None
) -> None:
    maker = make_maker()
    assert join(maker, 1, dice) == 0
    assert scores(maker) == {(maker.plan.federation, 0, 0.0)}


def test_the_segmenter_never_has_a_say_unless_the_plan_says_from_when_on(
    make_maker: MakeMaker,
) -> None:
    maker = make_maker(propagation={"segmenter_from": None})
    assert join(maker, 1, 1.0) == 0
    assert scores(maker) == {(maker.plan.federation, 0, 0.0)}


def test_a_segmenter_that_has_earned_it_joins_all_labels(make_maker: MakeMaker) -> None:
    maker = make_maker()
    plan = maker.plan
    assert join(maker, 2, 0.5) == 3
    assert scores(maker) == {(plan.federation, 2, 0.5)}
    for scan_id in ids_of(maker.store):
        predicted = predict_probabilities(
            segmenter_of(plan), load_scan(maker.store, scan_id), plan.training, device=CPU
        )
        annotations = latest_annotations(maker.store, scan_id)
        alone = load_label_map(maker.store, scan_id, plan.federation, joined=False)
        wanted = fuse(alone, annotations, predicted.numpy(), plan.propagation)
        found = newest(maker, scan_id)
        np.testing.assert_allclose(found.soft, wanted.soft, atol=1e-3)
        np.testing.assert_allclose(found.weight, wanted.weight, atol=1e-3)
        assert (found.source, alone.source) == ("pseudo", "propagated")
        where = annotations[0].ref.selection
        np.testing.assert_array_equal(found.hard()[where], annotations[0].mask)
        # By itself the painted slice alone counts; joined, voxels beyond it do.
        np.testing.assert_array_equal(alone.weight > 0, alone.expert)
        assert (found.weight > 0).sum() > 2 * found.expert.sum()


def test_labels_are_made_again_when_the_segmenter_has_gained_and_not_before(
    make_maker: MakeMaker,
) -> None:
    maker = make_maker()
    federation = maker.plan.federation
    # It gains 0.125 at least, in binary fractions so that nothing is rounded.
    for number, dice, made, wanted in (
        (1, 0.5, 3, (1, 0.5)),
        (2, 0.5, 0, (1, 0.5)),
        (3, 0.5625, 0, (1, 0.5)),
        (4, 0.625, 3, (4, 0.625)),
        (5, 0.6875, 0, (4, 0.625)),
        (6, 0.25, 0, (4, 0.625)),
        (7, 0.75, 3, (7, 0.75)),
    ):
        assert join(maker, number, dice) == made
        assert scores(maker) == {(federation, *wanted)}


def test_the_same_segmenter_adds_nothing_to_its_own_labels(make_maker: MakeMaker) -> None:
    maker = make_maker()
    names = ids_of(maker.store)
    # An empty slice leaves the network's answer: there must be one that shows the organ.
    assert any(one.mask.any() for name in names for one in latest_annotations(maker.store, name))
    join(maker, 1, 0.5)
    first = [newest(maker, name) for name in names]
    assert join(maker, 2, 0.75) == 3
    for before, name in zip(first, names, strict=True):
        again = newest(maker, name)
        np.testing.assert_array_equal(before.soft, again.soft)
        np.testing.assert_array_equal(before.weight, again.weight)


def test_a_round_that_is_run_again_drops_what_an_earlier_try_made(make_maker: MakeMaker) -> None:
    maker, steady = make_maker("retried"), make_maker("steady")
    scan_id = ids_of(maker.store)[0]
    for one in (maker, steady):
        join(one, 1, 0.5)
    join(maker, 2, 0.9, seed=1)
    join(maker, 3, 1.0, seed=2)
    assert scores(maker) == {(maker.plan.federation, 2, 0.9)}
    for number, dice, wanted in ((2, 0.5, (1, 0.5)), (3, 0.75, (3, 0.75))):
        assert join(maker, number, dice) == join(steady, number, dice)
        assert scores(maker) == scores(steady) == {(maker.plan.federation, *wanted)}
    np.testing.assert_array_equal(newest(maker, scan_id).soft, newest(steady, scan_id).soft)
    # The first round again, and nothing is known of its model: the painted slices alone are left.
    assert join(maker, 1, None) == 0
    assert scores(maker) == {(maker.plan.federation, 0, 0.0)}


def test_another_federations_labels_do_not_count(
    make_maker: MakeMaker, make_plan: MakePlan
) -> None:
    maker = make_maker()
    join(maker, 1, 0.9)
    other = replace(maker, plan=maker.plan.model_copy(update={"name": "other"}))
    spread_new(other, ids_of(maker.store))
    assert scores(other) == {(other.plan.federation, 0, 0.0)}
    assert join(other, 1, 0.5) == 3, "it need not be better than another federation's"
    assert scores(other) == {(other.plan.federation, 1, 0.5)}
    assert scores(maker) == {(maker.plan.federation, 1, 0.9)}
    # And it drops none of theirs.
    join(other, 1, None)
    assert scores(maker) == {(maker.plan.federation, 1, 0.9)}


def test_a_scan_that_is_repainted_is_joined_anew_without_a_gain(make_maker: MakeMaker) -> None:
    maker = make_maker()
    scan_id, other, _ = ids_of(maker.store)
    join(maker, 1, 0.75)
    repaint(maker, scan_id)
    spread_new(maker, ids_of(maker.store))
    made = find_label_map(maker.store, scan_id, maker.plan.federation)
    assert made is not None
    assert made.round == 0
    assert join(maker, 2, 0.75) == 1
    (annotation,) = latest_annotations(maker.store, scan_id)
    found = newest(maker, scan_id).hard()[annotation.ref.selection]
    np.testing.assert_array_equal(found, annotation.mask)
    untouched = find_label_map(maker.store, other, maker.plan.federation)
    assert untouched is not None
    assert untouched.round == 1


def test_a_scan_of_too_few_slices_is_not_joined(
    make_maker: MakeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = make_maker()
    monkeypatch.setattr("client.propagation.spread_labels.FEWEST_SLICES", 17)  # the scans have 16
    assert join(maker, 1, 1.0) == 0
    assert scores(maker) == {(maker.plan.federation, 0, 0.0)}


def test_only_the_scans_that_are_asked_for_are_joined(make_maker: MakeMaker) -> None:
    maker = make_maker()
    asked, *others = ids_of(maker.store)
    held_back = {label.name: 0.9 for label in maker.plan.labels}
    assert join_segmenter(maker, segmenter_of(maker.plan), [asked], 1, held_back) == 1
    for scan_id in others:
        made = find_label_map(maker.store, scan_id, maker.plan.federation)
        assert made is not None
        assert made.round == 0
