"""How far a federation is, who is missing and why, and what to do about it."""

from datetime import UTC, datetime
from typing import Literal

from common.errors import CheckpointError
from common.plan import FederationPlan
from common.printable import printable
from common.settings_file import Settings
from server.checkpoints import load_state
from server.disk_room import missing_room
from server.label_names import NameUse, differing_names, names_table, read_names
from server.ledger import LedgerRow, forgetting_ledger, loss_sentence
from server.progress import LOST_AFTER_S, Progress, read_progress
from server.promotion import ReleaseGate, release_gate
from server.round_state import Dropped, RoundRecord, RoundState
from server.run_folder import RunFolder
from server.wanted import MOST_STARTS, Wanted, read_wanted

ADVICE: dict[str, str] = {
    "silent": "ask the hospital for `oneslice hospital status`; if its rounds take longer than "
    "limits.deadline_s, the next plan needs a longer one",
    "offline": "ask the hospital to see that `oneslice hospital join` runs",
    "failed": "ask the hospital for `oneslice hospital logs worker`",
    "bad_reply": "ask the hospital which version it runs; until it is clear, its answers stay out",
}
# Dice goes up and down by so much from round to round.
WORTH_TELLING = 0.02
WAITING = "not answered yet; nothing to do until the round's deadline"


class MissingHospital(Settings):
    """A hospital whose answer is not there, why, and what to do."""

    hospital: str
    why: str
    what_to_do: str


class FederationStatus(Settings):
    """A federation at a moment.

    Attributes:
        name: The run's folder.
        federation: The plan's name with the beginning of its hash.
        state: What it is at; `gone` is a server that ended and is not started again by itself.
        finished: Whether all rounds are done and the final models scored.
        round: The newest saved round; 0 before the first.
        rounds: How many there will be.
        working_on: The round that the server works on now, if it does.
        sentence: What a person should know.
        last_round_s: Seconds since the newest round was saved.
        missing: Who is not there.
        last: The newest round's record; its notes are what hospitals answered.
        losses: What the newest models that were scored lost, where it is worth telling.
        release: What the plan's release gate says, if it has one.
        label_names: What hospitals' own files call labels, where they differ.
    """

    name: str
    federation: str
    state: Literal[
        "starting", "waiting", "asking", "averaging", "finished", "stopped", "failed", "gone"
    ]
    finished: bool
    round: int
    rounds: int
    working_on: int | None = None
    sentence: str = ""
    last_round_s: float | None = None
    missing: tuple[MissingHospital, ...] = ()
    last: RoundRecord | None = None
    losses: tuple[LedgerRow, ...] = ()
    release: ReleaseGate | None = None
    label_names: tuple[NameUse, ...] = ()


def federation_status(folder: RunFolder) -> FederationStatus:
    """The status of the run in a folder.

    Raises:
        CheckpointError: this is no run's folder, or nothing has happened in it yet.
        SettingsError: its plan does not hold.
    """
    plan = folder.read_plan()
    state = load_state(folder.checkpoints, plan)
    progress, wanted = read_progress(folder.progress_file), read_wanted(folder)
    if state is None and progress is None and wanted is None:
        raise CheckpointError(f"{folder.path}: no round is saved yet")
    finished = state is not None and state.closing is not None
    at_work = progress if progress is not None and progress.is_alive() else None
    return FederationStatus.model_validate(
        {
            "name": folder.path.name,
            "federation": plan.federation,
            "state": "finished" if finished else _state(progress, wanted),
            "finished": finished,
            "round": state.round if state else 0,
            "rounds": plan.num_rounds,
            "working_on": at_work.round if at_work and not finished else None,
            "sentence": ""
            if finished
            else _full_disk(folder, progress, wanted) or _sentence(folder, progress, wanted),
            "last_round_s": _last_round_s(folder),
            "missing": () if finished else _missing(state, at_work),
            "label_names": differing_names(read_names(folder)),
            "last": state.history[-1] if state and state.history else None,
            "losses": _losses(plan, state) if state else (),
            "release": release_gate(plan, state)
            if state and plan.release.most_loss is not None
            else None,
        }
    )


def federation_text(status: FederationStatus, plan: FederationPlan | None = None) -> str:
    """The same for people, a few lines."""
    doing = f", {_stage(plan, status.last)}" if plan and status.last else ""
    lines = [f"{status.federation}: round {status.round} of {status.rounds}{doing}, {status.state}"]
    if status.working_on and status.working_on > status.round:
        lines[0] += f" (round {status.working_on})"
    if status.last_round_s is not None and not status.finished:
        lines[0] += f", last round {duration(status.last_round_s)} ago"
    if status.sentence:
        lines.append(f"  {status.sentence}")
    if status.last is not None:
        lines += [_note_line(status.last, number) for number in range(len(status.last.notes))]
        lines += [f"  {one.hospital:<16}{one.kind:<12} {one.reason}" for one in status.last.dropped]
    if status.last is not None and status.last.epsilon is not None:
        lines.append(f"  privacy: epsilon {status.last.epsilon:.3g} spent (see the report)")
    if status.losses:
        more = f", and {len(status.losses) - 1} more" if len(status.losses) > 1 else ""
        lines.append(f"  lost: {loss_sentence(status.losses[0])}{more}; see the report's ledger")
    if status.release is not None:
        lines.append(f"  release: {_release_sentence(status.release)}")
    lines += [f"  {line}" for line in names_table(status.label_names)]
    for one in status.missing:
        lines.append(f"  missing: {one.hospital}: {one.why}; {one.what_to_do}")
    # Reasons are hospitals' own words.
    return "\n".join(map(printable, lines))


