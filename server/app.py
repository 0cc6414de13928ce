"""The ServerApp: the same for the in-process engine, for Ray and for a real SuperLink."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.plan import FederationPlan
from common.quiet import QUIET
from common.settings_file import read_settings
from server.label_names import hear_names
from server.plan_growth import begin_from_earlier
from server.progress import telling_progress
from server.round_state import RoundState
from server.rounds import OnRound, run_federation
from server.run_folder import RunFolder
from server.tracking import open_tracker

log = logging.getLogger(__name__)


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
        os.environ.update(QUIET)  # whoever starts this app may not have said so
        plan, folder = find_run(context)
        progress = (folder.progress_file, plan.federation, str(context.run_id), plan.num_rounds)
        with (
            folder.only_server(),
            _logging_to(folder.server_log),
            telling_progress(*progress) as on_progress,
        ):
            folder.keep_plan(plan)
            begin_from_earlier(folder, plan)
            with open_tracker(plan, folder) as tracker:

                def tell(state: RoundState) -> None:
                    tracker.log_state(state)
                    on_round(state)

                hear = partial(hear_names, folder)
                run_federation(grid, plan, folder.checkpoints, tell, on_progress, hear)

    return server_app


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Keeps the run's log beside it: Flower mixes those of all runs."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Flower's own logger hands nothing on to the root.
    loggers = [logging.getLogger(), logging.getLogger("flwr")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except Exception:
        log.exception("the server ends")
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _run_named_by_config(context: Context) -> tuple[FederationPlan, RunFolder]:
    """The plan and folder from `flwr run --run-config 'plan="..." out="..." tracking="..."'`."""
    plan = read_settings(FederationPlan, Path(str(context.run_config["plan"])))
    folder = RunFolder(
        Path(str(context.run_config["out"])), str(context.run_config.get("tracking", ""))
    )
    return plan, folder


app = make_server_app(_run_named_by_config)
