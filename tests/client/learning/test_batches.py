"""Laws of mixing batches from the current task and from memory."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from client.learning.batches import Batch, draw_batches
from client.learning.examples import Example
from common.plan import FederationPlan

MakeExample = Callable[..., Example]
LOOKS = {"new1": 1.0, "new2": 2.0, "old1": 10.0, "old2": 20.0}


def plan_with(share: float, **training: object) -> FederationPlan:
    size = {"channels": [2, 2], "strides": [2]}
    off = {"rotation_degrees": [0, 0, 0], "scale": 0, "log_gamma": 0, "gain": 0, "noise": 0}
    base = {"patch_size": [4, 4, 4], "batch_size": 3, "augmentation": off}
    return FederationPlan.model_validate(
        {
            "name": "batches",
            "labels": [{"name": "organ", "index": 1}],
            "tasks": [
                {
                    "name": "only",
                    "classes": ["organ"],
                    "modality": "MR",
                    "plane": "axial",
                    "rounds": 1,
                }
            ],
            "segmenter": size,
            "student": size,
            "training": {**base, **training},
            "replay": {"share": share},
            "limits": {"hospitals": 1},
        }
    )


@pytest.fixture
def load(make_example: MakeExample) -> Callable[[str], Example]:
    """Scans of one grey value each, so that a patch tells where it comes from."""

    def make(scan_id: str) -> Example:
        example = make_example(np.ones((6, 6, 6), dtype=np.uint8))
        example.scan.image[:] = LOOKS[scan_id]
        return example

    return make


def sources(batches: list[Batch]) -> list[str]:
    name_of = {value: name for name, value in LOOKS.items()}
    values = torch.cat([batch.image for batch in batches]).mean((1, 2, 3, 4))
    return [name_of[round(float(value), 3)] for value in values]


def draw(
    load: Callable[[str], Example],
    share: float,
    current: list[str],
    remembered: list[str],
    *,
    steps: int = 20,
    seed: int = 0,
) -> list[Batch]:
    rng = np.random.default_rng(seed)
    return list(draw_batches(current, remembered, load, plan_with(share), steps=steps, rng=rng))


NEW, OLD = ["new1", "new2"], ["old1", "old2"]


@pytest.mark.parametrize(
    ("share", "current", "remembered", "wanted"),
    [
        (0.0, NEW, OLD, NEW),
        (1.0, NEW, OLD, OLD),
        (0.5, NEW, OLD, NEW + OLD),
        (1.0, NEW, [], NEW),
        (0.0, [], OLD, OLD),
    ],
)
def test_patches_come_from_where_the_share_says(
    load: Callable[[str], Example],
    share: float,
    current: list[str],
    remembered: list[str],
    wanted: list[str],
) -> None:
    batches = draw(load, share, current, remembered)
    assert set(sources(batches)) == set(wanted)
    replayed = torch.cat([batch.replayed for batch in batches]).tolist()
    assert replayed == [name in OLD for name in sources(batches)]


def test_the_share_is_kept_on_average(load: Callable[[str], Example]) -> None:
    drawn = sources(draw(load, 0.25, NEW, OLD, steps=80))
    # 240 draws with chance 1/4: five standard deviations are 0.14.
    assert abs(np.mean([name in OLD for name in drawn]) - 0.25) < 0.14
    # Within each side every scan has the same chance.
    assert 0.3 < drawn.count("new1") / (drawn.count("new1") + drawn.count("new2")) < 0.7


def test_there_are_as_many_batches_as_steps(load: Callable[[str], Example]) -> None:
    assert draw(load, 0.5, NEW, OLD, steps=0) == []
    batches = draw(load, 0.5, NEW, OLD, steps=2)
    assert len(batches) == 2
    for batch in batches:
        assert batch.image.shape == (3, 1, 4, 4, 4)
        assert batch.target.shape == batch.known.shape == (3, 2, 4, 4, 4)
        assert batch.weight.shape == (3, 4, 4, 4)


def test_the_generator_decides_bit_for_bit(make_example: MakeExample) -> None:
    image = np.random.default_rng(0).normal(size=(1, 9, 9, 9)).astype(np.float32)

    def load_noise(_: str) -> Example:
        example = make_example((image[0] > 0).astype(np.uint8))
        example.scan.image[:] = image
        return example

    plan = plan_with(0.5, augmentation={})

    def drawn(seed: int) -> list[Batch]:
        rng = np.random.default_rng(seed)
        return list(draw_batches(NEW, OLD, load_noise, plan, steps=2, rng=rng))

    for one, again in zip(drawn(1), drawn(1), strict=True):
        assert torch.equal(one.image, again.image)
        assert torch.equal(one.target, again.target)
        assert torch.equal(one.weight, again.weight)
        assert torch.equal(one.known, again.known)
    assert not torch.equal(drawn(1)[0].image, drawn(2)[0].image)


def test_patches_at_another_spacing_hold_labels(make_example: MakeExample) -> None:
    # Sixteen training voxels of 0.5 mm cover eight voxels of the scan: a centre within the patch
    # counted in scan voxels would often miss the one slice that is labelled.
    weight = np.zeros((32, 32, 32), dtype=np.float32)
    weight[:, :, 15] = 1
    example = make_example(np.ones(weight.shape, dtype=np.uint8), weight=weight)
    plan = plan_with(0, spacing_mm=(0.5, 0.5, 0.5), patch_size=[16, 16, 16])
    rng = np.random.default_rng(0)
    for batch in draw_batches(["a"], [], lambda _: example, plan, steps=10, rng=rng):
        assert (batch.weight.amax((1, 2, 3)) > 0).all()


def test_a_batch_moves_to_a_device_whole(load: Callable[[str], Example]) -> None:
    batch = draw(load, 0, NEW, [], steps=1)[0]
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.image, batch.image)
    assert torch.equal(moved.known, batch.known)
    assert moved.old_logits is None
    blank = torch.zeros_like(batch.target)
    seen = replace(batch, old_logits=blank, taught=blank)
    on_meta = seen.to(torch.device("meta"))
    parts = [getattr(on_meta, field.name) for field in fields(on_meta)]
    assert {part.device.type for part in parts} == {"meta"}
