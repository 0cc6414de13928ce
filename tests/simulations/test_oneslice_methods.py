"""OneSlice's own rows of the comparison."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.propagation.fuse import fuse
from client.propagation.spread_labels import spread_labels
from common.plan import Propagation
from common.random_streams import generator
from common.scans import Geometry, Scan, SliceAnnotation, SliceRef
from simulations.oneslice_methods import (
    numbered,
    prepare_fused,
    prepare_oneslice,
    prepare_segmenter_alone,
)
from simulations.phantoms import draw_phantom
from simulations.propagator import Propagator, TrainingSet

SHAPE = (12, 12, 12)
IDENTITY = tuple(tuple(row) for row in np.eye(4).tolist())


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same bits however many cores there are; and everything is learned in two parts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("simulations.oneslice_methods.PARTS", 2)
    monkeypatch.setattr("simulations.pooled_training.PARTS", 2)
    yield
    torch.set_num_threads(before)


def phantom(number: int) -> tuple[Scan, SliceAnnotation]:
    """A scan and its middle slice; the data set calls its structures 3 and 8."""
    image, label = draw_phantom(SHAPE, 0, generator(0, "phantom", number))
    normal = ((image - image.mean()) / image.std()).astype(np.float32)
    scan = Scan(f"phantom-{number}", normal[None], Geometry(SHAPE, IDENTITY), "MR")
    values = np.array([0, 3, 8], dtype=np.uint8)[label]
    ref = SliceRef(scan.scan_id, 2, 6)
    return scan, SliceAnnotation(ref, values[:, :, 6], (3, 8), "truth", 0.0)


def training_set(count: int, *, scored_too: bool, seed: int = 0) -> TrainingSet:
    scans, annotations = zip(*(phantom(number) for number in range(count)), strict=True)
    return TrainingSet(scans, annotations, scored_too, axis=2, seconds=1, steps=4, seed=seed)


def with_slice(training: TrainingSet, place: int, mask: np.ndarray) -> TrainingSet:
    """The same, another mask on the painted slice of one scan."""
    annotations = list(training.annotations)
    annotations[place] = replace(annotations[place], mask=mask)
    return replace(training, annotations=tuple(annotations))


def test_labels_are_numbered_for_the_networks() -> None:
    mask = np.array([[0, 3], [8, 3]], dtype=np.uint8)
    annotation = SliceAnnotation(SliceRef("scan", 2, 1), mask, (3, 8), "truth", 0.0)
    renamed = numbered(annotation)
    assert renamed.mask.tolist() == [[0, 1], [2, 1]]
    assert renamed.looked_for == (1, 2)
    assert renamed.ref == annotation.ref
    assert annotation.mask.tolist() == [[0, 3], [8, 3]]


PREPARE = pytest.mark.parametrize(
    "prepare",
    [
        prepare_oneslice("patches"),
        prepare_oneslice("patches", "correspondence", "registration"),
        prepare_fused("patches"),
        prepare_segmenter_alone,
    ],
    ids=["patches", "all", "fused", "segmenter"],
)


@PREPARE
def test_a_row_gives_the_data_sets_own_labels_and_repeats(prepare: object) -> None:
    assert callable(prepare)
    training = training_set(2, scored_too=True)
    scan, annotation = training.scans[0], training.annotations[0]
    first, again = (prepare(training)(scan, annotation) for _ in range(2))
    assert first.classes == (3, 8)
    assert set(np.unique(first.hard())) <= {0, 3, 8}
    assert first.soft.shape == (3, *SHAPE)
    np.testing.assert_array_equal(first.soft, again.soft)


def test_the_painted_slice_is_exact_unless_the_segmenter_is_alone() -> None:
    training = training_set(2, scored_too=True)
    scan, annotation = training.scans[0], training.annotations[0]
    for prepare in (prepare_oneslice("patches", "registration"), prepare_fused("patches")):
        hard = prepare(training)(scan, annotation).hard()
        np.testing.assert_array_equal(hard[annotation.ref.selection], annotation.mask)


def test_the_fused_row_is_the_product_of_the_two_others() -> None:
    training = training_set(2, scored_too=False)
    scan, annotation = phantom(9)
    predicted = prepare_segmenter_alone(training)(scan, annotation).soft
    settings, own = Propagation(candidates=("patches",)), [numbered(annotation)]
    spread = spread_labels(scan, own, settings, device=torch.device("cpu"))
    found = prepare_fused("patches")(training)(scan, annotation)
    np.testing.assert_allclose(found.soft, fuse(spread, own, predicted, settings).soft, atol=1e-6)


def test_the_correspondence_learns_from_other_seeds_otherwise() -> None:
    scan, annotation = phantom(0)
    first, other = (
        prepare_oneslice("correspondence")(training_set(2, scored_too=True, seed=seed))(
            scan, annotation
        )
        for seed in (0, 1)
    )
    assert (first.soft != other.soft).any()


def test_no_scan_is_labelled_by_a_segmenter_that_saw_a_slice_of_it() -> None:
    # Four scans that are scored and learned from. If the painted slice of one were empty instead,
    # its own segmenter would not know; those of the other fold would.
    training = training_set(4, scored_too=True)
    for place in range(4):
        empty = np.zeros_like(training.annotations[place].mask)
        changed = with_slice(training, place, empty)
        before, after = (
            _all_of(prepare_segmenter_alone(one), training) for one in (training, changed)
        )
        same = [bool((one == other).all()) for one, other in zip(before, after, strict=True)]
        assert same[place], "its own slice had a part in its labels"
        # The folds are every second scan: two know of it, two do not.
        assert same == [number % 2 == place % 2 for number in range(4)]


def _all_of(propagate: Propagator, training: TrainingSet) -> list[np.ndarray]:
    return [
        propagate(scan, annotation).soft
        for scan, annotation in zip(training.scans, training.annotations, strict=True)
    ]


def test_scans_that_are_not_scored_are_all_learned_from() -> None:
    training = training_set(2, scored_too=False)
    unseen = phantom(9)
    for place in range(2):
        changed = with_slice(training, place, np.zeros_like(training.annotations[place].mask))
        before, after = (prepare_segmenter_alone(one)(*unseen).soft for one in (training, changed))
        assert (before != after).any()
