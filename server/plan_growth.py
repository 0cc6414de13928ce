"""Goes on from an earlier federation: its saved rounds, grown to a new plan, begin the new run.

The earlier run lies in the folder beside the new one and stays as it is. What a strategy keeps
between rounds is left behind: it is of other shapes, and begins anew.
"""

from contextlib import suppress
from pathlib import Path

from common.errors import CheckpointError, SettingsError
from common.plan import FederationPlan
from common.plan_growth import check_growth
from common.settings_file import read_settings
from server.checkpoints import read_state, save_state
from server.round_state import RoundState
from server.rounds import first_state
from server.run_folder import RunFolder
from server.wanted import newest_round


def begin_from_earlier(folder: RunFolder, plan: FederationPlan) -> None:
    """Saves the earlier federation's rounds in the run's folder, for plans that go on from one.

    The ends of its stages come along, so that a report can tell of all stages. A run that has begun
    is left as it is.

    Raises:
        SettingsError: no run beside this one is that federation's, or the plan may not follow it.
        CheckpointError: the round is not saved there, or cannot be read or written.
    """
    if plan.extends is None or newest_round(folder) >= plan.begins_after:
        return
    earlier = find_earlier(folder, plan)
    before, fresh = earlier.read_plan(), first_state(plan)
    # The last round comes last: as long as it is not there, all is done again.
    for number in _saved_rounds(earlier):
        if number <= plan.begins_after:
            save_state(folder.checkpoints, _grown(earlier, before, number, fresh), plan)


def find_earlier(folder: RunFolder, plan: FederationPlan) -> RunFolder:
    """The run that a plan goes on from, among those beside the run's own folder.

    Raises:
        SettingsError: there is none, or the plan may not follow it.
        CheckpointError: the round that it goes on from is not saved there.
    """
    assert plan.extends is not None
    wanted, number = plan.extends.federation, plan.extends.round
    beside = folder.path.resolve().parent
    plans = _plans_in(beside)
    if wanted not in plans:
        known = ", ".join(sorted(plans)) or "none"
        raise SettingsError(
            f"the plan goes on from {wanted}, and no run in {beside} is of that federation (there "
            f"are: {known}): put its folder there, or correct extends.federation"
        )
    earlier, before = plans[wanted]
    check_growth(before, plan, number)
    saved = _saved_rounds(earlier)
    if number not in saved:
        there = ", ".join(map(str, saved)) or "none"
        raise CheckpointError(
            f"the plan goes on from {wanted} after its round {number}, and {earlier.path} has "
            f"saved the rounds {there}: set extends.round to one of these"
        )
    return earlier


def _plans_in(folder: Path) -> dict[str, tuple[RunFolder, FederationPlan]]:
    found = {}
    for path in sorted(folder.glob("*/plan.toml")):
        with suppress(SettingsError):  # another version's, which is not what is looked for
            plan = read_settings(FederationPlan, path)
            found[plan.federation] = (RunFolder(path.parent), plan)
    return found


def _saved_rounds(folder: RunFolder) -> list[int]:
    paths = sorted(folder.checkpoints.glob("round-?????"))
    return [int(path.name.removeprefix("round-")) for path in paths]


def _grown(
    earlier: RunFolder, before: FederationPlan, number: int, fresh: RoundState
) -> RoundState:
    # Torch takes seconds to load; a command that only looks never needs it.
    from common.networks.grow import grow_arrays  # noqa: PLC0415

    state = read_state(earlier.checkpoints / f"round-{number:05d}", before)
    return RoundState(number, grow_arrays(state.arrays, fresh.arrays), {}, state.history)
