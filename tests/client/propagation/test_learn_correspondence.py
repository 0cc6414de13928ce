"""Self-learning on moving textures of a few slices."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import Module

from client.propagation import learn_correspondence as module
from client.propagation.learn_correspondence import (
    Chains,
    draw_chains,
    learn_correspondence,
    reconstruction_loss,
)
from common.networks.correspondence import CorrespondenceNetwork, build_correspondence
from common.plan import Correspondence, FederationPlan, Propagation
from common.scans import Geometry, Scan

MakePlan = Callable[..., FederationPlan]
IDENTITY = tuple(tuple(row) for row in np.eye(4).tolist())
CPU = torch.device("cpu")
SMALL = {
    "steps": 20,
    "batch_size": 3,
    "crop_voxels": 16,
    "channels": 8,
    "layers": 1,
    "descriptor_length": 8,
}


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    return make_plan(
        correspondence=SMALL,
        propagation={"search_radius_voxels": 2, "candidates": ["correspondence"]},
    )


def scan_of(stack: np.ndarray, name: str = "scan") -> Scan:
    """(D, H, W) slices along the first axis."""
    i, j, k = stack.shape
    return Scan(name, stack[None].astype(np.float32), Geometry((i, j, k), IDENTITY), "MR")


def moving_texture(depth: int = 8, *, step: int = 2, seed: int = 0) -> Scan:
    """A soft pattern, `step` columns further on with every slice."""
    ground = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 24)), 1.2)
    ground = ground / ground.std()
    return scan_of(np.stack([np.roll(ground, step * place, axis=1) for place in range(depth)]))


def learn(
    plan: FederationPlan, scans: list[Scan], *, part: tuple[int, int] = (1, 1), seed: int = 0
) -> tuple[CorrespondenceNetwork, float | None]:
    network = build_correspondence(1, plan.correspondence, 0)
    loss = learn_correspondence(
        network,
        [(scan, 0) for scan in scans],
        plan,
        part=part,
        rng=np.random.default_rng(seed),
        device=CPU,
    )
    return network, loss


def weights_of(network: Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach()


# Training ---------------------------------------------------------------------------------------


def test_training_lowers_the_loss_on_a_moving_pattern(plan: FederationPlan) -> None:
    scan = moving_texture()
    settings = plan.correspondence
    rng = np.random.default_rng(99)
    (unseen,) = draw_chains([(scan, 0)], settings, steps=1, own_share=0.0, rng=rng)
    before, after = build_correspondence(1, settings, 0), learn(plan, [scan])[0]
    with torch.no_grad():
        losses = [
            float(reconstruction_loss(network, unseen, settings, plan.propagation))
            for network in (before, after)
        ]
    assert losses[1] < 0.8 * losses[0]


def test_the_same_seed_gives_the_same_weights(plan: FederationPlan) -> None:
    scans = [moving_texture(seed=1), moving_texture(seed=2)]
    (first, loss), (again, loss_again), (other, _) = (
        learn(plan, scans, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(weights_of(first), weights_of(again))
    assert loss == loss_again
    assert not torch.equal(weights_of(first), weights_of(other))


def test_scans_too_short_for_a_chain_are_left_out(plan: FederationPlan) -> None:
    long, short = moving_texture(depth=3), moving_texture(depth=2, seed=1)
    with_both, alone = learn(plan, [short, long])[0], learn(plan, [long])[0]
    assert torch.equal(weights_of(with_both), weights_of(alone))
    untouched = build_correspondence(1, plan.correspondence, 0)
    found, loss = learn(plan, [short])
    assert loss is None
    assert torch.equal(weights_of(found), weights_of(untouched))
    assert learn(plan, [])[1] is None


def test_slices_are_taken_along_the_axis_that_comes_with_a_scan(plan: FederationPlan) -> None:
    along_first = moving_texture()
    turned = Scan(
        "turned",
        np.moveaxis(along_first.image, 1, 3).copy(),
        Geometry((24, 24, 8), IDENTITY),
        "MR",
    )
    networks = []
    for scan, axis in ((along_first, 0), (turned, 2)):
        network = build_correspondence(1, plan.correspondence, 0)
        learn_correspondence(
            network, [(scan, axis)], plan, part=(1, 1), rng=np.random.default_rng(0), device=CPU
        )
        networks.append(network)
    assert torch.equal(weights_of(networks[0]), weights_of(networks[1]))


def test_the_learning_rate_falls_to_a_tenth_over_the_parts(make_plan: MakePlan) -> None:
    # One step: Adam's first one is as long as its rate in every weight whose gradient is not 0.
    plan = make_plan(
        correspondence={**SMALL, "steps": 1, "learning_rate": 1e-2},
        training={"weight_decay": 0.0},
        propagation={"search_radius_voxels": 2, "candidates": ["correspondence"]},
    )
    first = weights_of(build_correspondence(1, plan.correspondence, 0))
    for part, rate in (((1, 3), 1e-2), ((2, 3), 5.5e-3), ((3, 3), 1e-3), ((1, 1), 1e-2)):
        moved = (weights_of(learn(plan, [moving_texture()], part=part)[0]) - first).abs()
        assert float(moved.max()) == pytest.approx(rate, rel=0.01)


def test_the_parts_share_the_steps(plan: FederationPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []

    def counting(*arguments: object, **named: object) -> object:
        asked.append((named["steps"], named["own_share"]))  # type: ignore[arg-type]
        return draw_chains(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "draw_chains", counting)
    for part in (1, 2, 3, 4, 5):
        learn(plan, [moving_texture()], part=(part, 5))
    # 20 steps in five parts; own reconstructions from none to half of the steps.
    assert asked == [(4, pytest.approx(share)) for share in (0, 0.125, 0.25, 0.375, 0.5)]


# The loss ---------------------------------------------------------------------------------------


class Blind(Module):
    """Describes every pixel alike: only the displacement tells pixels apart."""

    def forward(self, slices: Tensor) -> Tensor:
        return torch.zeros(len(slices), 8, *slices.shape[2:])


def flat_chain(*values: float, own: list[bool]) -> Chains:
    slices = torch.tensor(values).reshape(1, -1, 1, 1, 1).repeat(1, 1, 1, 5, 6)
    return Chains(slices, torch.tensor([own]))


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        # Smooth L1 of a difference d is d^2 / 2 up to 1, then |d| - 1/2. Steps: 0 for 1, 1 for 3;
        # on the way back the 1 that the second step started from stands for 0.
        ([False, False], (0.5 + 1.5) / 2 + 0.1 * 0.5),
        # The second step starts from the reconstruction, 0: 0 for 1, 0 for 3; back to 0.
        ([False, True], (0.5 + 2.5) / 2 + 0.1 * 0.0),
    ],
)
def test_the_loss_by_hand_on_slices_without_contrast(own: list[bool], wanted: float) -> None:
    settings = Correspondence.model_validate(SMALL)
    chain = flat_chain(0.0, 1.0, 3.0, own=own)
    loss = reconstruction_loss(Blind(), chain, settings, Propagation())
    assert float(loss) == pytest.approx(wanted)


def test_a_matcher_that_blurs_does_not_come_back(plan: FederationPlan) -> None:
    # One bright pixel that stands still. Blind matching spreads it: there and back it is lost.
    slices = torch.zeros(1, 2, 1, 5, 5)
    slices[..., 2, 2] = 1
    chain = Chains(slices, torch.tensor([[False]]))
    forth_only = plan.correspondence.model_copy(update={"cycle_weight": 0.0})
    forth, both = (
        float(reconstruction_loss(Blind(), chain, settings, plan.propagation))
        for settings in (forth_only, plan.correspondence)
    )
    assert 0 < forth < both
    # Standing still is free of charge for whoever does not move: a prior without any give.
    still = plan.propagation.model_copy(update={"displacement_penalty": 100.0})
    assert float(reconstruction_loss(Blind(), chain, plan.correspondence, still)) < 1e-6


# Chains -----------------------------------------------------------------------------------------


def settings_of(**changes: object) -> Correspondence:
    return Correspondence.model_validate({**SMALL, **changes})


def numbered_slices(depth: int) -> Scan:
    """Every slice is flat and its value its number."""
    return scan_of(np.arange(depth)[:, None, None] * np.ones((1, 20, 18)))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains as they are cut, without other contrast."""
    monkeypatch.setattr(module, "GAIN_SPREAD", 0.0)
    monkeypatch.setattr(module, "BIAS_SPREAD", 0.0)


