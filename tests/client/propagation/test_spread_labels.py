"""Label maps from painted slices."""

import logging

import numpy as np
import pytest
import torch

from client.propagation.combine import carry_by_correspondence
from client.propagation.spread_labels import painted_labels, spread_labels
from common.networks.correspondence import build_correspondence
from common.plan import Candidate, Correspondence, Propagation
from common.scans import Geometry, LabelMap, Scan, SliceAnnotation, SliceRef

SHAPE = (10, 11, 12)
IDENTITY = tuple(tuple(row) for row in np.eye(4).tolist())
SETTINGS = Propagation(
    reach_slices=2, weight_per_slice=0.5, search_radius_voxels=1, patch_radius_voxels=1
)

ALL: tuple[Candidate, ...] = ("patches", "correspondence", "registration")
EACH = pytest.mark.parametrize("candidates", [*((one,) for one in ALL), ALL], ids="+".join)


@pytest.fixture
def scan() -> Scan:
    """A bright block on a dark ground, the same on every slice along any axis near its middle."""
    image = np.random.default_rng(0).normal(scale=0.05, size=(1, *SHAPE)).astype(np.float32)
    image[:, 2:8, 3:9, 3:10] += 3
    return Scan("scan", image, Geometry(SHAPE, IDENTITY), "MR")


def painted(axis: int, index: int, label: int, looked_for: tuple[int, ...]) -> SliceAnnotation:
    """The block's cross-section, painted as `label`; 0 paints nothing."""
    block = np.zeros(SHAPE, dtype=np.uint8)
    block[2:8, 3:9, 3:10] = label
    ref = SliceRef("scan", axis, index)
    return SliceAnnotation(ref, block[ref.selection], looked_for, "someone", 1.0)


def spread(scan: Scan, *annotations: SliceAnnotation, **changes: object) -> LabelMap:
    settings = SETTINGS.model_copy(update=changes)
    network = build_correspondence(1, Correspondence(channels=4, layers=1), 0)
    labels = spread_labels(scan, annotations, settings, network, device=torch.device("cpu"))
    np.testing.assert_allclose(labels.soft.sum(0), 1, atol=1e-5)
    assert labels.soft.shape == (1 + len(labels.classes), *scan.geometry.shape)
    assert labels.weight.min() >= 0
    assert labels.weight.max() <= 1
    assert labels.source == "propagated"
    return labels


