"""A scenario: which hospitals, which scans each gets in which stage, who annotates, what fails."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.errors import SettingsError
from common.plan import FederationPlan, Name
from common.settings_file import Settings, parse_settings, read_settings

SCENARIOS = Path(__file__).parent / "scenarios"


class PhantomSettings(Settings):
    """Built-in scans: how many per hospital and stage to train on, and per stage to test on."""

    shape: tuple[int, int, int] = (28, 36, 28)
    scans_per_site: int = Field(default=5, ge=1, le=1000)
    test_scans: int = Field(default=6, ge=1, le=1000)


class Split(Settings):
    """Which cases are test cases: those with a value in a column of cases.csv, or a share."""

    column: str | None = None
    value: str | None = None
    share: float = Field(default=0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> "Split":
        if (self.column is None) != (self.value is None):
            raise ValueError("column and value of a split come together")
        return self


class Deal(Settings):
    """The scans of one task: cases that match `where`, dealt to `sites` in turn.

    `part` = [k, n] takes the k-th of n equal parts of them, so that stages get disjoint scans. Each
    site gets `scans` of them at most (patients, where they are kept together), and nobody the rest.
    A task may have several deals, whose scans it gets together. A site that only later tasks are
    dealt to has nothing to train on until then: it joins late. Of the task's `classes` only those
    that are named are painted in these scans, nothing is known of the others; none named: all.
    """

    task: Name
    where: dict[str, str] = {}
    part: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 1)
    scans: int | None = Field(default=None, ge=1)
    sites: tuple[Name, ...] = ()
    classes: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Deal":
        if self.part[0] > self.part[1]:
            raise ValueError(f"part {list(self.part)}: the first number is beyond the second")
        return self


class AnnotatorSettings(Settings):
    """Who paints: the truth itself, or a hand whose boundaries wander by `jitter_voxels`."""

    kind: Literal["oracle", "jittered"] = "oracle"
    jitter_voxels: float = Field(default=1.0, ge=0, le=10)
    seconds_per_slice: float = Field(default=60, ge=0)


class Fault(Settings):
    """A hospital that misbehaves in some rounds (all, if none are named).

    Sent in place of its own model: "nan", "shape"; nothing at all: "raises", "silent". To spoil the
    shared model: "scaled" moves `factor` times as far as it trained, "claims" says it has a million
    scans, "labels_swapped" paints every class as another, in all rounds.
    """

    site: Name
    kind: Literal["nan", "shape", "raises", "silent", "scaled", "claims", "labels_swapped"]
    rounds: tuple[int, ...] = ()
    factor: float = -1.0

    @model_validator(mode="after")
    def _check(self) -> "Fault":
        if self.kind == "labels_swapped" and self.rounds:
            raise ValueError(
                "labels_swapped holds in all rounds, what is painted stays: drop rounds"
            )
        return self


class Scenario(Settings):
    """One simulated federation."""

    name: Name
    seed: int = Field(default=0, ge=0)
    sites: tuple[Name, ...] = Field(min_length=1)
    phantoms: PhantomSettings | None = None
    group_by: str | None = None
    spacing_is_placeholder: bool = False
    test: Split = Split()
    deals: tuple[Deal, ...] = Field(min_length=1)
    annotator: AnnotatorSettings = AnnotatorSettings()
    faults: tuple[Fault, ...] = ()
    plan: FederationPlan

    @model_validator(mode="after")
    def _check(self) -> "Scenario":
        tasks = [task.name for task in self.plan.tasks]
        dealt = [deal.task for deal in self.deals]
        if set(dealt) != set(tasks):
            raise ValueError(f"deals are for tasks {dealt}; the plan has {tasks}")
        classes_of = {task.name: task.classes for task in self.plan.tasks}
        for deal in self.deals:
            others = sorted({*deal.classes} - {*classes_of[deal.task]})
            if others:
                raise ValueError(
                    f"a deal of task {deal.task!r} names classes {others}, the task has "
                    f"{list(classes_of[deal.task])}"
                )
        if self.phantoms is not None and len(dealt) != len(tasks):
            raise ValueError(f"phantoms are drawn deal by deal, one for each task; got {dealt}")
        if len(set(self.sites)) != len(self.sites):
            raise ValueError(f"sites must differ, got {list(self.sites)}")
        named = [site for deal in self.deals for site in deal.sites]
        unknown = sorted({*named, *(fault.site for fault in self.faults)} - set(self.sites))
        if unknown:
            raise ValueError(f"sites {unknown} are not among {list(self.sites)}")
        if self.plan.limits.hospitals != len(self.sites):
            raise ValueError(
                f"plan.limits.hospitals is {self.plan.limits.hospitals}, there are "
                f"{len(self.sites)} sites"
            )
        return self

    def with_seed(self, seed: int) -> "Scenario":
        """The same scenario drawn anew: dealing, slices, weights, batches."""
        plan = {**self.plan.model_dump(), "seed": seed}
        changed = {**self.model_dump(), "seed": seed, "plan": plan}
        return parse_settings(Scenario, changed, f"seed {seed}")


def scenario_names() -> list[str]:
    """The scenarios that come with OneSlice."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def read_scenario(name_or_path: str) -> Scenario:
    """A scenario by its name, or from a TOML file.

    Raises:
        SettingsError: there is none of that name, or its values do not hold.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SCENARIOS / f"{name_or_path}.toml"
        if not path.exists():
            raise SettingsError(
                f"no scenario is called {name_or_path!r}; there are "
                f"{', '.join(scenario_names())}, or give the path of a TOML file"
            )
    return read_settings(Scenario, path)