def drawn(scan: Scan, settings: Correspondence, steps: int = 20, own_share: float = 0.5) -> Chains:
    rng = np.random.default_rng(0)
    chains = list(draw_chains([(scan, 0)], settings, steps=steps, own_share=own_share, rng=rng))
    assert len(chains) == steps
    return Chains(torch.cat([one.slices for one in chains]), torch.cat([one.own for one in chains]))


@pytest.mark.usefixtures("plain")
def test_chains_follow_each_other_both_ways_by_one_slice_or_two() -> None:
    chains = drawn(numbered_slices(9), settings_of(chain_slices=4), steps=100)
    assert chains.slices.shape == (300, 4, 1, 16, 16)
    places = chains.slices[:, :, 0, 0, 0]
    strides = places.diff(dim=1)
    assert (strides == strides[:, :1]).all()
    assert set(strides[:, 0].tolist()) == {-2, -1, 1, 2}
    # A third goes by two; five standard deviations of 300 draws are 0.14.
    assert float((strides[:, 0].abs() == 2).float().mean()) == pytest.approx(1 / 3, abs=0.14)
    assert places.min() == 0
    assert places.max() == 8


@pytest.mark.usefixtures("plain")
def test_a_scan_as_long_as_a_chain_is_one() -> None:
    places = drawn(numbered_slices(4), settings_of(chain_slices=4)).slices[:, :, 0, 0, 0]
    assert {tuple(row) for row in places.tolist()} == {(0, 1, 2, 3), (3, 2, 1, 0)}