def weights_along(labels: LabelMap, axis: int) -> list[float]:
    """The weight of each slice; every slice has one."""
    across = tuple(other for other in range(3) if other != axis)
    np.testing.assert_array_equal(labels.weight.min(across), labels.weight.max(across))
    return [float(weight) for weight in labels.weight.max(across)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_painted_slice_is_exact_and_weighs_one(scan: Scan, axis: int) -> None:
    annotation = painted(axis, 5, 2, (2,))
    labels = spread(scan, annotation)
    assert (labels.classes, labels.spread) == ((2,), (2,))
    where = annotation.ref.selection
    np.testing.assert_array_equal(labels.hard()[where], annotation.mask)
    assert set(np.unique(labels.soft[:, *where])) == {0, 1}
    assert (labels.weight[where] == 1).all()
    assert labels.expert[where].all()
    assert labels.expert.sum() == annotation.mask.size


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_weights_fall_with_distance_up_to_the_reach(scan: Scan, axis: int) -> None:
    weights = weights_along(spread(scan, painted(axis, 5, 1, (1,))), axis)
    assert weights[5] == 1
    for nearer, farther in ((5, 4), (4, 3), (5, 6), (6, 7)):
        # Half per slice, times an agreement of at most one.
        assert 0 < weights[farther] <= 0.5 * weights[nearer]
    assert all(weights[index] == 0 for index in range(SHAPE[axis]) if abs(index - 5) > 2)


def test_weights_are_powers_where_slices_agree_fully(scan: Scan) -> None:
    # Foreground everywhere is still foreground after any way there and back.
    everywhere = SliceAnnotation(
        SliceRef("scan", 2, 5), np.ones(SHAPE[:2], dtype=np.uint8), (1,), "someone", 1.0
    )
    weights = weights_along(spread(scan, everywhere), 2)
    np.testing.assert_allclose(weights[3:8], [0.25, 0.5, 1, 0.5, 0.25], rtol=1e-5)


def test_the_block_is_found_on_the_next_slice(scan: Scan) -> None:
    labels = spread(scan, painted(2, 5, 1, (1,)))
    np.testing.assert_array_equal(labels.hard()[:, :, 6], painted(2, 6, 1, (1,)).mask)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_reach_only_the_painted_slice_weighs(scan: Scan, axis: int) -> None:
    labels = spread(scan, painted(axis, 4, 1, (1,)), reach_slices=0)
    np.testing.assert_array_equal(labels.weight > 0, labels.expert)
    assert weights_along(labels, axis)[4] == 1


def test_a_slice_painted_empty_says_nothing_about_its_neighbours(scan: Scan) -> None:
    labels = spread(scan, painted(2, 5, 0, (1, 2)))
    np.testing.assert_array_equal(labels.weight > 0, labels.expert)
    assert (labels.classes, labels.spread) == ((1, 2), ())
    assert (labels.hard() == 0).all()


def test_a_class_looked_for_and_absent_is_known_on_the_slice_only(scan: Scan) -> None:
    labels = spread(scan, painted(2, 5, 1, (1, 3)))
    assert (labels.classes, labels.spread) == ((1, 3), (1,))
    assert (labels.soft[2] == 0).all()


def test_two_painted_slices_are_both_exact(scan: Scan) -> None:
    near, far = painted(2, 4, 1, (1,)), painted(2, 8, 1, (1,))
    labels = spread(scan, near, far)
    for annotation in (near, far):
        np.testing.assert_array_equal(labels.hard()[annotation.ref.selection], annotation.mask)
    weights = weights_along(labels, 2)
    assert [index for index, weight in enumerate(weights) if weight == 1] == [4, 8]
    assert [index for index, weight in enumerate(weights) if weight > 0] == list(range(2, 11))
    assert labels.expert.sum() == 2 * near.mask.size


def test_two_painted_slices_across_each_other_are_both_exact(scan: Scan) -> None:
    one, other = painted(0, 4, 1, (1,)), painted(2, 5, 1, (1,))
    labels = spread(scan, one, other)
    for annotation in (one, other):
        np.testing.assert_array_equal(labels.hard()[annotation.ref.selection], annotation.mask)
        assert (labels.weight[annotation.ref.selection] == 1).all()
    assert labels.expert.sum() == one.mask.size + other.mask.size - SHAPE[1]


def test_a_voxel_weighs_what_its_most_trusted_slice_says(scan: Scan) -> None:
    alone = weights_along(spread(scan, painted(2, 4, 1, (1,))), 2)
    both = weights_along(spread(scan, painted(2, 4, 1, (1,)), painted(2, 9, 1, (1,))), 2)
    assert both[:7] == alone[:7]


def test_a_class_painted_on_some_slices_only_is_not_spread(scan: Scan) -> None:
    labels = spread(scan, painted(2, 4, 1, (1, 2)), painted(2, 8, 2, (1, 2)))
    assert labels.spread == ()
    assert (labels.hard()[4:6, 5:7, 4] == 1).all()
    assert (labels.hard()[4:6, 5:7, 8] == 2).all()


def test_an_empty_slice_takes_nothing_from_the_spread_of_another(scan: Scan) -> None:
    labels = spread(scan, painted(2, 5, 1, (1,)), painted(2, 11, 0, (1,)))
    assert labels.spread == (1,)
    assert weights_along(labels, 2)[10] == 0
    assert weights_along(labels, 2)[11] == 1


@pytest.mark.parametrize("beyond", [9, 3], ids=["after", "before"])
def test_no_class_comes_back_beyond_a_slice_that_shows_none(scan: Scan, beyond: int) -> None:
    # The block goes on through all slices of this axis; whoever looked there did not think so.
    alone = spread(scan, painted(2, 6, 1, (1,)), reach_slices=20)
    labels = spread(scan, painted(2, 6, 1, (1,)), painted(2, beyond, 0, (1,)), reach_slices=20)
    further = slice(beyond + 1, None) if beyond > 6 else slice(0, beyond)
    assert alone.soft[1][..., further].any()
    assert alone.weight[..., further].any()
    np.testing.assert_array_equal(labels.soft[1][..., further], 0)
    np.testing.assert_array_equal(labels.weight[..., further], 0)
    between = slice(7, beyond) if beyond > 6 else slice(beyond + 1, 6)
    np.testing.assert_array_equal(labels.weight[..., between], alone.weight[..., between])
    np.testing.assert_allclose(labels.soft[..., between], alone.soft[..., between], atol=1e-4)


def test_a_slice_on_which_a_class_was_not_looked_for_does_not_end_it(scan: Scan) -> None:
    both, other = painted(2, 6, 1, (1, 2)), painted(2, 9, 2, (2,))
    np.testing.assert_array_equal(
        spread(scan, both, other, reach_slices=20).soft[1][..., 10:],
        spread(scan, both, reach_slices=20).soft[1][..., 10:],
    )


def test_what_was_not_looked_for_on_a_slice_is_unknown_there(scan: Scan) -> None:
    whole, part = painted(2, 5, 1, (1, 2)), painted(2, 8, 1, (1,))
    labels = spread(scan, whole, part)
    shown = part.mask == 1
    assert labels.classes == (1, 2)
    np.testing.assert_array_equal(labels.expert[..., 8], shown)
    np.testing.assert_array_equal(labels.weight[..., 8] == 1, shown)
    np.testing.assert_array_equal(labels.hard()[..., 8][shown], 1)
    assert labels.expert[..., 5].all()
    assert weights_along(spread(scan, whole), 2)[7] == labels.weight[..., 7].max()


def test_the_scan_is_left_as_it_was(scan: Scan) -> None:
    kept = scan.image.copy()
    spread(scan, painted(1, 5, 1, (1,)))
    np.testing.assert_array_equal(scan.image, kept)


# Candidates -------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_painted_slice_is_exact_with_every_candidate(
    scan: Scan, candidates: tuple[Candidate, ...], axis: int
) -> None:
    annotation = painted(axis, 5, 2, (1, 2))
    labels = spread(scan, annotation, candidates=candidates)
    where = annotation.ref.selection
    np.testing.assert_array_equal(labels.hard()[where], annotation.mask)
    assert set(np.unique(labels.soft[:, *where])) == {0, 1}
    assert weights_along(labels, axis)[5] == 1
    # The block goes on beyond the painted slice, and half of it is found again at least.
    found = labels.hard()[SliceRef("scan", axis, 6).selection] == 2
    assert (found & (annotation.mask == 2)).sum() > 0.5 * (annotation.mask == 2).sum()


