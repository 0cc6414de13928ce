"""Whether two federations came to the same."""

from common.updates import Arrays
from server.round_state import RoundRecord, RoundState


def same_arrays(one: Arrays, other: Arrays) -> bool:
    """The same tensors, to the bit."""
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


def without_seconds(state: RoundState) -> list[RoundRecord]:
    """All that is recorded of its rounds but how long they took."""
    records = [*state.history, *([state.closing] if state.closing else [])]
    return [record.model_copy(update={"seconds": {}}) for record in records]