@pytest.mark.usefixtures("plain")
def test_all_slices_of_a_chain_are_cut_and_flipped_alike() -> None:
    rows, columns = np.indices((20, 18))
    scan = scan_of(np.stack([100.0 * rows + columns] * 5))
    slices = drawn(scan, settings_of(crop_voxels=8)).slices
    assert (slices == slices[:, :1]).all()
    first = slices[:, 0, 0]
    row_steps, column_steps = first.diff(dim=1), first.diff(dim=2)
    assert {float(step) for step in row_steps.unique()} == {-100, 100}
    assert {float(step) for step in column_steps.unique()} == {-1, 1}


@pytest.mark.usefixtures("plain")
def test_a_slice_smaller_than_the_crop_repeats_its_edge() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 6, 20)).astype(np.float32)
    slices = drawn(scan_of(image), settings_of(crop_voxels=16)).slices
    assert slices.shape[3:] == (16, 16)
    # Eleven rows of the sixteen are one and the same, at either end.
    same = (slices.diff(dim=3) == 0).all(dim=4).sum(dim=3)
    assert (same == 10).all()


def test_contrast_is_changed_for_a_chain_as_a_whole() -> None:
    slices = drawn(numbered_slices(5), settings_of(chain_slices=3)).slices
    values = slices[:, :, 0, 0, 0]
    strides = values.diff(dim=1)
    torch.testing.assert_close(strides[:, 0], strides[:, 1], rtol=1e-3, atol=1e-3)
    assert len(strides[:, 0].unique()) > 20


def test_the_first_step_starts_from_the_slice_itself() -> None:
    scan = numbered_slices(8)
    for share, wanted in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        own = drawn(scan, settings_of(chain_slices=4), steps=100, own_share=share).own
        assert own.shape == (300, 3)
        assert not own[:, 0].any()
        # Five standard deviations of 600 draws are 0.10.
        assert float(own[:, 1:].float().mean()) == pytest.approx(wanted, abs=0.1)


def test_all_scans_are_drawn_from_and_none_is_changed() -> None:
    scans = [scan_of(np.full((4, 9, 9), value)) for value in (0.0, 50.0, 100.0)]
    kept = [scan.image.copy() for scan in scans]
    chains = draw_chains(
        [(scan, 0) for scan in scans],
        settings_of(),
        steps=10,
        own_share=0.0,
        rng=np.random.default_rng(0),
    )
    means = torch.cat([one.slices.mean((1, 2, 3, 4)) for one in chains])
    assert {int(mean > 20) + int(mean > 75) for mean in means.tolist()} == {0, 1, 2}
    for scan, before in zip(scans, kept, strict=True):
        np.testing.assert_array_equal(scan.image, before)
