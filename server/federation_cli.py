"""The commands by which a coordinator runs federations.

Heavy libraries load inside the commands, so that help is quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.command_line import Format
from server.cli_options import DEFAULT_CONSORTIUM, ConsortiumFolder, OutputFormat

if TYPE_CHECKING:
    from server.consortium import Consortium
    from server.run_folder import RunFolder

FederationName = Annotated[str, typer.Argument(metavar="NAME", help="The federation's name.")]


def add_federation(app: typer.Typer) -> None:
    """Puts these commands among a coordinator's others."""
    for command in (up, down, start, stop, resume, status, logs, promote, export):
        app.command()(command)
    app.command("proxy-config")(proxy_config)


def up(consortium: ConsortiumFolder = DEFAULT_CONSORTIUM) -> None:
    """Run SuperLink, proxy and MLflow, and keep federations running, until it is ended."""
    import logging

    from server.up import up as run_all

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run_all(_open(consortium), lambda text: print(text, flush=True))


def down(consortium: ConsortiumFolder = DEFAULT_CONSORTIUM) -> None:
    """End what `up` runs. Federations go on with the next `up`."""
    from common.errors import ServiceError
    from common.supervision import stop_services

    if not stop_services(_open(consortium).services_file):
        raise ServiceError("not everything ended within a minute: see `status`, and try again")
    print("the coordinator is down")


def start(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    name: Annotated[
        str | None, typer.Option(help="The federation's name; the plan's if not given.")
    ] = None,
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """Start a federation, or go on with it if it has begun with the same plan.

    A plan with `extends` goes on from an earlier one.
    """
    from common.plan import FederationPlan
    from common.settings_file import read_settings
    from server.plan_growth import find_earlier
    from server.wanted import newest_round

    opened = _open(consortium)
    wanted = read_settings(FederationPlan, plan)
    folder = opened.run_folder(_checked_name(name or wanted.name))
    if wanted.extends is not None and not newest_round(folder):
        find_earlier(folder, wanted)  # now, and not when its server begins
    folder.keep_plan(wanted)
    if not any(folder.checkpoints.glob("round-?????")):
        from server.first_models import save_first_models

        save_first_models(folder)
    _want_running(opened, folder)


def resume(name: FederationName, consortium: ConsortiumFolder = DEFAULT_CONSORTIUM) -> None:
    """Go on with a federation that was stopped or given up, from its newest saved round."""
    opened = _open(consortium)
    _want_running(opened, _find(opened, name))


def stop(name: FederationName, consortium: ConsortiumFolder = DEFAULT_CONSORTIUM) -> None:
    """Stop a federation; its saved rounds stay, and `resume` goes on with them."""
    from server.keep_running import stop_federation
    from server.members_sync import is_superlink_up
    from server.wanted import newest_round

    opened = _open(consortium)
    folder = _find(opened, name)
    stop_federation(opened, folder, superlink_is_up=is_superlink_up(opened))
    print(f"{name}: stopped after round {newest_round(folder)}")


def status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A federation; also the folder of any run."),
    ] = None,
    output: OutputFormat = Format.TEXT,
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """How the services, the hospitals and the federations are, and what to do about it."""
    from server.federation_status import federation_status, federation_text

    if name is None:
        from server.consortium_status import consortium_status, consortium_text

        everything = consortium_status(_open(consortium))
        text = everything.model_dump_json(indent=2)
        print(text if output is Format.JSON else consortium_text(everything))
    else:
        folder = _find_run(consortium, name)
        found = federation_status(folder)
        text = found.model_dump_json(indent=2)
        print(text if output is Format.JSON else federation_text(found, folder.read_plan()))


def logs(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A service (superlink, nginx, mlflow) or federation."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more, until Ctrl-C.")] = False,
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """Print the end of a log."""
    from common.log_reading import find_logs, print_logs

    opened = _open(consortium)
    found = find_logs(opened.logs)
    found |= {path.parent.name: path for path in sorted(opened.runs.glob("*/server.log"))}
    print_logs(found, name, follow=follow)


