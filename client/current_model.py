"""The model that a hospital has now: what it sent in its newest round of the plan's federation."""

from dataclasses import dataclass

from client.store.rounds import Memory, kept_models, load_state
from client.store.store import Store
from common.networks.unet import SEGMENTER
from common.plan import FederationPlan
from common.updates import Arrays, decode_update


@dataclass(frozen=True)
class CurrentModel:
    """The segmenter's weights, the round they come from, and the scans that were remembered."""

    round: int
    arrays: Arrays
    memory: Memory


def load_current_model(store: Store, plan: FederationPlan) -> CurrentModel | None:
    """The newest segmenter that the hospital trained; None before its first, or without the plan's.

    A round in which it abstained, or taught the correspondence network alone, left none.
    """
    for number, reply in kept_models(store, plan.federation):
        arrays = {
            name: array
            for name, array in decode_update(reply).arrays.items()
            if name.startswith(f"{SEGMENTER}/")
        }
        if arrays:
            memory = load_state(store, plan.federation, number).memory
            return CurrentModel(number, arrays, memory)
    return None
