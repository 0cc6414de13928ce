"""Laws of random changes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.learning.augmentation import Change, apply_change, draw_change, region_for
from common.learning_settings import Augmentation

MakeChange = Callable[..., Change]
OFF = Augmentation(rotation_degrees=(0, 0, 0), scale=0, log_gamma=0, gain=0, noise=0)
sizes = st.tuples(*[st.integers(2, 24)] * 3)
degrees = st.tuples(*[st.floats(-45, 45)] * 3)
scales = st.tuples(*[st.floats(0.6, 1.6)] * 3)


def noise_like(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def test_a_change_of_nothing_returns_the_region(make_change: MakeChange) -> None:
    image, labels = noise_like(2, 6, 7, 8), noise_like(3, 6, 7, 8).abs()
    changed = apply_change(image, labels, make_change(), (6, 7, 8))
    torch.testing.assert_close(changed[0], image)
    torch.testing.assert_close(changed[1], labels)


def test_the_region_of_no_change_is_the_patch(make_change: MakeChange) -> None:
    assert region_for((5, 6, 7), make_change()) == (5, 6, 7)
    assert region_for((5, 6, 7), make_change(scales=(1.5, 1.2, 1.1))) == (5, 6, 7)


def test_the_region_by_hand(make_change: MakeChange) -> None:
    # Shrunk to half along the first axis, twice as much is needed there.
    assert region_for((6, 6, 6), make_change(scales=(0.5, 1.0, 1.0))) == (12, 6, 6)
    # A quarter turn about the last axis swaps the other two; the longer one stays covered.
    assert region_for((4, 10, 6), make_change(degrees=(0.0, 0.0, 90.0))) == (10, 10, 6)


@given(size=sizes, degrees=degrees, scales=scales)
@settings(max_examples=80, deadline=None)
def test_no_padding_reaches_the_patch(
    size: tuple[int, int, int],
    degrees: tuple[float, float, float],
    scales: tuple[float, float, float],
) -> None:
    change = Change(degrees, scales, gamma=1.0, gain=1.0, noise=0.0, noise_seed=0)
    region = region_for(size, change)
    assert all((r - s) % 2 == 0 and r >= s for r, s in zip(region, size, strict=True))
    ones = torch.ones(1, *region)
    image, labels = apply_change(ones, ones, change, size)
    torch.testing.assert_close(image, torch.ones(1, *size), rtol=0, atol=1e-4)
    torch.testing.assert_close(labels, torch.ones(1, *size), rtol=0, atol=1e-4)


def test_a_long_thin_patch_turned_about_two_axes_is_covered(make_change: MakeChange) -> None:
    # The product of two turns mixes a third axis in; a bound by single turns misses it.
    change = make_change(degrees=(40.0, 40.0, 0.0))
    size = (4, 40, 4)
    region = region_for(size, change)
    image, _ = apply_change(torch.ones(1, *region), torch.ones(1, *region), change, size)
    assert image.min() > 0.999


@given(degrees=degrees, scales=scales)
@settings(max_examples=20, deadline=None)
def test_image_and_labels_move_together(
    degrees: tuple[float, float, float], scales: tuple[float, float, float]
) -> None:
    change = Change(degrees, scales, gamma=1.0, gain=1.0, noise=0.0, noise_seed=0)
    image = noise_like(1, 10, 11, 12)
    moved = apply_change(image, image.clone(), change, (8, 9, 10))
    torch.testing.assert_close(moved[0], moved[1])


def test_a_scale_above_one_makes_objects_larger(make_change: MakeChange) -> None:
    block = torch.zeros(1, 16, 16, 16)
    block[:, 6:10, 6:10, 6:10] = 1
    _, grown = apply_change(block, block, make_change(scales=(2.0, 1.0, 1.0)), (16, 16, 16))
    assert float(grown.sum()) == pytest.approx(2 * 64, rel=0.05)
    assert (grown[0].sum((1, 2)) > 8).sum() == 8


def test_the_patch_is_the_middle_of_the_region(make_change: MakeChange) -> None:
    image = noise_like(1, 8, 9, 10)
    patch, _ = apply_change(image, image, make_change(), (4, 5, 6))
    torch.testing.assert_close(patch, image[:, 2:6, 2:7, 2:8])


def test_turns_go_about_axis_1_then_0_then_2(make_change: MakeChange) -> None:
    # A voxel on axis 0: the turn about axis 1 takes it to axis 2, that about axis 2 leaves it.
    block = torch.zeros(1, 9, 9, 9)
    block[0, 7, 4, 4] = 1
    _, turned = apply_change(block, block, make_change(degrees=(0.0, 90.0, 90.0)), (9, 9, 9))
    wanted = torch.zeros(1, 9, 9, 9)
    wanted[0, 4, 4, 1] = 1
    torch.testing.assert_close(turned, wanted, rtol=0, atol=1e-4)


def test_a_quarter_turn_swaps_two_axes(make_change: MakeChange) -> None:
    block = torch.zeros(1, 9, 9, 9)
    block[:, 1:8, 4, 4] = 1
    _, turned = apply_change(block, block, make_change(degrees=(0.0, 0.0, 90.0)), (9, 9, 9))
    wanted = torch.zeros(1, 9, 9, 9)
    wanted[:, 4, 1:8, 4] = 1
    torch.testing.assert_close(turned, wanted, rtol=0, atol=1e-4)


def test_intensities_change_and_labels_do_not(make_change: MakeChange) -> None:
    image = torch.tensor([-4.0, 0.0, 4.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()
    labels = noise_like(2, 3, 4, 4).abs()
    changed, moved = apply_change(image, labels, make_change(gamma=0.5, gain=1.5), (3, 4, 4))
    # Gamma keeps the sign: 4 ** 0.5 = 2, times 1.5.
    torch.testing.assert_close(changed[0, :, 0, 0], torch.tensor([-3.0, 0.0, 3.0]))
    torch.testing.assert_close(moved, labels)


def test_noise_is_drawn_from_the_change_alone(make_change: MakeChange) -> None:
    image, labels = torch.zeros(1, 12, 12, 12), torch.zeros(1, 12, 12, 12)
    noisy = make_change(noise=0.5, noise_seed=7)
    torch.manual_seed(1)
    size = (12, 12, 12)
    one, untouched = apply_change(image, labels, noisy, size)
    torch.manual_seed(2)
    again, _ = apply_change(image, labels, noisy, size)
    other, _ = apply_change(image, labels, make_change(noise=0.5, noise_seed=8), size)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float(one.std()) == pytest.approx(0.5, rel=0.1)
    assert (untouched == 0).all()


def test_the_generator_of_the_whole_process_is_not_seeded(
    make_change: MakeChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between seeding it and putting it back another thread would draw what is not its own.
    monkeypatch.setattr(torch, "manual_seed", lambda _: pytest.fail("it was seeded"))
    monkeypatch.setattr(torch, "set_rng_state", lambda _: pytest.fail("it was put back"))
    changed = make_change(noise=0.5, noise_seed=7, gamma=1.2, blur_voxels=0.5)
    apply_change(torch.ones(1, 6, 6, 6), torch.zeros(1, 6, 6, 6), changed, (6, 6, 6))


def test_inputs_are_left_as_they_were(make_change: MakeChange) -> None:
    image, labels = noise_like(1, 6, 6, 6), noise_like(1, 6, 6, 6)
    kept = image.clone(), labels.clone()
    wild = make_change(
        degrees=(10.0, 20.0, 5.0), scales=(0.8, 1.1, 1.0), gamma=1.3, gain=0.5, noise=1.0
    )
    apply_change(image, labels, wild, (6, 6, 6))
    assert torch.equal(image, kept[0])
    assert torch.equal(labels, kept[1])


@given(seed=st.integers(0, 2**32))
def test_draws_stay_within_the_ranges(seed: int) -> None:
    ranges = Augmentation(rotation_degrees=(10, 0, 30), scale=0.2, log_gamma=0.3, gain=0.1)
    change = draw_change(ranges, np.random.default_rng(seed))
    assert all(abs(d) <= most for d, most in zip(change.degrees, (10, 0, 30), strict=True))
    assert all(np.exp(-0.2) <= scale <= np.exp(0.2) for scale in change.scales)
    assert np.exp(-0.3) <= change.gamma <= np.exp(0.3)
    assert 0.9 <= change.gain <= 1.1
    assert 0 <= change.noise <= ranges.noise
    assert change == draw_change(ranges, np.random.default_rng(seed))


def test_zero_switches_every_change_off(make_change: MakeChange) -> None:
    change = draw_change(OFF, np.random.default_rng(0))
    assert change == make_change(noise_seed=change.noise_seed)


def test_a_bend_that_is_off_draws_nothing() -> None:
    plain, bent = (np.random.default_rng(0) for _ in range(2))
    without = draw_change(OFF, plain)
    with_bend = draw_change(OFF.model_copy(update={"elastic_voxels": 2.0}), bent)
    # What is drawn for a bend comes last, so that a plan without one keeps its numbers.
    still = replace(with_bend, elastic_voxels=0.0, elastic_seed=0)
    assert still == without
    assert 0 < with_bend.elastic_voxels < 2
    assert plain.bit_generator.state != bent.bit_generator.state


def test_a_bend_moves_voxels_smoothly_and_by_as_much_as_it_says(make_change: MakeChange) -> None:
    # An image that is its own coordinate shows where each voxel came from.
    size = (32, 32, 32)
    ramp = torch.arange(52.0)[:, None, None].expand(52, 52, 52)[None].contiguous()
    moved_by = []
    for seed in range(4):
        bent = make_change(elastic_voxels=2.0, elastic_seed=seed)
        _, labels = apply_change(ramp, ramp, bent, size)
        moved_by.append(labels[0] - torch.arange(10.0, 42.0)[:, None, None])
    # At the patch's faces less is moved: smoothing finds nothing beyond them.
    inner = torch.stack(moved_by)[:, 10:22, 10:22, 10:22]
    assert float(inner.std()) == pytest.approx(2, rel=0.4)
    neighbours = inner.diff(dim=-1).abs().mean()
    assert float(neighbours) < 0.25 * float(inner.std())
    # The same change bends the same way.
    again = apply_change(ramp, ramp, bent, size)[1]
    assert torch.equal(again, labels)


def test_image_and_labels_are_bent_together(make_change: MakeChange) -> None:
    block = torch.zeros(1, 16, 16, 16)
    block[:, 4:12, 5:11, 6:10] = 1
    image, labels = apply_change(block, block, make_change(elastic_voxels=3.0), (16, 16, 16))
    torch.testing.assert_close(image, labels)
    assert not torch.allclose(labels, block)


def test_a_blur_smooths_the_image_alone(make_change: MakeChange) -> None:
    noise = noise_like(1, 10, 10, 10)
    image, labels = apply_change(noise, noise, make_change(blur_voxels=1.0), (10, 10, 10))
    assert float(image.std()) < 0.5 * float(noise.std())
    torch.testing.assert_close(labels, noise)
