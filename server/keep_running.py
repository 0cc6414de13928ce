"""Starts each wanted federation again whose server has ended; it resumes from its checkpoints.

And ends servers that live though their federation is not wanted any more.
"""

import logging
from datetime import UTC, datetime

from common.errors import OneSliceError, ServiceError
from server.consortium import Consortium
from server.disk_room import missing_room
from server.flower_control import find_run, start_run, stop_run
from server.progress import Progress, read_progress
from server.run_folder import RunFolder
from server.wanted import MOST_STARTS, Wanted, alone, newest_round, read_wanted, write_wanted

log = logging.getLogger(__name__)
# From `flwr run` to the first sign of life: 5 to 30 s on a machine with other work.
FIRST_SIGN_WITHIN_S = 180.0


def keep_federations_running(consortium: Consortium) -> None:
    """One look at all federations. Call it while the SuperLink answers.

    Raises:
        ServiceError: one or more could not be started or ended; the others were looked at.
    """
    problems = []
    for path in sorted(consortium.runs.glob("*")):
        folder = RunFolder(path)
        try:
            with alone(folder):
                wanted = read_wanted(folder)
                if wanted is not None and wanted.wanted == "running":
                    _keep_running(consortium, folder, wanted)
                elif wanted is not None and (run_id := _living_run(folder)):
                    stop_run(consortium, run_id)
        except (OneSliceError, OSError) as error:
            problems.append(f"{path.name}: {error}")
    if problems:
        raise ServiceError("; ".join(problems))


def stop_federation(consortium: Consortium, folder: RunFolder, *, superlink_is_up: bool) -> None:
    """Ends a federation's server and keeps it ended; its saved rounds stay.

    Raises:
        ServiceError: the SuperLink does not answer.
    """
    with alone(folder):
        wanted = read_wanted(folder) or Wanted()
        write_wanted(folder, wanted.model_copy(update={"wanted": "stopped", "reason": ""}))
        if superlink_is_up:
            # A start that was not written down any more has another number.
            for run_id in {wanted.run_id, _living_run(folder)} - {""}:
                stop_run(consortium, run_id)


def is_finished(folder: RunFolder) -> bool:
    """Whether all rounds are done and the final models are scored."""
    progress = read_progress(folder.progress_file)
    return progress is not None and progress.phase == "finished"


def _living_run(folder: RunFolder) -> str:
    """Flower's number of the server that works in a folder; empty if none does."""
    progress = read_progress(folder.progress_file)
    if progress is None or progress.phase in {"failed", "finished"} or not progress.is_alive():
        return ""
    return progress.run_id


def _keep_running(consortium: Consortium, folder: RunFolder, wanted: Wanted) -> None:
    if is_finished(folder):
        return
    progress = read_progress(folder.progress_file)
    if living := _living_run(folder):
        if living != wanted.run_id:
            # Its start was not written down any more. It holds the run's folder, so it counts.
            write_wanted(folder, wanted.model_copy(update={"run_id": living}))
        return
    if progress is not None and progress.run_id != wanted.run_id:
        progress = None  # of an earlier start
    if wanted.submitted_s < wanted.pause_s:
        return
    if not wanted.run_id:
        _start(consortium, folder, wanted, "")
        return
    run = find_run(consortium, wanted.run_id)
    is_starting = progress is None and run is not None and not run.is_finished
    if is_starting and wanted.submitted_s < FIRST_SIGN_WITHIN_S:
        return
    # Nobody waits any more for what hospitals compute for the server that is gone.
    stop_run(consortium, wanted.run_id)
    _start(consortium, folder, wanted, _why_it_ended(progress, run.details if run else ""))


def _why_it_ended(progress: Progress | None, details: str) -> str:
    if progress is not None and progress.phase == "failed":
        return progress.sentence
    # Flower writes N/A for nothing.
    return details.removeprefix("N/A") or "its server ended without a word"


def _start(consortium: Consortium, folder: RunFolder, wanted: Wanted, why: str) -> None:
    if full := missing_room(folder):
        # It would end at its next round, and a start that cannot be written down is made again
        # with every look. Once there is room it goes on.
        raise ServiceError(full)
    saved = newest_round(folder)
    starts = 0 if saved > wanted.round else wanted.starts
    if starts >= MOST_STARTS:
        given_up = {"wanted": "failed", "reason": f"{starts} starts without a new round: {why}"}
        write_wanted(folder, wanted.model_copy(update=given_up))
        log.error("%s is given up: %s", folder.path.name, given_up["reason"])
        return
    if why:
        log.warning("%s is started again after round %d: %s", folder.path.name, saved, why)
    run_id = start_run(consortium, folder.plan_file, folder.path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_wanted(folder, Wanted(run_id=run_id, starts=starts + 1, round=saved, submitted=now))
