"""Laws of the patches that are cut from labelled scans."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.learning.augmentation import Change, draw_change
from client.learning.examples import Example, Patch, cut_patch, draw_centre
from common.learning_settings import Augmentation
from common.scans import Geometry, LabelMap, Scan

MakeChange = Callable[..., Change]
MakeExample = Callable[..., Example]

MILD = Augmentation()
SIZE = (8, 8, 8)


def blocks(*shape: int) -> np.ndarray:
    """Two organs side by side, away from the border."""
    hard = np.zeros(shape, dtype=np.uint8)
    inner = tuple(slice(n // 4, n - n // 4) for n in shape)
    hard[inner] = 1
    hard[inner[0], inner[1], shape[2] // 2 : inner[2].stop] = 2
    return hard


def random_example(shape: tuple[int, int, int], seed: int) -> Example:
    """A scan with labels on one slice and its neighbours, as they come from spreading."""
    rng = np.random.default_rng(seed)
    index = int(rng.integers(shape[2]))
    weight = np.zeros(shape, dtype=np.float32)
    weight[:, :, max(index - 1, 0) : index + 2] = 0.5
    weight[:, :, index] = 1
    expert = weight == 1
    hard = rng.integers(0, 3, size=shape)
    soft = np.stack([hard == value for value in range(3)]).astype(np.float32)
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    affine = tuple(tuple(row) for row in np.eye(4).tolist())
    labels = LabelMap((1, 2), soft, weight, expert, (1,), "propagated")
    return Example(Scan("scan", image, Geometry(shape, affine), "MR"), labels, 4)


def cut_middle(example: Example, size: tuple[int, int, int], change: Change) -> Patch:
    centre = [(n - 1) / 2 for n in example.labels.weight.shape]
    return cut_patch(example, centre, size, change, None)


def check_laws(patch: Patch, size: tuple[int, int, int], num_classes: int) -> None:
    assert patch.image.shape[1:] == size
    assert patch.target.shape == patch.known.shape == (num_classes, *size)
    assert patch.weight.shape == size
    assert ((patch.weight >= 0) & (patch.weight <= 1)).all()
    assert (patch.target >= 0).all()
    assert torch.isfinite(patch.image).all()
    assert patch.known[0].all()
    sums = patch.target.sum(0)[patch.weight > 1e-4]
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_without_change_the_patch_is_the_region(
    make_example: MakeExample, make_change: MakeChange
) -> None:
    hard = blocks(12, 10, 14)
    example = make_example(hard, classes=(1, 2))
    patch = cut_patch(example, (5.5, 4.5, 6.5), (8, 6, 10), make_change(), None)
    wanted = torch.from_numpy(hard[2:10, 2:8, 2:12])
    torch.testing.assert_close(patch.image[0], wanted.float())
    assert torch.equal(patch.target.argmax(0), wanted.long())
    torch.testing.assert_close(patch.weight, torch.ones(8, 6, 10))
    assert patch.known.all()


@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(*[st.sampled_from([4, 8, 12])] * 3),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_laws_hold_for_every_volume_size_and_draw(
    seed: int, size: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    rng, example = np.random.default_rng(seed), random_example(shape, seed)
    change = draw_change(MILD, rng)
    centre = draw_centre(example, size, None, rng)
    check_laws(cut_patch(example, centre, size, change, None), size, 4)


@given(
    seed=st.integers(0, 2**32),
    training_mm=st.tuples(*[st.floats(0.5, 2.5)] * 3),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_laws_hold_at_another_spacing(
    seed: int, training_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    rng, example = np.random.default_rng(seed), random_example(shape, seed)
    change = draw_change(MILD, rng)
    centre = draw_centre(example, SIZE, training_mm, rng)
    check_laws(cut_patch(example, centre, SIZE, change, training_mm), SIZE, 4)


@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    size=st.tuples(*[st.sampled_from([4, 6, 8, 16])] * 3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_an_unchanged_patch_always_holds_a_labelled_voxel(
    shape: tuple[int, int, int], size: tuple[int, int, int], seed: int
) -> None:
    rng, example = np.random.default_rng(seed), random_example(shape, seed)
    still = Change((0, 0, 0), (1, 1, 1), gamma=1, gain=1, noise=0, noise_seed=0)
    patch = cut_patch(example, draw_centre(example, size, None, rng), size, still, None)
    assert (patch.weight > 0).any()


@pytest.mark.parametrize("training_mm", [(0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (2.0, 1.5, 1.0)])
def test_nearly_every_changed_patch_holds_a_labelled_voxel(
    training_mm: tuple[float, float, float],
) -> None:
    # A turn or a growth can move the drawn voxel just over the patch's edge.
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        example = random_example((24, 24, 24), seed)
        change = draw_change(MILD, rng)
        centre = draw_centre(example, SIZE, training_mm, rng)
        held += bool((cut_patch(example, centre, SIZE, change, training_mm).weight > 0).any())
    assert held >= 57


@given(
    length=st.integers(1, 40),
    size=st.sampled_from([8, 12, 16]),
    where=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_a_patch_hangs_over_the_edge_by_two_voxels_at_most(
    length: int, size: int, where: float, seed: int
) -> None:
    hard = np.ones((length, 3, 3), dtype=np.uint8)
    weight = np.zeros(hard.shape, dtype=np.float32)
    weight[int(where * length)] = 1
    affine = tuple(tuple(row) for row in np.eye(4).tolist())
    labels = LabelMap(
        (1,), np.stack([1 - hard, hard]).astype(np.float32), weight, weight > 1, (1,), "expert"
    )
    scan = Scan("scan", hard[None].astype(np.float32), Geometry((length, 3, 3), affine), "MR")
    rng = np.random.default_rng(seed)
    centre = draw_centre(Example(scan, labels, 2), (size, 8, 8), None, rng)
    if size >= length:
        assert centre[0] == (length - 1) / 2
    else:
        assert size / 2 - 2 <= centre[0] <= length - 1 - size / 2 + 2
    assert centre[1:] == (1, 1)


def test_half_of_the_patches_are_drawn_around_foreground(make_example: MakeExample) -> None:
    hard = np.zeros((64, 4, 4), dtype=np.uint8)
    hard[60] = 1
    example, rng = make_example(hard), np.random.default_rng(0)
    near = [draw_centre(example, (8, 4, 4), None, rng)[0] > 50 for _ in range(400)]
    # Half of the draws, and of the other half those whose voxel is one of the last.
    assert 0.5 < np.mean(near) < 0.7


def test_without_labels_the_patch_is_the_middle(
    make_example: MakeExample, make_change: MakeChange
) -> None:
    hard = blocks(20, 20, 20)
    example = make_example(hard, classes=(1, 2), weight=np.zeros(hard.shape, dtype=np.float32))
    centre = draw_centre(example, SIZE, None, np.random.default_rng(0))
    assert centre == (9.5, 9.5, 9.5)
    patch = cut_patch(example, centre, SIZE, make_change(), None)
    assert (patch.weight == 0).all()


def test_labels_and_image_move_together(make_example: MakeExample, make_change: MakeChange) -> None:
    # The image is the label pattern, so that it says where the organ went.
    hard = (blocks(24, 22, 20) > 0).astype(np.uint8)
    example = make_example(hard)
    for degrees in ((20.0, 0.0, 0.0), (5.0, -15.0, 12.0)):
        for scales in ((1.0, 1.0, 1.0), (0.8, 1.2, 1.1)):
            change = make_change(degrees=degrees, scales=scales)
            patch = cut_patch(example, (9.0, 12.0, 10.0), (12, 12, 12), change, None)
            sure = (patch.image[0] - 0.5).abs() > 1e-3
            shown, wanted = patch.image[0] > 0.5, patch.target.argmax(0) == 1
            assert torch.equal(shown[sure], wanted[sure])
            assert 0.1 < wanted.float().mean() < 0.9


def test_unknown_voxels_weigh_nothing_and_never_leak_in(
    make_example: MakeExample, make_change: MakeChange
) -> None:
    # Half of the volume is known background; the other half holds labels that nobody trusts.
    hard = np.zeros((16, 16, 16), dtype=np.uint8)
    hard[8:] = 1
    weight = np.zeros(hard.shape, dtype=np.float32)
    weight[:8] = 1
    example = make_example(hard, weight=weight)
    still = cut_middle(example, SIZE, make_change())
    assert torch.equal(still.weight > 0, torch.from_numpy(weight[4:12, 4:12, 4:12] > 0))
    turned = cut_middle(example, SIZE, make_change(degrees=(10.0, 30.0, 20.0)))
    assert (turned.target[1] == 0).all()
    assert 0.3 < turned.weight.mean() < 0.7


def test_weights_are_trust_and_outside_of_the_volume_nothing(
    make_example: MakeExample, make_change: MakeChange
) -> None:
    hard = np.ones((4, 12, 12), dtype=np.uint8)
    example = make_example(hard, weight=np.full(hard.shape, 0.25, dtype=np.float32))
    patch = cut_middle(example, SIZE, make_change())
    torch.testing.assert_close(patch.weight[2:6], torch.full((4, 8, 8), 0.25))
    assert (patch.weight[[0, 1, 6, 7]] == 0).all()
    # The image goes on outwards as it was at its edge.
    assert (patch.image == 1).all()
    torch.testing.assert_close(patch.target[1, 2:6], torch.ones(4, 8, 8))


def test_all_classes_are_known_where_a_person_painted_and_the_spread_ones_elsewhere(
    make_example: MakeExample, make_change: MakeChange
) -> None:
    hard = blocks(16, 16, 16)
    expert = np.zeros(hard.shape, dtype=bool)
    expert[:, :, 8] = True
    weight = np.full(hard.shape, 0.5, dtype=np.float32)
    weight[expert] = 1
    example = make_example(
        hard, classes=(1, 2), weight=weight, expert=expert, spread=(1,), num_classes=4
    )
    patch = cut_middle(example, SIZE, make_change())
    # The patch starts at voxel 4, so the painted slice is its fifth. Class 3 is known nowhere.
    assert patch.painted[..., 4].all()
    assert not patch.painted[..., [0, 1, 2, 3, 5, 6, 7]].any()
    on_slice, beside = patch.known[..., 4], patch.known[..., [0, 1, 2, 3, 5, 6, 7]]
    assert on_slice[[0, 1, 2]].all()
    assert not on_slice[3].any()
    assert beside[[0, 1]].all()
    assert not beside[[2, 3]].any()


def test_between_a_painted_slice_and_nothing_all_that_is_known_was_painted(
    make_example: MakeExample, make_change: MakeChange
) -> None:
    hard = blocks(16, 16, 16)
    expert = np.zeros(hard.shape, dtype=bool)
    expert[:, :, 8] = True
    example = make_example(
        hard, classes=(1, 2), weight=expert.astype(np.float32), expert=expert, spread=()
    )
    patch = cut_middle(example, SIZE, make_change(degrees=(15.0, 10.0, 0.0)))
    assert patch.known[:, patch.weight > 0].all()
    assert torch.equal(patch.painted, patch.weight > 0)
    # Turned, its voxels lie between those of the grid; that makes nobody doubt what was painted.
    assert (patch.weight[patch.painted] < 0.9).any()


@pytest.mark.parametrize("training_mm", [(2.0, 2.0, 2.0), (1.0, 2.0, 0.5)])
def test_training_at_another_spacing_shows_as_many_millimetres(
    make_example: MakeExample, make_change: MakeChange, training_mm: tuple[float, float, float]
) -> None:
    # A block of 16 mm in a volume of 1 mm voxels covers 16 / spacing of the training voxels.
    hard = np.zeros((48, 48, 48), dtype=np.uint8)
    hard[16:32, 16:32, 16:32] = 1
    size = (16, 16, 40)
    patch = cut_patch(make_example(hard), (23.5, 23.5, 23.5), size, make_change(), training_mm)
    assert patch.image.shape == (1, *size)
    line = [patch.target[1, :, 8, 20], patch.target[1, 8, :, 20], patch.target[1, 8, 8, :]]
    lengths = [int((values > 0.5).sum()) for values in line]
    assert lengths == [round(min(16 / mm, n)) for mm, n in zip(training_mm, size, strict=True)]


def test_a_scan_of_the_training_spacing_is_not_resampled(
    make_example: MakeExample, make_change: MakeChange
) -> None:
    example = make_example(blocks(12, 12, 12), classes=(1, 2), spacing_mm=(1.5, 1.0, 2.0))
    centre = (5.5, 5.5, 5.5)
    own = cut_patch(example, centre, SIZE, make_change(), None)
    same = cut_patch(example, centre, SIZE, make_change(), (1.5, 1.0, 2.0))
    torch.testing.assert_close(own.image, same.image)
    torch.testing.assert_close(own.target, same.target)


def test_the_example_is_left_as_it_was(make_change: MakeChange) -> None:
    example = random_example((12, 12, 12), 0)
    arrays = (example.scan.image, example.labels.soft, example.labels.weight, example.labels.expert)
    kept = [array.copy() for array in arrays]
    change = make_change(degrees=(5.0, 5.0, 5.0), gain=2.0, noise=1.0)
    patch = cut_patch(
        example, draw_centre(example, SIZE, None, np.random.default_rng(0)), SIZE, change, None
    )
    patch.image.zero_()
    patch.target.zero_()
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_half_floats_read_from_the_disk_will_do(make_change: MakeChange) -> None:
    example = random_example((12, 12, 12), 0)
    labels = example.labels
    halves = LabelMap(
        labels.classes,
        labels.soft.astype(np.float16),
        labels.weight.astype(np.float16),
        labels.expert,
        labels.spread,
        labels.source,
    )
    for array in (example.scan.image, halves.soft, halves.weight, halves.expert):
        array.flags.writeable = False
    still = make_change()
    own = cut_middle(example, SIZE, still)
    read = cut_middle(Example(example.scan, halves, 4), SIZE, still)
    torch.testing.assert_close(own.target, read.target)
    torch.testing.assert_close(own.weight, read.weight)
    assert torch.equal(own.known, read.known)