def _losses(plan: FederationPlan, state: RoundState) -> tuple[LedgerRow, ...]:
    limit = plan.release.most_loss
    worth_telling = WORTH_TELLING if limit is None else min(limit, WORTH_TELLING)
    rows = [row for row in forgetting_ledger(plan, state).newest if row.loss > worth_telling]
    return tuple(sorted(rows, key=lambda row: -row.loss))


def _release_sentence(gate: ReleaseGate) -> str:
    newest = gate.promoted_round
    promoted = "no round is promoted yet" if newest is None else f"round {newest} is promoted"
    later = [one for one in gate.refused if one.round > (newest or 0)]
    # The newest round waits for its scores as long as the federation runs: that is no news.
    told = [one for one in later if one.losses] or later
    return f"{promoted}; round {told[-1].round} is not: {told[-1].why_not}" if told else promoted


def duration(seconds: float) -> str:
    """A length of time in the unit that a person would choose."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"


def _state(progress: Progress | None, wanted: Wanted | None) -> str:
    if wanted is not None and wanted.wanted != "running":
        return wanted.wanted
    is_of_this_start = progress is not None and (wanted is None or progress.run_id == wanted.run_id)
    if progress is not None and progress.phase != "failed" and progress.is_alive():
        return progress.phase
    if wanted is not None:
        return "starting"
    return "failed" if is_of_this_start and progress and progress.phase == "failed" else "gone"


def _sentence(folder: RunFolder, progress: Progress | None, wanted: Wanted | None) -> str:
    name = folder.path.name
    if wanted is not None and wanted.wanted == "failed":
        return f"given up after {wanted.reason}; then `oneslice coordinator resume {name}`"
    if wanted is not None and wanted.wanted == "stopped":
        return f"`oneslice coordinator resume {name}` goes on with it"
    if progress is not None and progress.phase != "failed" and progress.is_alive():
        if progress.silent_s > LOST_AFTER_S:
            silent = duration(progress.silent_s)
            return f"its server (process {progress.pid}) lives and has been silent for {silent}"
        return progress.sentence
    why = progress.sentence if progress is not None and progress.phase == "failed" else ""
    if wanted is None:
        return why or "its server has ended: start it again"
    begins = f"start {max(wanted.starts, 1)} of {MOST_STARTS}; begins while `coordinator up` runs"
    return f"{begins}; the last one ended: {why}" if why else begins


def _full_disk(folder: RunFolder, progress: Progress | None, wanted: Wanted | None) -> str:
    """Looked at now: on a full disk a server that ended could not leave a word."""
    if progress is not None and progress.phase != "failed" and progress.is_alive():
        return ""
    full = missing_room(folder)
    if not full:
        return ""
    if wanted is None:
        return f"{full}; then start it again"
    if wanted.wanted == "running":
        return f"{full}; it goes on by itself then"
    return f"{full}; then `oneslice coordinator resume {folder.path.name}`"


def _missing(state: RoundState | None, at_work: Progress | None) -> list[MissingHospital]:
    dropped: tuple[Dropped, ...] = ()
    if state and state.history:
        dropped = state.history[-1].dropped
    found = {
        one.hospital: MissingHospital(
            hospital=one.hospital,
            why=f"round {state.round}: {one.reason}" if state else one.reason,
            what_to_do=ADVICE[one.kind],
        )
        for one in dropped
    }
    for name in at_work.waiting_for if at_work else ():
        if name not in found:
            found[name] = MissingHospital(hospital=name, why="asked", what_to_do=WAITING)
    return [found[name] for name in sorted(found)]


def _last_round_s(folder: RunFolder) -> float | None:
    saved = sorted(folder.checkpoints.glob("round-?????"))
    if not saved:
        return None
    return float(datetime.now(UTC).timestamp() - saved[-1].stat().st_mtime)


def _stage(plan: FederationPlan, last: RoundRecord) -> str:
    if plan.is_self_learning(last.round):
        return "self-learning"
    return f"stage {plan.tasks[last.stage].name}"


def _note_line(record: RoundRecord, number: int) -> str:
    note = record.notes[number]
    scores = "  ".join(
        f"{score.task} {score.mean_dice:.3f}"
        for score in note.scores
        if score.mean_dice is not None
    )
    return f"  {note.hospital:<16}{note.outcome:<12} used {note.used:<4} {scores}"
