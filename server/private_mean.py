"""Clipping, noise and the account of what they leave open: Flower's, around the plan's strategy.

Flower's wrapper wants to know how many hospitals answer before it has asked them, and its
accountant stops where one does not. So the hospitals are asked through the plan's strategy alone,
and the wrapper is made for each mean, for as many models as go into it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.serverapp.strategy.strategy import Strategy

from common.errors import SettingsError
from common.privacy import Privacy

SEED_NUMBERS = 624  # as many as the state of NumPy's generator holds


def with_privacy(
    strategy: FedAvg, privacy: Privacy, received: ArrayRecord, num_models: int
) -> Strategy:
    """The strategy, which now clips and adds noise as a plan says that clips.

    `received` are the tensors that the hospitals got, in the order in which theirs will come;
    `num_models` is how many will.
    """
    assert privacy.clipping_norm is not None  # a plan that clips
    wrapper = DifferentialPrivacyServerSideFixedClipping(
        strategy, privacy.noise_multiplier, privacy.clipping_norm, num_models
    )
    wrapper.current_arrays = received
    return wrapper


@contextmanager
def unguessable_noise() -> Iterator[None]:
    """NumPy's shared generator, from which Flower draws, starts from the system's randomness.

    Noise that follows from the plan's seed could be taken off again by every hospital: they know
    the plan. So two runs of the same plan differ, and a resumed run from an uninterrupted one.
    """
    before = np.random.get_state()
    np.random.seed(np.frombuffer(os.urandom(4 * SEED_NUMBERS), dtype=np.uint32))
    try:
        yield
    finally:
        np.random.set_state(before)


def spent_epsilon(privacy: Privacy, num_means: int) -> float | None:
    """The epsilon that so many noisy means have spent; None where there is no noise.

    By Flower's accountant (Renyi), without anything taken off for sampling: all hospitals that are
    online are asked. Neighbours are federations with and without one hospital's updates, and the
    number of hospitals is known to all.

    Raises:
        SettingsError: the package that reckons is not installed.
    """
    if not privacy.adds_noise:
        return None
    # An extra, and it loads for a second; only plans with noise need it.
    from flwr.serverapp import (  # noqa: PLC0415
        GaussianPrivacyEvent,
        NeighboringRelation,
        PrivacyConfig,
        RdpAccountant,
        SamplingMethod,
    )

    population = 1  # has no bearing where nothing is taken off for sampling
    config = PrivacyConfig(
        privacy.delta,
        population,
        NeighboringRelation.ADD_OR_REMOVE_ONE,
        SamplingMethod.NO_AMPLIFICATION,
    )
    try:
        accountant = RdpAccountant(config)
    except ImportError:
        raise SettingsError(
            "privacy.noise_multiplier needs the package that reckons epsilon: "
            "pip install 'oneslice[dp]', or leave the noise out of the plan"
        ) from None
    if num_means == 0:
        return 0.0
    event = GaussianPrivacyEvent(privacy.noise_multiplier, population, population)
    accountant.compose(event, num_means)
    return accountant.get_epsilon(privacy.delta)
