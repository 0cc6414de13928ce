"""The comparison of a scenario with itself in other arms: `oneslice simulate compare`.

Every arm, seed and order of tasks is a run of its own, in a folder of its own, which resumes by
itself; so does the comparison.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from common.errors import SettingsError
from common.settings_file import Settings, differences, parse_settings
from simulations.arms import ARMS, REFERENCE, Arm, with_plan
from simulations.compare_run import Failure, Order, Row, Run, attempt, failure
from simulations.in_parallel import run_in_parallel
from simulations.progress import Progress, counted, no_progress
from simulations.run import find_data
from simulations.scenario import Scenario
from simulations.sites import deal_cases, patients_of

ORDERS: tuple[Order, ...] = ("given", "reversed")
KEPT_FILE = "comparison.json"


class CompareSettings(Settings):
    """What to compare.

    Attributes:
        arms: names, the reference is always among them; none: all that differ from it.
        seeds: how many draws of the scenario, from its own seed on.
        orders: of the tasks; none: both, where there are two.
        rounds: of each task, in place of the scenario's.
        steps: of a hospital in each round, in place of the scenario's; the student's in proportion.
    """

    arms: tuple[str, ...] = ()
    seeds: int = Field(default=3, ge=1)
    orders: tuple[Order, ...] = ()
    rounds: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        scenario: as it is, shortened if that was asked for.
        rows: of the runs that ended, arm by arm.
        failures: the runs that did not.
        left_out: why an arm or order has none, by its name.
    """

    scenario: Scenario
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Chosen:
    """The arms and orders of a comparison, and why others are left out, by their names."""

    arms: tuple[Arm, ...]
    orders: tuple[Order, ...]
    left_out: dict[str, str]


class Kept(Settings):
    """What a comparison's folder belongs to; other arms, seeds and orders may come later."""

    scenario: Scenario
    data: str | None


def compare(
    scenario: Scenario,
    data: Path | None,
    out: Path,
    settings: CompareSettings,
    *,
    at_once: int = 1,
    progress: Progress = no_progress,
) -> Comparison:
    """Runs, resumes or only reads every run of a comparison; a run that fails stops no other.

    Args:
        scenario: what to compare.
        data: its scans; none: it draws phantoms.
        out: the runs' folders are kept here.
        settings: which runs.
        at_once: more than 1: as many processes, on Ray.
        progress: told how far it is.

    Raises:
        SettingsError: an arm or order does not exist or makes no sense here, the folder holds a
            comparison of something else, or the scans do not fit the scenario.
    """
    out = out.resolve()
    scenario = shortened(scenario, settings)
    chosen = choose(scenario, settings)
    kept = Kept(scenario=scenario, data=None if data is None else str(data.resolve()))
    check_kept(kept, out)
    seeds = range(scenario.seed, scenario.seed + settings.seeds)
    runs = [run for seed in seeds for run in runs_of_seed(scenario, data, out, chosen, seed)]
    keep(kept, out)
    ends = _run_all(runs, at_once, progress)
    place = {arm.name: number for number, arm in enumerate(chosen.arms)}
    ends.sort(key=lambda end: place[end.arm])
    return Comparison(
        scenario=scenario,
        rows=tuple(end for end in ends if isinstance(end, Row)),
        failures=tuple(end for end in ends if isinstance(end, Failure)),
        left_out=chosen.left_out,
    )


def shortened(scenario: Scenario, settings: CompareSettings) -> Scenario:
    """The scenario with the rounds and steps that were asked for."""
    training = scenario.plan.training
    changes: dict[str, Any] = {}
    if settings.rounds is not None:
        tasks = scenario.model_dump()["plan"]["tasks"]
        changes["tasks"] = [{**task, "rounds": settings.rounds} for task in tasks]
    if settings.steps is not None:
        share = training.student_steps_per_round / training.steps_per_round
        steps = {
            "steps_per_round": settings.steps,
            "student_steps_per_round": round(share * settings.steps),
        }
        changes["training"] = steps
    return with_plan(scenario, changes) if changes else scenario


def choose(scenario: Scenario, settings: CompareSettings) -> Chosen:
    """The arms and orders that were asked for; or all that make sense, and why others do not.

    Raises:
        SettingsError: one that was asked for does not exist or makes no sense.
    """
    known = [arm.name for arm in ARMS]
    unknown = [name for name in settings.arms if name not in known]
    if unknown:
        raise SettingsError(f"no arm is called {unknown[0]!r}; there are {', '.join(known)}")
    reasons = reasons_against(scenario)
    wanted = {REFERENCE, *settings.arms} if settings.arms else set(known)
    if len(scenario.plan.tasks) == 1:
        reasons["reversed"] = "there is one task, so there is one order"
    orders = settings.orders or ORDERS
    asked_for = [*settings.arms, *settings.orders]
    impossible = [f"{name}: {reasons[name]}" for name in asked_for if name in reasons]
    if impossible:
        raise SettingsError(f"scenario {scenario.name!r} has no {'; no '.join(impossible)}")
    return Chosen(
        arms=tuple(arm for arm in ARMS if arm.name in wanted and arm.name not in reasons),
        orders=tuple(one for one in ORDERS if one in orders and one not in reasons),
        left_out={
            name: reason for name, reason in reasons.items() if name in wanted or name in orders
        },
    )


