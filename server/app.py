"""The ServerApp: the same for the in-process engine, for Ray and for a real SuperLink."""

import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.plan import FederationPlan
from common.settings_file import read_settings
from server.round_state import RoundState
from server.rounds import OnRound, run_federation
from server.run_folder import RunFolder
from server.tracking import open_tracker

# A hospital's software phones nobody; whoever starts this app may not have said so.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def make_server_app(
    find_run: Callable[[Context], tuple[FederationPlan, RunFolder]],
    on_round: OnRound = lambda _: None,
) -> ServerApp:
    """A ServerApp that runs or resumes the federation that `find_run` names.

    `on_round` is told of every saved round, after the tracker.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        os.environ.update(QUIET)
        plan, folder = find_run(context)
        folder.keep_plan(plan)
        with open_tracker(plan, folder) as tracker:

            def tell(state: RoundState) -> None:
                tracker.log_state(state)
                on_round(state)

            run_federation(grid, plan, folder.checkpoints, tell)

    return server_app


def _run_named_by_config(context: Context) -> tuple[FederationPlan, RunFolder]:
    """The plan and folder from `flwr run --run-config 'plan="..." out="..."'`."""
    plan = read_settings(FederationPlan, Path(str(context.run_config["plan"])))
    return plan, RunFolder(Path(str(context.run_config["out"])))


app = make_server_app(_run_named_by_config)
