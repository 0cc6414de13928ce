"""`oneslice simulate ...`. Heavy libraries load inside the commands, so that help is quick."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from common.command_line import STOPPED, Format, run_commands
from simulations.progress import bars_on_terminal

if TYPE_CHECKING:
    from server.report import ModelScores, Report
    from simulations.engines import Engine

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option(help="The run's folder; an unfinished run there is resumed.")]
Data = Annotated[Path | None, typer.Option(help="A labelled folder: MSD, nnU-Net v2 or plain.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def run(arguments: Sequence[str], prog_name: str) -> None:
    """The role's entry point."""
    run_commands(app, arguments, prog_name)


@app.callback()
def main() -> None:
    """Run many hospitals on one machine."""


@app.command("run")
def run_command(
    scenario: Annotated[str, typer.Argument(help="A scenario's name, a TOML file, or `generic`.")],
    out: Out,
    data: Data = None,
    seed: Annotated[int | None, typer.Option(help="Another draw of the same scenario.")] = None,
    engine: Annotated[str, typer.Option(help="in-process or ray")] = "in-process",
    local_only: Annotated[
        bool, typer.Option("--local-only", help="Also train each hospital alone.")
    ] = False,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Run a scenario to its report; run it again on the same folder to resume."""
    with bars_on_terminal() as progress:
        from server.run_folder import RunFolder
        from simulations.generic import choose_scenario
        from simulations.run import finished_report, run_scenario

        folder = RunFolder(out)
        was_finished = finished_report(folder) is not None
        chosen = choose_scenario(scenario, data)
        chosen = chosen if seed is None else chosen.with_seed(seed)
        report = run_scenario(
            chosen, data, out, engine=_engine(engine), local_only=local_only, progress=progress
        )
    if output is Format.JSON:
        print(report.model_dump_json())
        return
    if was_finished:
        print(f"finished earlier; {out} holds this run, give another --out for a new one")
    print_report(report)
    print(f"report: {folder.report_html}")


@app.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    data: Annotated[Path, typer.Option(help="A labelled folder: MSD, nnU-Net v2 or plain.")],
    json_file: Json = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Score a run's final models on any labelled folder (external validation)."""
    with bars_on_terminal() as progress:
        from simulations.external import evaluate_run

        scores = evaluate_run(run_folder, data, progress)
    text = json.dumps({role: one.model_dump() for role, one in scores.items()}, indent=2)
    if json_file is not None:
        json_file.write_text(text, encoding="utf-8")
    if output is Format.JSON:
        print(text)
    else:
        print_scores(scores)


@app.command()
def propagation(
    data: Annotated[Path, typer.Option(help="A labelled folder: MSD, nnU-Net v2 or plain.")],
    out: Annotated[Path | None, typer.Option(help="Keep the ingested scans here.")] = None,
    methods: Annotated[str, typer.Option(help="Names with commas; none: all that can run.")] = "",
    slice_choice: Annotated[
        str,
        typer.Option(help="oracle (by the truth), centre, random, spread, cohort, representative."),
    ] = "oracle,centre,spread",
    plane: Annotated[str, typer.Option(help="sagittal, coronal, axial or auto.")] = "auto",
    scans: Annotated[int, typer.Option(help="How many scans to draw; 0: all.")] = 0,
    seeds: Annotated[int, typer.Option(help="Repeats of what is learnt or drawn.")] = 1,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    training_seconds: Annotated[
        float, typer.Option(help="For sli2vol; others take fixed steps.")
    ] = 60,
    training_steps: Annotated[
        int | None, typer.Option(help="For all that learn; repeats exactly.")
    ] = None,
    json_file: Json = None,
    plots: Annotated[Path | None, typer.Option(help="Write PNG plots to this folder.")] = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Compare ways to spread one painted slice through its scan, against full labels."""
    with bars_on_terminal() as progress:
        from common.settings_file import parse_settings
        from simulations.propagation import ComparisonSettings, compare_propagators
        from simulations.propagation_table import to_json, to_text

        values = {
            "methods": _words(methods),
            "slice_choices": _words(slice_choice),
            "plane": plane,
            "scans": scans,
            "seeds": seeds,
            "seed": seed,
            "training_seconds": training_seconds,
            "training_steps": training_steps,
        }
        settings = parse_settings(ComparisonSettings, values, "the options")
        with TemporaryDirectory() as scratch:
            comparison = compare_propagators(data, out or Path(scratch), settings, progress)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(to_json(comparison), encoding="utf-8")
    if plots is not None:
        from simulations.propagation_plots import draw_plots

        draw_plots(comparison, plots)
    print(to_json(comparison) if output is Format.JSON else to_text(comparison))


@app.command("compare")
def compare_command(
    scenario: Annotated[str, typer.Argument(help="A scenario's name, a TOML file, or `generic`.")],
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Runs are kept here, and go on here if they were stopped; without: "
            "runs/SCENARIO-compared."
        ),
    ] = None,
    arms: Annotated[
        str, typer.Option(help="Names with commas (see --list); none: all that differ.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="How many draws of each arm and order.")] = 3,
    orders: Annotated[str, typer.Option(help="given,reversed; none: both, if there are two.")] = "",
    rounds: Annotated[
        int | None, typer.Option(help="Of each task; none: the scenario's own.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of training in each round; none: the scenario's own.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="So many runs at once, on Ray.")] = 1,
    list_arms: Annotated[
        bool, typer.Option("--list", help="Only say what the arms are, and which make no sense.")
    ] = False,
    json_file: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG plot to this file.")] = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Compare a scenario with itself in other arms, over seeds and both orders of its tasks."""
    with bars_on_terminal() as progress:
        from common.settings_file import parse_settings
        from simulations.compare import CompareSettings, compare, describe_arms
        from simulations.compare_table import to_json, to_text
        from simulations.generic import choose_scenario

        values = {
            "arms": _words(arms),
            "seeds": seeds,
            "orders": _words(orders),
            "rounds": rounds,
            "steps": steps,
        }
        settings = parse_settings(CompareSettings, values, "the options")
        chosen = choose_scenario(scenario, data)
        if list_arms:
            print(describe_arms(chosen, settings))
            return
        folder = out or Path("runs") / f"{chosen.name}-compared"
        comparison = compare(chosen, data, folder, settings, at_once=parallel, progress=progress)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(to_json(comparison), encoding="utf-8")
    if plot is not None:
        from simulations.compare_plot import draw_plot

        draw_plot(comparison, plot)
    print(to_json(comparison) if output is Format.JSON else to_text(comparison))
    if comparison.failures:
        raise typer.Exit(STOPPED)


@app.command()
def scenarios() -> None:
    """List the scenarios that come with OneSlice."""
    from simulations.scenario import SCENARIOS, scenario_names

    for name in scenario_names():
        first = (SCENARIOS / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:<22} {first.removeprefix('# ')}")


def print_report(report: "Report") -> None:
    """The short table at the end of a run."""
    models = {"segmenter": report.segmenter, "student": report.student}
    print_scores({role: model for role, model in models.items() if model is not None})
    if report.continual is not None:
        bwt, forgetting = report.continual.bwt, report.continual.forgetting
        print(f"stream      BWT {_number(bwt)}   forgetting {_number(forgetting)}")
    share = report.annotation.fraction_of_slices
    shown = "" if share is None else f" ({100 * share:.1f} % of those with a structure)"
    print(f"annotation  {report.annotation.slices} slices{shown}")
    up = report.communication.bytes_up_by_network
    for name, down in report.communication.bytes_down_by_network.items():
        sizes = f"{down:,.0f} bytes down, {up.get(name, 0):,.0f} up"
        print(f"{name:<11} {sizes} per hospital and round")
    print(f"time        {report.time_s.total / 60:.1f} min, {report.communication.rounds} rounds")


def print_scores(scores: "dict[str, ModelScores]") -> None:
    """One line per model."""
    for role, model in scores.items():
        classes = "   ".join(f"{name} {_number(value)}" for name, value in model.dice.items())
        print(
            f"{role:<11} Dice {_number(model.mean_dice)}   {classes}   "
            f"missed {model.missed}   scans {model.cases}"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _words(listed: str) -> list[str]:
    return [word.strip() for word in listed.split(",") if word.strip()]


def _engine(name: str) -> "Engine":
    from common.errors import SettingsError

    if name not in ("in-process", "ray"):
        raise SettingsError(f"engine {name!r}: expected in-process or ray")
    return "ray" if name == "ray" else "in-process"
