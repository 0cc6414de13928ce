"""What a round leaves at the hospital: the reply, and what is committed with it."""

from dataclasses import dataclass

from client.store.rounds import HospitalState
from client.store.uses import Uses
from common.updates import LocalUpdate


@dataclass(frozen=True)
class RoundResult:
    """The reply, the state after the round, and which scans were used how."""

    update: LocalUpdate
    state: HospitalState
    uses: Uses
