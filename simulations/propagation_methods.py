"""The methods that `oneslice simulate propagation` compares, all behind one signature.

A new method is a new entry of METHODS: a name and a function that gets the training scans and
returns the propagator. What works on a stack of slices is wrapped by `on_stacks`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from client.learning.device import choose_device
from client.propagation.registration import carry_by_registration
from common.errors import SettingsError
from common.random_streams import stream_seed
from simulations.baselines.sli2vol import propagate_sli2vol, train_sli2vol
from simulations.baselines.static_copy import static_copy
from simulations.oneslice_methods import (
    ALL,
    prepare_fused,
    prepare_oneslice,
    prepare_segmenter_alone,
)
from simulations.propagator import Propagator, StackPropagator, TrainingSet, on_stacks, stack_of


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: as `--methods` and the table call it.
        prepare: makes the propagator, from the training scans if it learns.
        learns: whether training time counts and other seeds give other results.
        learns_labels: whether it learns from painted slices of other scans, too.
        needs: the module of an optional library without which the method cannot run.
    """

    name: str
    prepare: Callable[[TrainingSet], Propagator]
    learns: bool = False
    learns_labels: bool = False
    needs: str | None = None

    @property
    def can_run(self) -> bool:
        """Whether its library is installed."""
        return self.needs is None or find_spec(self.needs) is not None


def _learns_nothing(spread: StackPropagator) -> Callable[[TrainingSet], Propagator]:
    return lambda _: on_stacks(spread)


def _prepare_optical_flow(training: TrainingSet) -> Propagator:
    # Its library is optional: only the extra `simulation` brings it.
    from simulations.baselines.optical_flow import optical_flow  # noqa: PLC0415

    return on_stacks(optical_flow)


def _prepare_sli2vol(training: TrainingSet) -> Propagator:
    stacks = [stack_of(scan, training.axis) for scan in training.scans]
    seed = stream_seed(training.seed, "sli2vol")
    device = choose_device("auto")
    network = train_sli2vol(stacks, training.seconds, seed, steps=training.steps, device=device)
    return on_stacks(partial(propagate_sli2vol, network))


METHODS: tuple[Method, ...] = (
    Method("static-copy", _learns_nothing(static_copy)),
    Method("optical-flow", _prepare_optical_flow, needs="skimage"),
    Method("deformable", _learns_nothing(carry_by_registration)),
    Method("soft-affinity", prepare_oneslice("patches")),
    Method("sli2vol", _prepare_sli2vol, learns=True),
    Method("training-free", prepare_oneslice("patches", "registration")),
    Method("correspondence", prepare_oneslice("correspondence"), learns=True),
    Method("oneslice", prepare_oneslice(*ALL), learns=True),
    Method("segmenter-alone", prepare_segmenter_alone, learns=True, learns_labels=True),
    Method("fused-soft-affinity", prepare_fused("patches"), learns=True, learns_labels=True),
    Method("fused-oneslice", prepare_fused(*ALL), learns=True, learns_labels=True),
)


def choose_methods(names: Sequence[str]) -> tuple[Method, ...]:
    """The methods of these names; without names, all that can run here.

    Raises:
        SettingsError: there is none of a name, or its library is not installed.
    """
    if not names:
        return tuple(method for method in METHODS if method.can_run)
    by_name = {method.name: method for method in METHODS}
    for name in names:
        if name not in by_name:
            raise SettingsError(f"no method is called {name!r}; there are {', '.join(by_name)}")
        if not by_name[name].can_run:
            raise SettingsError(
                f"method {name!r} needs the library {by_name[name].needs}, which is not installed: "
                "pip install 'oneslice[simulation]', or leave the method out"
            )
    return tuple(by_name[name] for name in dict.fromkeys(names))
