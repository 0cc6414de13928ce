import numpy as np
import pytest
from small_scenario import small_scenario

from client.annotation.annotator import asked_slices, paint_asked_slices
from client.store.annotations import latest_annotations
from client.store.scans import list_scans, read_reference
from client.store.store import Store
from simulations.annotator import SimulatedAnnotator, jitter_boundaries
from simulations.progress import no_progress
from simulations.run import prepare
from simulations.scenario import AnnotatorSettings

SCENARIO = small_scenario()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("sites")
    return prepare(SCENARIO, None, folder, no_progress).stores["hospital-a"]


def test_every_scan_has_one_slice_and_it_is_the_truth(store: Store) -> None:
    for scan in list_scans(store):
        (annotation,) = latest_annotations(store, scan.scan_id)
        truth = read_reference(store, scan.scan_id, SCENARIO.plan)
        np.testing.assert_array_equal(annotation.mask, truth[annotation.ref.selection])
        assert annotation.ref.axis == 0


def test_nothing_is_asked_twice(store: Store) -> None:
    annotator = SimulatedAnnotator(SCENARIO.plan, SCENARIO.annotator)
    for task in SCENARIO.plan.tasks:
        assert asked_slices(store, SCENARIO.plan, task) == []
        assert paint_asked_slices(store, SCENARIO.plan, task, annotator) == 0


def test_classes_not_looked_for_are_not_painted(store: Store) -> None:
    annotator = SimulatedAnnotator(SCENARIO.plan, SCENARIO.annotator)
    masks = [
        annotator.paint(store, latest_annotations(store, scan.scan_id)[0].ref, (2,)).mask
        for scan in list_scans(store)
    ]
    assert {value for mask in masks for value in np.unique(mask).tolist()} == {0, 2}


def test_in_a_case_of_few_classes_the_others_stay_unknown(store: Store) -> None:
    one, *others = list_scans(store)
    few = {(one.task, one.case): {"body"}, ("another", others[0].case): {"body"}}
    annotator = SimulatedAnnotator(SCENARIO.plan, SCENARIO.annotator, few)
    (before,) = latest_annotations(store, one.scan_id)
    painted = annotator.paint(store, before.ref, (1, 2))
    assert painted.looked_for == (2,)
    np.testing.assert_array_equal(painted.mask, np.where(before.mask == 2, 2, 0))
    (elsewhere,) = latest_annotations(store, others[0].scan_id)
    assert annotator.paint(store, elsewhere.ref, (1, 2)).looked_for == (1, 2)


def test_a_second_annotator_draws_other_boundaries(store: Store) -> None:
    settings = AnnotatorSettings(kind="jittered", jitter_voxels=1.5)
    hand = SimulatedAnnotator(SCENARIO.plan, settings)
    first = [latest_annotations(store, scan.scan_id)[0] for scan in list_scans(store)]
    painted = [one for one in first if one.mask.sum() > 60]
    seconds = [hand.paint(store, one.ref, one.looked_for) for one in painted]
    again = [hand.paint(store, one.ref, one.looked_for) for one in painted]
    assert painted
    for one, second, same in zip(painted, seconds, again, strict=True):
        np.testing.assert_array_equal(second.mask, same.mask)
        assert (second.mask != one.mask).any()
        overlap = 2 * ((second.mask > 0) & (one.mask > 0)).sum()
        assert overlap / ((second.mask > 0).sum() + (one.mask > 0).sum()) > 0.6


def test_no_jitter_changes_nothing() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[5:12, 6:15] = 1
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(jitter_boundaries(mask, 0.0, rng), mask)