@EACH
def test_a_slice_painted_empty_leaves_background_with_every_candidate(
    scan: Scan, candidates: tuple[Candidate, ...]
) -> None:
    labels = spread(scan, painted(2, 5, 0, (1, 2)), candidates=candidates)
    np.testing.assert_array_equal(labels.weight > 0, labels.expert)
    assert (labels.soft[0] == 1).all()
    assert (labels.soft[1:] == 0).all()


def test_the_given_network_is_the_one_that_votes(scan: Scan) -> None:
    annotation, settings = painted(2, 5, 1, (1,)), Propagation(candidates=("correspondence",))
    networks = [build_correspondence(1, Correspondence(channels=4), seed) for seed in (0, 1)]
    one, other = (
        spread_labels(scan, [annotation], settings, network, device=torch.device("cpu"))
        for network in networks
    )
    assert (one.soft != other.soft).any()
    stack = torch.from_numpy(np.moveaxis(scan.image, 3, 1).copy())
    mask = torch.from_numpy(annotation.mask)
    votes = carry_by_correspondence(
        stack, torch.stack([mask == 0, mask == 1]).float(), 5, settings, networks[0]
    )
    next_slice = torch.stack(votes).mean(0)[1, 6].numpy()
    np.testing.assert_allclose(one.soft[1, :, :, 6], next_slice, atol=1e-5)


