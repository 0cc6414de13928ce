"""Laws of pasting structures of exemplars into training patches."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.few_labels.exemplars import Exemplar, choose_exemplars
from client.few_labels.synthesis import Paste, apply_paste, draw_paste, synthesise
from client.learning.augmentation import Change
from client.learning.batches import Batch, stack
from client.learning.examples import Example, Patch
from common.learning_settings import Augmentation, Synthesis, Training
from common.plan import FederationPlan
from common.scans import Geometry, LabelMap, Scan

SIZE = (16, 16, 16)
STILL = Augmentation(rotation_degrees=(0, 0, 0), scale=0, log_gamma=0, gain=0, noise=0)
TRAINING = Training(patch_size=SIZE, augmentation=STILL)
AS_IT_IS = Synthesis(
    share=1,
    rotation_degrees=0,
    scale=0,
    elastic_voxels=0,
    gain=0,
    blur_voxels=0,
    feather_voxels=0,
    negative_share=0,
)
UNCHANGED = Change((0, 0, 0), (1, 1, 1), gamma=1, gain=1, noise=0, noise_seed=0)
CENTRE = (7.5, 7.5, 7.5)


def scan_of(
    hard: np.ndarray, weight: np.ndarray | None = None, *, expert: np.ndarray | None = None
) -> Example:
    """Its image is 5 times its labels, 0 to 2; everything is known unless there is a weight."""
    affine = tuple(tuple(row) for row in np.eye(4).tolist())
    labels = LabelMap(
        classes=(1, 2),
        soft=np.stack([hard == index for index in range(3)]).astype(np.float32),
        weight=np.ones(hard.shape, dtype=np.float32) if weight is None else weight,
        expert=np.zeros(hard.shape, dtype=bool) if expert is None else expert,
        spread=(1, 2),
        source="propagated",
    )
    shape = (hard.shape[0], hard.shape[1], hard.shape[2])
    image = 5 * hard[None].astype(np.float32)
    return Example(Scan("scan", image, Geometry(shape, affine), "MR"), labels, 3)


def two_blocks() -> np.ndarray:
    """A large structure, and a small one beside it."""
    hard = np.zeros(SIZE, dtype=np.uint8)
    hard[4:12, 4:9, 4:12] = 1
    hard[4:12, 9:12, 6:10] = 2
    return hard


def exemplar_of(hard: np.ndarray, weight: np.ndarray | None = None) -> Exemplar:
    return choose_exemplars([scan_of(hard, weight)], 1)[0]


def unknown_background() -> Patch:
    """All grey, and nothing known."""
    target = torch.zeros(3, *SIZE)
    target[0] = 1
    nothing = torch.zeros(SIZE)
    known = torch.ones(3, *SIZE, dtype=torch.bool)
    return Patch(torch.full((1, *SIZE), -3.0), target, nothing, nothing > 0, known)


def paste_of(**changes: object) -> Paste:
    values: dict[str, object] = {
        "exemplar": 0,
        "centre": CENTRE,
        "changes": {1: UNCHANGED, 2: UNCHANGED},
    }
    return Paste(**{**values, **changes})  # type: ignore[arg-type]


def paste(exemplar: Exemplar, settings: Synthesis = AS_IT_IS, **changes: object) -> Patch:
    return apply_paste(unknown_background(), exemplar, paste_of(**changes), settings, TRAINING)


def test_image_and_labels_are_pasted_together_and_the_rest_stays_unknown() -> None:
    hard = torch.from_numpy(two_blocks())
    result = paste(exemplar_of(two_blocks()))
    torch.testing.assert_close(result.image[0], torch.where(hard > 0, 5.0 * hard, -3.0))
    assert torch.equal(result.target.argmax(0), hard.long())
    assert torch.equal(result.weight, (hard > 0).float())


def test_what_is_known_of_the_background_stays_known() -> None:
    background = replace(unknown_background(), weight=torch.full(SIZE, 0.5))
    hard = torch.from_numpy(two_blocks())
    result = apply_paste(background, exemplar_of(two_blocks()), paste_of(), AS_IT_IS, TRAINING)
    assert torch.equal(result.weight, torch.where(hard > 0, 1.0, 0.5))
    assert torch.equal(background.weight, torch.full(SIZE, 0.5))


def test_slices_beside_a_painted_one_come_along_as_image_and_stay_unknown() -> None:
    weight = np.zeros(SIZE, dtype=np.float32)
    weight[7] = 1
    result = paste(exemplar_of(two_blocks(), weight))
    shown = (result.image[0] != -3).any(dim=(1, 2)).nonzero().flatten()
    known = (result.weight > 0).any(dim=(1, 2)).nonzero().flatten()
    assert shown.tolist() == [5, 6, 7, 8, 9]
    assert known.tolist() == [7]


def test_an_edge_is_soft_and_half_way_nothing_is_known() -> None:
    hard = np.zeros(SIZE, dtype=np.uint8)
    hard[:, :, 4:12] = 1
    # The image is the same on the structure and around it, so that only the paste shows.
    exemplar = exemplar_of(hard)
    for one in (exemplar.known, exemplar.shape):
        one.scan.image[:] = 5
    background = replace(unknown_background(), weight=torch.ones(SIZE))
    soft = AS_IT_IS.model_copy(update={"feather_voxels": 1.0})
    result = apply_paste(background, exemplar, paste_of(), soft, TRAINING)
    profile, weight = result.image[0, 8, 8], result.weight[8, 8]
    assert (profile[4:12] > 4.6).all()
    steps = profile[7:].diff()
    assert (steps <= 1e-5).all()
    assert steps.min() > -8 * 0.5  # of the eight between both images
    assert profile[15] < -2.4
    # The rim ends two voxels outside of the structure: between its last and the next voxel.
    assert weight[13:15].max() < 0.6
    assert weight[11] > 0.9


def test_the_smaller_structure_lies_on_the_larger_one() -> None:
    # With its rim the larger one would cover it, were it pasted last.
    soft = AS_IT_IS.model_copy(update={"feather_voxels": 1.0})
    hard = two_blocks()
    gains = {1: replace(UNCHANGED, gain=2.0), 2: UNCHANGED}
    result = paste(exemplar_of(hard), soft, changes=gains)
    assert result.image[0, 8, 10, 8] == pytest.approx(10, abs=0.3)
    assert (result.target.argmax(0)[torch.from_numpy(hard == 2)] == 2).all()


def test_structures_that_came_to_lie_on_each_other_are_not_pasted() -> None:
    hard = two_blocks()
    # Grown to twice its size around the patch's centre, the small one reaches into the large one.
    grown = {1: UNCHANGED, 2: replace(UNCHANGED, scales=(1.0, 3.0, 1.0))}
    moved = {1: UNCHANGED, 2: replace(UNCHANGED, degrees=(0.0, 0.0, 60.0))}
    for changes in (grown, moved):
        background = unknown_background()
        result = apply_paste(
            background, exemplar_of(hard), paste_of(changes=changes), AS_IT_IS, TRAINING
        )
        assert (result is background) == (changes is moved)


def test_a_negative_paste_shows_texture_in_the_shape_of_the_structure() -> None:
    rng, hard = np.random.default_rng(0), two_blocks()
    exemplar = exemplar_of(hard)
    image = rng.normal(size=(1, *SIZE)).astype(np.float32) + 5 * hard
    exemplar.known.scan.image[:] = image
    result = paste(exemplar, texture_seed=0)
    inside = torch.from_numpy(hard > 0)
    assert torch.equal(result.image[0] != -3, inside)
    assert (result.target.argmax(0) == 0).all()
    assert torch.equal(result.weight > 0, inside)
    # Spectrum and mean are kept, so mean and deviation of the texture are those of the patch.
    shown = result.image[0][inside]
    assert shown.std() == pytest.approx(float(image.std()), rel=0.4)
    assert float(shown.std()) > 1
    original = torch.from_numpy(image)[0][inside]
    assert abs(float(torch.corrcoef(torch.stack([shown, original]))[0, 1])) < 0.3


def batches_of(number: int) -> list[Batch]:
    return [stack([unknown_background()] * 4, [False, True] * 2) for _ in range(number)]


def plan_with(settings: Synthesis) -> FederationPlan:
    size = {"channels": [2, 2], "strides": [2]}
    names = ["large", "small"]
    return FederationPlan.model_validate(
        {
            "name": "pasting",
            "labels": [{"name": name, "index": 1 + place} for place, name in enumerate(names)],
            "tasks": [
                {
                    "name": "only",
                    "classes": names,
                    "modality": "MR",
                    "plane": "axial",
                    "rounds": 1,
                }
            ],
            "segmenter": size,
            "student": size,
            "training": TRAINING,
            "few_labels": {"synthesis": settings},
            "limits": {"hospitals": 1},
        }
    )


def pasted(batches: list[Batch], settings: Synthesis, seed: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    return list(synthesise(iter(batches), [scan_of(two_blocks())], plan_with(settings), rng))


def test_the_share_of_patches_is_pasted_into_and_the_others_stay() -> None:
    before = batches_of(60)
    after = pasted(before, AS_IT_IS.model_copy(update={"share": 0.25}))
    changed = [bool((row != -3).any()) for batch in after for row in batch.image]
    # 240 draws with chance 1/4: five standard deviations are 0.14.
    assert abs(np.mean(changed) - 0.25) < 0.14
    # What went in is left as it was.
    assert all((batch.image == -3).all() for batch in before)


def test_where_patches_came_from_is_kept() -> None:
    after = pasted(batches_of(1), AS_IT_IS)[0]
    assert after.replayed.tolist() == [False, True, False, True]


def test_without_a_share_the_batches_are_those_that_came_and_nothing_is_loaded_or_drawn() -> None:
    def scans() -> Iterator[Example]:
        raise AssertionError("loaded")
        yield

    before, rng = iter(batches_of(1)), np.random.default_rng(0)
    off = AS_IT_IS.model_copy(update={"share": 0.0})
    assert synthesise(before, scans(), plan_with(off), rng) is before
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_without_an_exemplar_the_batches_are_those_that_came() -> None:
    before, rng = iter(batches_of(1)), np.random.default_rng(0)
    nothing_painted = scan_of(np.zeros(SIZE, dtype=np.uint8))
    assert synthesise(before, [nothing_painted], plan_with(AS_IT_IS), rng) is before


def test_the_generator_decides_bit_for_bit() -> None:
    settings = Synthesis(share=0.5)
    first, second = (pasted(batches_of(3), settings) for _ in range(2))
    for one, again in zip(first, second, strict=True):
        assert torch.equal(one.image, again.image)
        assert torch.equal(one.target, again.target)
        assert torch.equal(one.weight, again.weight)
    other = pasted(batches_of(3), settings, seed=1)
    assert not all(torch.equal(a.image, b.image) for a, b in zip(other, batches_of(3), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_every_draw_gives_a_patch_to_train_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.zeros(SIZE, dtype=np.float32)
    weight[int(rng.integers(4, 12))] = 1
    exemplars, settings = [exemplar_of(two_blocks(), weight)], Synthesis(share=1)
    for _ in range(5):
        drawn = draw_paste(exemplars, settings, TRAINING, rng)
        patch = apply_paste(unknown_background(), exemplars[0], drawn, settings, TRAINING)
        assert patch.image.shape == (1, *SIZE)
        assert torch.isfinite(patch.image).all()
        assert ((patch.weight >= 0) & (patch.weight <= 1)).all()
        sums = patch.target.sum(0)[patch.weight > 1e-4]
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_its_own_surroundings_are_filled_before_the_structure_comes_back() -> None:
    hard = np.zeros(SIZE, dtype=np.uint8)
    hard[5:9, 5:9, 5:9] = 1
    shrunk = {1: replace(UNCHANGED, scales=(0.5, 0.5, 0.5)), 2: UNCHANGED}
    centre = (6.5, 6.5, 6.5)
    result = paste(exemplar_of(hard), changes=shrunk, home=UNCHANGED, centre=centre)
    # Nothing of the background that came: outside is the scan's own grey of 0.
    assert result.image.min() == pytest.approx(0, abs=1e-4)
    labels = result.target.argmax(0)
    assert labels.sum() == 8
    assert (labels[7:9, 7:9, 7:9] == 1).all()
    # Where the structure was before there is what is around it, known as background.
    assert result.image[0, 6, 6, 6] < 1
    assert result.weight[6, 6, 6] > 0.9
    assert result.weight[0, 0, 0] == 0 or result.image[0, 0, 0, 0] == 0
