"""RoundState: all that a federation is after a round, as one frozen value."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from common.settings_file import Settings
from common.updates import Arrays, Note


class Dropped(Settings):
    """A hospital whose answer did not count in a round, and why."""

    hospital: str
    reason: str
    kind: Literal["bad_reply", "failed", "silent", "offline"]


class RoundRecord(Settings):
    """What one round was: the hospitals' numbers, who was dropped, bytes and seconds.

    `notes` are those of all hospitals that answered within the deadline and passed the checks;
    `averaged` names those whose models went into the mean, `update_norms` how far each of them had
    moved (L2, before any clipping). `epsilon` is what the noisy means up to this one have spent.
    Bytes are those of the tensors as they travelled, network by network; `bytes_down` to each
    hospital, `bytes_up` from each one whose answer counted.
    """

    round: int = Field(ge=0)
    stage: int = Field(ge=0)
    notes: tuple[Note, ...] = ()
    averaged: tuple[str, ...] = ()
    update_norms: dict[str, float] = {}
    epsilon: float | None = None
    dropped: tuple[Dropped, ...] = ()
    bytes_down: dict[str, int] = {}
    bytes_up: dict[str, dict[str, int]] = {}
    seconds: dict[Literal["wait", "aggregate"], float] = {}

    def held_back_dice(self, least_slices: int) -> dict[str, float]:
        """Each class's Dice on all hospitals' held-back slices, tasks weighed by their slices.

        A class that was scored on fewer than `least_slices` is left out.
        """
        scores = [score for note in self.notes for score in note.scores]
        result = {}
        for name in sorted({name for score in scores for name in score.dice}):
            counted = [(score.dice[name], score.cases) for score in scores if name in score.dice]
            slices = sum(cases for _, cases in counted)
            if slices >= least_slices:
                result[name] = sum(dice * cases for dice, cases in counted) / slices
        return result


@dataclass(frozen=True)
class RoundState:
    """A federation after a round.

    Random state needs no place here: every stream is drawn from (seed, hospital, round) by name.

    Attributes:
        round: the last round that counts; 0 before the first.
        arrays: both models, "segmenter/..." and "student/...", and "correspondence/..." if the
            federation learns it.
        strategy_arrays: the strategy's own tensors (FedAdam's moments), or none.
        history: one record per round.
        closing: how the hospitals scored the final models, once they were asked.
    """

    round: int
    arrays: Arrays
    strategy_arrays: Arrays
    history: tuple[RoundRecord, ...]
    closing: RoundRecord | None = None

    @property
    def num_noisy_means(self) -> int:
        """How many of the rounds gave out a mean with noise."""
        return sum(record.epsilon is not None for record in self.history)

    def scores_of(self, round_number: int) -> RoundRecord | None:
        """The record with the hospitals' scores of a round's models; None until they arrive.

        Hospitals score what comes in, so they come with the next round, or at the end.
        """
        if round_number < len(self.history):
            return self.history[round_number]
        return self.closing if round_number == self.round else None

    @property
    def hospitals(self) -> set[str]:
        """All that any round names."""
        notes = {note.hospital for record in self.history for note in record.notes}
        return notes | {one.hospital for record in self.history for one in record.dropped}