# Scans of few slices ----------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scan_of_few_slices_is_used_with_its_painted_slice_alone(
    caplog: pytest.LogCaptureFixture, candidates: tuple[Candidate, ...], depth: int, axis: int
) -> None:
    shape = [8, 9, 10]
    shape[axis] = depth
    i, j, k = shape
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    scan = Scan("flat", image, Geometry((i, j, k), IDENTITY), "MR")
    mask = np.zeros([n for place, n in enumerate(shape) if place != axis], dtype=np.uint8)
    mask[2:6, 3:7] = 1
    annotation = SliceAnnotation(SliceRef("flat", axis, depth - 1), mask, (1,), "someone", 1.0)
    with caplog.at_level(logging.WARNING):
        labels = spread(scan, annotation, candidates=candidates, reach_slices=5)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"scan flat has {depth} slices along the plane, expected at least 3: only its painted "
        "slices are used"
    )
    np.testing.assert_array_equal(labels.weight > 0, labels.expert)
    np.testing.assert_array_equal(labels.hard()[annotation.ref.selection], mask)
    assert labels.soft[1].sum() == mask.sum()


def test_three_slices_are_enough(caplog: pytest.LogCaptureFixture) -> None:
    shape = (9, 8, 3)
    image = np.zeros((1, *shape), dtype=np.float32)
    scan = Scan("thin", image, Geometry(shape, IDENTITY), "MR")
    mask = np.ones((9, 8), dtype=np.uint8)
    annotation = SliceAnnotation(SliceRef("thin", 2, 1), mask, (1,), "someone", 1.0)
    labels = spread(scan, annotation)
    assert weights_along(labels, 2) == pytest.approx([0.5, 1, 0.5])
    assert not caplog.records


def test_a_scan_painted_throughout_is_what_was_painted(caplog: pytest.LogCaptureFixture) -> None:
    shape = (6, 7, 4)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    scan = Scan("full", image, Geometry(shape, IDENTITY), "MR")
    truth = np.random.default_rng(1).integers(0, 2, size=shape).astype(np.uint8)
    annotations = [
        SliceAnnotation(SliceRef("full", 2, index), truth[..., index], (1,), "someone", 1.0)
        for index in range(4)
    ]
    labels = spread(scan, *annotations)
    np.testing.assert_array_equal(labels.hard(), truth)
    assert labels.expert.all()
    assert (labels.weight == 1).all()
    assert not caplog.records


# Painted slices alone ---------------------------------------------------------------------------


def test_painted_labels_know_the_painted_slices_and_nothing_else() -> None:
    organ, empty = painted(2, 5, 1, (1, 2)), painted(2, 9, 0, (1, 2))
    labels = painted_labels(SHAPE, [organ, empty])
    assert (labels.classes, labels.spread) == ((1, 2), (1,))
    np.testing.assert_array_equal(labels.weight > 0, labels.expert)
    assert labels.expert.sum() == organ.mask.size + empty.mask.size
    np.testing.assert_array_equal(labels.hard()[:, :, 5], organ.mask)
    assert labels.soft[1:].sum() == (organ.mask > 0).sum()
    np.testing.assert_array_equal(labels.soft.sum(0), np.ones(SHAPE))


def test_without_reach_spread_and_painted_labels_count_the_same(scan: Scan) -> None:
    annotation = painted(0, 4, 1, (1,))
    spread_, alone = spread(scan, annotation, reach_slices=0), painted_labels(SHAPE, [annotation])
    np.testing.assert_array_equal(spread_.weight, alone.weight)
    np.testing.assert_array_equal(spread_.expert, alone.expert)
    np.testing.assert_array_equal(spread_.soft[:, alone.expert], alone.soft[:, alone.expert])