def reasons_against(scenario: Scenario) -> dict[str, str]:
    """Why arms make no sense in a scenario, by their names; an arm of the same is one too many."""
    reasons: dict[str, str] = {}
    seen: list[tuple[str, Scenario]] = []
    for arm in ARMS:
        if arm.alone:
            if len(scenario.sites) == 1:
                reasons[arm.name] = "there is one hospital only"
            continue
        try:
            changed = arm.changed(in_order(scenario, "given"))
        except SettingsError as error:
            reasons[arm.name] = str(error)
            continue
        same = next((name for name, other in seen if other == changed), None)
        if same is not None:
            nothing = same == REFERENCE
            reasons[arm.name] = "changes nothing here" if nothing else f"the same as {same} here"
        seen.append((arm.name, changed))
    return reasons


def describe_arms(scenario: Scenario, settings: CompareSettings) -> str:
    """Every arm in a line, with why it makes no sense where it does not; and how many runs.

    Raises:
        SettingsError: one that was asked for does not exist or makes no sense.
    """
    scenario = shortened(scenario, settings)
    chosen, reasons = choose(scenario, settings), reasons_against(scenario)
    lines = []
    for arm in ARMS:
        against = f" [left out: {reasons[arm.name]}]" if arm.name in reasons else ""
        lines.append(f"{arm.name:<25}{arm.what}{against}")
    counts = [len(chosen.arms), len(chosen.orders), settings.seeds]
    lines.append("{} arms x {} orders x {} seeds".format(*counts))
    return "\n".join(lines)


def in_order(scenario: Scenario, order: Order) -> Scenario:
    """The scenario on scans that are there, its tasks in an order; each has the same scans in both.

    Phantoms are drawn for the hospitals and deals of the scenario as it is, for all arms.
    """
    tasks = scenario.plan.tasks if order == "given" else scenario.plan.tasks[::-1]
    plan = scenario.plan.model_copy(update={"tasks": tasks})
    return scenario.model_copy(update={"phantoms": None, "plan": plan})


def runs_of_seed(
    scenario: Scenario, data: Path | None, out: Path, chosen: Chosen, seed: int
) -> list[Run]:
    """The runs of all arms and orders. Where an arm is the same in both orders, so is its folder.

    Raises:
        SettingsError: there are no scans, or they do not fit the scenario.
    """
    drawn = scenario.with_seed(seed)
    dataset = find_data(drawn, data, out / "scans" / f"seed-{seed}")
    test = deal_cases(in_order(drawn, "given"), dataset).test
    cases = sorted({name for names in test.values() for name in names})
    patients = patients_of(drawn, dataset, cases)
    if drawn.phantoms is not None:  # another seed draws others, by the same names
        patients = {case: f"{patient}, seed {seed}" for case, patient in patients.items()}
    runs = []
    for arm, order in product(chosen.arms, chosen.orders):
        given, changed = (arm.changed(in_order(drawn, one)) for one in ("given", order))
        named = "given" if changed == given else order
        run = Run(
            arm=arm.name,
            seed=seed,
            order=order,
            scenario=changed,
            alone=arm.alone,
            data=dataset.folder,
            folder=out / arm.name / f"seed-{seed}-{named}",
            tasks=[(task, test[task.name]) for task in drawn.plan.tasks],
            patients=patients,
        )
        runs.append(run)
    return runs


def _run_all(runs: Sequence[Run], at_once: int, progress: Progress) -> list[Row | Failure]:
    """How each run ended, in the same order; those that share a folder are run once."""
    once = list({run.folder: run for run in runs}.values())
    on_run = counted(progress, "runs", len(once))
    ended: Iterator[tuple[Run, Row | Failure | str]]
    if at_once > 1:
        ended = run_in_parallel(attempt, once, at_once)
    else:
        ended = ((run, attempt(run, progress)) for run in once)
    ends: dict[Path, Row | Failure] = {}
    for run, end in ended:
        ends[run.folder] = failure(run, end) if isinstance(end, str) else end
        on_run(run)
    return [ends[run.folder].model_copy(update={"order": run.order}) for run in runs]


def check_kept(kept: Kept, out: Path) -> None:
    """Refuses a folder that belongs to something else.

    Raises:
        SettingsError: it holds a comparison of another scenario, length or folder of scans.
    """
    path = out / KEPT_FILE
    if not path.exists():
        return
    earlier = parse_settings(Kept, json.loads(path.read_text(encoding="utf-8")), str(path))
    if earlier != kept:
        raise SettingsError(
            f"{out} holds a comparison of something else, different in "
            f"{differences(earlier, kept)}: give the same scenario and options, or another --out"
        )


def keep(kept: Kept, out: Path) -> None:
    """Writes what the folder belongs to, once it is known that its runs can start."""
    path = out / KEPT_FILE
    if path.exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(kept.model_dump_json(indent=2), encoding="utf-8")
    unfinished.replace(path)
