"""What a federation's first round begins with, saved before its server starts."""

from server.checkpoints import save_state
from server.plan_growth import begin_from_earlier
from server.rounds import first_state
from server.run_folder import RunFolder


def save_first_models(folder: RunFolder) -> None:
    """Saves fresh weights, or those of the federation that the plan goes on from.

    A command does so, and is over then: only for this does a server need Torch, and it would keep
    the 400 MB for as long as it runs. A run that has begun is left as it is.

    Raises:
        SettingsError: the plan may not go on from where it says.
        CheckpointError: a server works on the run, or its folder cannot be read or written.
    """
    plan = folder.read_plan()
    with folder.only_server():
        if any(folder.checkpoints.glob("round-?????")):
            return
        begin_from_earlier(folder, plan)
        if plan.extends is None:
            save_state(folder.checkpoints, first_state(plan), plan)