def promote(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A federation; also the folder of any run.")
    ],
    number: Annotated[
        int | None,
        typer.Option("--round", help="That round; not given: the newest that passed the gate."),
    ] = None,
    despite_losses: Annotated[
        bool,
        typer.Option("--despite-losses", help="Also if the gate refused it; the card says so."),
    ] = False,
    output: OutputFormat = Format.TEXT,
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """Put a round's models and their card where they can be given out, if the gate lets it pass."""
    from server.model_registry import crown
    from server.promoted_models import promote as write_models
    from server.promoted_models import promotion_text

    folder = _find_run(consortium, name)
    done = write_models(folder, number, despite_losses=despite_losses)
    done = done.model_copy(update={"registry": crown(folder, done)})
    print(done.model_dump_json(indent=2) if output is Format.JSON else promotion_text(done))


def export(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A federation; also the folder of any run.")
    ],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    number: Annotated[
        int | None,
        typer.Option("--round", help="That promoted round; not given: the highest."),
    ] = None,
    output: OutputFormat = Format.TEXT,
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """Write a promoted round as MONAI Bundles and ONNX files, with a model card."""
    from rich.console import Console
    from rich.progress import Progress

    folder = _find_run(consortium, name)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("load PyTorch", total=None)
        from server.exported_models import NUM_STEPS, export_text
        from server.exported_models import export as write_models

        progress.update(bar, total=NUM_STEPS + 1)
        done = write_models(
            folder,
            number,
            out,
            lambda step: progress.update(bar, description=step, advance=1),
        )
    print(done.model_dump_json(indent=2) if output is Format.JSON else export_text(done))


def proxy_config(consortium: ConsortiumFolder = DEFAULT_CONSORTIUM) -> None:
    """Print the proxy's configuration, for the `http` part of an nginx that you run yourselves."""
    from server.nginx import site_settings

    print(site_settings(_open(consortium)), end="")


def _open(path: Path) -> "Consortium":
    from server.consortium import Consortium

    opened = Consortium(path)
    opened.read_settings()
    return opened


def _find(consortium: "Consortium", name: str) -> "RunFolder":
    """The folder of a federation that was started.

    Raises:
        SettingsError: there is none of that name.
    """
    from common.errors import SettingsError

    folder = consortium.run_folder(_checked_name(name))
    if not folder.plan_file.exists():
        known = ", ".join(path.parent.name for path in sorted(consortium.runs.glob("*/plan.toml")))
        raise SettingsError(f"no federation is called {name!r}; there are: {known or 'none yet'}")
    return folder


def _find_run(consortium: Path, name: str) -> "RunFolder":
    """A researcher names a run's folder; a coordinator a federation of the consortium."""
    from server.run_folder import RunFolder

    folder = RunFolder(Path(name))
    return folder if folder.plan_file.exists() else _find(_open(consortium), name)


def _checked_name(name: str) -> str:
    """Refuses what would lead out of the folder of all federations.

    Raises:
        SettingsError: it is no name.
    """
    import re

    from common.errors import SettingsError
    from common.plan import NAME_PATTERN

    if re.fullmatch(NAME_PATTERN, name) is None:
        raise SettingsError(f"expected a name of letters, digits, - and _, got {name!r}")
    return name


def _want_running(consortium: "Consortium", folder: "RunFolder") -> None:
    from common.supervision import read_services
    from server.keep_running import is_finished
    from server.wanted import Wanted, alone, newest_round, read_wanted, write_wanted

    name = folder.path.name
    if is_finished(folder):
        print(f"{name}: finished before; `oneslice coordinator report {folder.path}`")
        return
    with alone(folder):
        before = read_wanted(folder) or Wanted()
        again = {"wanted": "running", "starts": 0, "reason": "", "submitted": ""}
        write_wanted(folder, before.model_copy(update=again))
    services = read_services(consortium.services_file)
    is_up = services is not None and services.is_supervised()
    when = "in a few seconds" if is_up else "with the next `oneslice coordinator up`"
    saved = newest_round(folder)
    print(f"{name}: {f'goes on after round {saved}' if saved else 'begins'} {when}")
    print(f"see `oneslice coordinator status {name}`")
