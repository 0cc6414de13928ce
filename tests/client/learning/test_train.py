"""The training loop on toy problems."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import Conv3d, Module, Parameter

from client.learning.batches import Batch
from client.learning.device import check_device, choose_device
from client.learning.train import learning_rate_at, train
from client.learning.train_models import stay_near, train_segmenter, train_student
from common.errors import SettingsError
from common.learning_settings import Distillation, Training

CPU = torch.device("cpu")
SETTINGS = Training(patch_size=(4, 4, 4), learning_rate=0.1, weight_decay=0.0)


def toy_batch(weight: float = 1.0) -> Batch:
    """Bright voxels are the organ."""
    image = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    organ = (image > 0).float()
    return Batch(
        image=image,
        target=torch.cat([1 - organ, organ], dim=1),
        weight=torch.full((2, 4, 4, 4), weight),
        painted=torch.full((2, 4, 4, 4), weight == 1),
        known=torch.ones(2, 2, 4, 4, 4, dtype=torch.bool),
        replayed=torch.tensor([False, True]),
    )


def toy_network(seed: int = 0) -> Conv3d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Conv3d(1, 2, kernel_size=1)


def weights(network: Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


class OneNumber(Module):
    """A network of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.value = Parameter(torch.tensor([1.0]))


def steep(network: Module, batch: Batch) -> Tensor:
    """A loss whose slope is a million."""
    return 1e6 * weights_of(network).sum() + 0 * batch.image.sum()


def weights_of(network: Module) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in network.parameters()])


def test_the_loss_falls_on_a_toy_problem() -> None:
    network, batch = toy_network(), toy_batch()
    rates = {"learning_rate": 0.1}
    first = train_segmenter(network, [batch], SETTINGS, **rates, device=CPU)
    train_segmenter(network, [batch] * 60, SETTINGS, **rates, device=CPU)
    last = train_segmenter(network, [batch], SETTINGS, **rates, device=CPU)
    assert first is not None
    assert last is not None
    assert last < 0.3 * first
    answer = network(batch.image).argmax(1)
    assert (answer == batch.target.argmax(1)).float().mean() > 0.95


def test_the_same_start_gives_the_same_weights_bit_for_bit() -> None:
    networks = [toy_network(), toy_network()]
    losses = [
        train_segmenter(network, [toy_batch()] * 5, SETTINGS, learning_rate=0.1, device=CPU)
        for network in networks
    ]
    assert losses[0] == losses[1]
    assert torch.equal(weights(networks[0]), weights(networks[1]))
    assert not torch.equal(weights(networks[0]), weights(toy_network()))


def test_without_batches_nothing_happens() -> None:
    network = toy_network()
    rates = {"learning_rate": 0.1, "device": CPU}
    assert train_segmenter(network, [], SETTINGS, **rates) is None
    assert train_student(network, toy_network(1), [], SETTINGS, Distillation(), **rates) is None
    assert torch.equal(weights(network), weights(toy_network()))


def test_the_mean_of_the_losses_comes_back() -> None:
    values = iter([1.0, 2.0, 6.0])

    def loss(network: Module, batch: Batch) -> Tensor:
        return weights_of(network).sum() * 0 + next(values) + 0 * batch.image.sum()

    batches = [toy_batch()] * 3
    assert train(OneNumber(), batches, loss, SETTINGS, learning_rate=0.1, device=CPU) == 3


def test_the_gradient_is_clipped() -> None:
    seen: list[float] = []
    network = OneNumber()
    for clip_norm in (1e-12, 1.0):
        settings = SETTINGS.model_copy(update={"clip_norm": clip_norm})
        train(network, [toy_batch()], steep, settings, learning_rate=0.1, device=CPU)
        assert network.value.grad is not None
        seen.append(float(network.value.grad.norm()))
    assert seen == pytest.approx([1e-12, 1.0], rel=1e-3)


def test_a_step_that_knows_nothing_leaves_the_weights() -> None:
    network = toy_network()
    loss = train_segmenter(network, [toy_batch(0.0)], SETTINGS, learning_rate=0.1, device=CPU)
    assert loss == 0
    assert torch.equal(weights(network), weights(toy_network()))


def test_a_strong_proximal_term_keeps_the_weights_near_the_received_ones() -> None:
    moved = []
    for mu in (0.0, 1e3):
        network = toy_network()
        terms = [stay_near(network, mu, CPU)]
        train_segmenter(
            network, [toy_batch()] * 30, SETTINGS, learning_rate=0.02, device=CPU, terms=terms
        )
        moved.append(float((weights(network) - weights(toy_network())).norm()))
    assert moved[1] < 0.2 * moved[0]


def test_terms_see_network_batch_and_logits_and_add_up() -> None:
    network, batch = toy_network(), toy_batch()
    with torch.no_grad():
        wanted = network(batch.image)

    def two(seen: Module, one: Batch, logits: Tensor) -> Tensor:
        assert seen is network
        assert one.replayed.tolist() == [False, True]
        torch.testing.assert_close(logits, wanted)
        return 0 * logits.sum() + 2

    losses = [
        train_segmenter(
            toy_network() if not terms else network,
            [batch],
            SETTINGS,
            learning_rate=0.1,
            device=CPU,
            terms=terms,
        )
        for terms in ([], [two, lambda *_: 0.5])
    ]
    assert losses[0] is not None
    assert losses[1] == pytest.approx(losses[0] + 2.5)


def test_the_student_learns_the_segmenter_and_leaves_it_alone() -> None:
    segmenter, student, batch = toy_network(1), toy_network(2), toy_batch()
    with torch.no_grad():
        segmenter.weight.mul_(5)
    before, wanted = weights(segmenter).clone(), segmenter(batch.image).argmax(1)
    # The labels say the opposite and weigh nothing: only the segmenter counts.
    contrary = replace(batch, target=batch.target.flip(1), weight=torch.zeros_like(batch.weight))
    batches = [contrary] * 80
    loss = train_student(
        student, segmenter, batches, SETTINGS, Distillation(), learning_rate=0.1, device=CPU
    )
    assert loss is not None
    assert torch.equal(weights(segmenter), before)
    assert all(parameter.grad is None for parameter in segmenter.parameters())
    assert (student(batch.image).argmax(1) == wanted).float().mean() > 0.95


@pytest.mark.parametrize(("done", "rate"), [(0.0, 0.5), (0.5, 0.3), (1.0, 0.1), (0.25, 0.4)])
def test_the_learning_rate_falls_in_a_straight_line(done: float, rate: float) -> None:
    settings = SETTINGS.model_copy(update={"learning_rate": 0.5, "final_learning_rate_share": 0.2})
    assert learning_rate_at(settings, done) == pytest.approx(rate)


def test_the_device_is_what_was_chosen() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert check_device("cuda") == "cuda"
    with pytest.raises(SettingsError, match="'tpu': expected one of auto, cpu, cuda"):
        check_device("tpu")
