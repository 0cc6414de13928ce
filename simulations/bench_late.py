"""A hospital that joins at the last stage with few scans: `python -m simulations.bench late`.

Does the federation serve it better than it could itself, and does its joining cost the others
anything? One federation runs until then; two go on from it, one with the newcomer and one without.
All are scored on their own scans that nobody trained on, with full labels: held-back ones, and of
the newcomer also the patients whom its deal leaves out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.store.layouts import Dataset, find_cases
from client.store.scans import CatalogScan, list_scans
from client.store.store import Store
from common.errors import SettingsError
from common.networks.unet import SEGMENTER
from common.plan import Earlier
from common.settings_file import parse_settings
from server.round_state import RoundState
from server.run_folder import RunFolder
from simulations.annotator import SimulatedAnnotator
from simulations.earlier_sites import take_over_sites
from simulations.engines import SimulatedFederation, run_engine
from simulations.evaluate import TrainedModel, score_scans, summarise
from simulations.progress import Progress
from simulations.run import Prepared, run_alone, show_rounds
from simulations.scenario import Scenario
from simulations.sites import Dealt, deal_cases, fill_sites, gather_test_scans

MOST_LOSS = 0.01


@dataclass(frozen=True)
class Finished:
    """A federation that has run: by which scenario, its hospitals' stores, and how it ended."""

    scenario: Scenario
    stores: Mapping[str, Store]
    state: RoundState


@dataclass(frozen=True)
class Unseen:
    """A hospital's own scans that nobody trained on, and where they lie."""

    places: Sequence[tuple[Store, Sequence[CatalogScan]]]

    def dice(self, scenario: Scenario, state: RoundState) -> float:
        """The mean of the segmenter over classes and scans; 0 without scans."""
        model = TrainedModel(scenario.plan, state.arrays, SEGMENTER)
        cases = [case for place in self.places for case in score_scans(*place, model)]
        return summarise(cases, model).mean_dice or 0.0

    @property
    def count(self) -> int:
        """How many."""
        return sum(len(scans) for _, scans in self.places)


def run_late(scenario: Scenario, data: Path, out: Path, progress: Progress) -> None:
    """Runs all that one draw of the scenario needs and prints a row for each hospital."""
    dataset, newcomer = find_cases(data), newcomer_of(scenario)
    before = run_one(until_then(scenario), dataset, out / "before", progress)
    goes_on = Earlier(federation=before.scenario.plan.federation, round=before.state.round)
    away = run_one(_extending(without(scenario), goes_on), dataset, out / "away", progress)
    joined = run_one(_extending(scenario, goes_on), dataset, out / "joined", progress)

    print(f"seed {scenario.seed}: mean Dice on own scans that nobody trained on")
    print(f"{'':<14}{'scans':>6}{'before':>9}{'without it':>12}{'with it':>9}{'change':>9}")
    losses = []
    for site, store in away.stores.items():
        own = Unseen([(store, held_back(store, scenario))])
        dice = [own.dice(one.scenario, one.state) for one in (before, away, joined)]
        losses.append(max(dice[0], dice[1]) - dice[2])
        numbers = f"{dice[0]:>9.4f}{dice[1]:>12.4f}{dice[2]:>9.4f}{dice[2] - dice[1]:>+9.4f}"
        print(f"{site:<14}{own.count:>6}{numbers}")
    verdict = "holds" if max(losses) <= MOST_LOSS else "does not hold"
    print(f"largest loss {max(losses):+.4f}, asked at most {MOST_LOSS}: {verdict}")
    _print_newcomer(scenario, newcomer, (before, away, joined), dataset, progress)


def _print_newcomer(
    scenario: Scenario,
    newcomer: str,
    federations: tuple[Finished, Finished, Finished],
    dataset: Dataset,
    progress: Progress,
) -> None:
    before, away, joined = federations
    store, out = joined.stores[newcomer], Path(joined.stores[newcomer].folder).parent.parent
    later = gather_test_scans(scenario, dataset, left_out(scenario, dataset), out, progress)
    own = Unseen([(store, held_back(store, scenario)), (later.store, later.scans)])
    num_steps = scenario.plan.num_rounds * scenario.plan.training.steps_per_round
    painted = deal_cases(scenario, dataset).classes_painted
    prepared = Prepared(dict(joined.stores), later, painted)
    alone = run_alone(as_long_alone(scenario), newcomer, prepared, out, progress)
    assert alone is not None  # it has scans
    scans = list_scans(store)
    trained = len(scans) - len(held_back(store, scenario))
    print(f"{newcomer}: {len(scans)} scans, {trained} to train on, {own.count} to score")
    for what, found in (("before", before), ("without it", away), ("with it", joined)):
        print(f"  the federation's model, {what:<12}{own.dice(found.scenario, found.state):.4f}")
    dice = own.dice(alone.scenario, alone.state)
    print(f"  its own, {num_steps} steps alone     {dice:.4f}", flush=True)


