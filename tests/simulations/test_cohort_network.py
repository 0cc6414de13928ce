"""The cohort's network on phantoms: one slice of each teaches it something of all."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from common.metrics import dice
from common.random_streams import generator
from common.scans import Geometry, Scan, SliceAnnotation, SliceRef
from simulations.cohort_network import CohortNetwork, fit_cohort_network
from simulations.phantoms import draw_phantom
from simulations.propagation_slices import choose_slices, paint

SHAPE = (16, 16, 16)
IDENTITY = tuple(tuple(row) for row in np.eye(4).tolist())
Phantom = tuple[Scan, np.ndarray]


def phantom(number: int) -> Phantom:
    image, label = draw_phantom(SHAPE, 0, generator(0, "phantom", number))
    normal = ((image - image.mean()) / image.std()).astype(np.float32)
    scan = Scan(f"phantom-{number}", normal[None], Geometry(SHAPE, IDENTITY), "MR")
    # One structure: both parts of the organ.
    return scan, (label > 0).astype(np.uint8)


def painted_slices(phantoms: list[Phantom]) -> list[SliceAnnotation]:
    scans, labels = zip(*phantoms, strict=True)
    refs = choose_slices(scans, labels, 2, "cohort", 0)
    return [paint(label, ref, (1,)) for label, ref in zip(labels, refs, strict=True)]


def fit(phantoms: list[Phantom], *, steps: int, seed: int = 0) -> CohortNetwork:
    scans = [scan for scan, _ in phantoms]
    annotations = painted_slices(phantoms)
    return fit_cohort_network(
        scans, annotations, steps=steps, seed=seed, device=torch.device("cpu")
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The same bits however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_few_steps_predict_better_than_chance_on_unseen_scans() -> None:
    network = fit([phantom(number) for number in range(6)], steps=60)
    for number in (10, 11):
        scan, label = phantom(number)
        predicted = network.predict(scan)
        assert predicted.shape == (2, *SHAPE)
        np.testing.assert_allclose(predicted.sum(0), 1, atol=1e-5)
        # Whoever calls everything organ gets 2 p / (1 + p) of Dice at a share p of organ; whoever
        # draws at random gets less.
        share = label.mean()
        chance = 2 * share / (1 + share)
        found = dice(predicted.argmax(0) == 1, label == 1)
        assert found is not None
        assert found > chance + 0.2


def test_the_same_seed_fits_the_same_network() -> None:
    phantoms = [phantom(number) for number in range(2)]
    scan = phantom(10)[0]
    first, again, other = (fit(phantoms, steps=10, seed=seed).predict(scan) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_it_learns_from_the_painted_slices_and_nothing_else() -> None:
    scan, label = phantom(0)
    one = SliceAnnotation(SliceRef(scan.scan_id, 2, 8), label[:, :, 8], (1,), "truth", 0.0)
    empty = SliceAnnotation(one.ref, np.zeros_like(one.mask), (1,), "truth", 0.0)
    cpu = torch.device("cpu")
    painted, nothing = (
        fit_cohort_network([scan], [annotation], steps=30, seed=0, device=cpu).predict(scan)
        for annotation in (one, empty)
    )
    assert painted[1].mean() > nothing[1].mean()


def test_labels_are_numbered_as_channels() -> None:
    scan, label = phantom(0)
    both = label[:, :, 8].copy()
    both[:8] *= 2
    annotation = SliceAnnotation(SliceRef(scan.scan_id, 2, 8), both, (1, 2), "truth", 0.0)
    network = fit_cohort_network([scan], [annotation], steps=10, seed=0, device=torch.device("cpu"))
    assert network.predict(scan).shape == (3, *SHAPE)