def newcomer_of(scenario: Scenario) -> str:
    """The site to which only the last task is dealt, by a deal of its own.

    Raises:
        SettingsError: there is none, or several.
    """
    last = scenario.plan.tasks[-1].name
    earlier = {site for deal in scenario.deals if deal.task != last for site in deal.sites}
    newcomers = set(scenario.sites) - earlier
    if len(newcomers) != 1 or tuple(newcomers) not in {deal.sites for deal in scenario.deals}:
        raise SettingsError(
            f"expected one site of {scenario.name!r} that gets scans of {last!r} alone, by a deal "
            f"of its own; got {sorted(newcomers)}"
        )
    return newcomers.pop()


def without(scenario: Scenario) -> Scenario:
    """The same scenario, and the newcomer stays away."""
    newcomer = newcomer_of(scenario)
    values = scenario.model_dump()
    sites = [site for site in scenario.sites if site != newcomer]
    values["deals"] = [deal for deal in values["deals"] if deal["sites"] != (newcomer,)]
    values["plan"]["limits"]["hospitals"] = len(sites)
    return parse_settings(Scenario, {**values, "sites": sites}, "without the newcomer")


def until_then(scenario: Scenario) -> Scenario:
    """The scenario of the others until the last stage begins."""
    values = without(scenario).model_dump()
    *tasks, last = values["plan"]["tasks"]
    deals = [deal for deal in values["deals"] if deal["task"] != last["name"]]
    values["plan"]["tasks"] = tasks
    return parse_settings(Scenario, {**values, "deals": deals}, "before the newcomer")


def as_long_alone(scenario: Scenario) -> Scenario:
    """Its last stage is as long as all of them: alone one trains as long as the federation did."""
    values = scenario.model_dump()
    values["plan"]["tasks"][-1]["rounds"] = scenario.plan.num_rounds
    return parse_settings(Scenario, values, "alone")


def left_out(scenario: Scenario, dataset: Dataset) -> Dealt:
    """The cases that the newcomer would have if its deal were not cut short."""
    newcomer = newcomer_of(scenario)
    deals = [{**deal.model_dump(), "scans": None} for deal in scenario.deals]
    uncut = parse_settings(Scenario, {**scenario.model_dump(), "deals": deals}, "uncut")
    kept, all_of_it = (deal_cases(one, dataset).training for one in (scenario, uncut))
    rest = {
        task: sorted(set(sites.get(newcomer, [])) - set(kept[task].get(newcomer, [])))
        for task, sites in all_of_it.items()
    }
    return Dealt({}, rest, {})


def held_back(store: Store, scenario: Scenario) -> list[CatalogScan]:
    """A hospital's scans that no round trains on."""
    return [scan for scan in list_scans(store) if scenario.plan.is_held_back(scan.scan_id)]


def run_one(scenario: Scenario, dataset: Dataset, out: Path, progress: Progress) -> Finished:
    """A federation from its scans to its last round; one that was stopped goes on."""
    plan, folder = scenario.plan, RunFolder(out.resolve())
    take_over_sites(plan, folder.path)
    folder.keep_plan(plan)
    dealt = deal_cases(scenario, dataset)
    stores = fill_sites(scenario, dataset, dealt, folder.path / "sites", progress)
    annotator = SimulatedAnnotator(plan, scenario.annotator, dealt.classes_painted)
    paths = {name: store.folder for name, store in stores.items()}
    federation = SimulatedFederation(plan, folder, paths, scenario.faults, annotator)
    state = run_engine("in-process", federation, show_rounds(progress, plan, out.name))
    return Finished(scenario, stores, state)


def _extending(scenario: Scenario, earlier: Earlier) -> Scenario:
    plan = scenario.plan.model_copy(update={"extends": earlier})
    return scenario.model_copy(update={"plan": plan})
