"""The hospitals of a simulated run that goes on from an earlier one: as that one left them."""

import shutil
from pathlib import Path

from common.plan import FederationPlan
from server.plan_growth import find_earlier
from server.run_folder import RunFolder


def take_over_sites(plan: FederationPlan, out: Path) -> None:
    """Copies the hospitals' stores from the run beside `out` that the plan goes on from.

    Once, before anything else comes in: the earlier run stays as it is. Plans that begin anew take
    over nothing.

    Raises:
        SettingsError: there is no such run, or the plan may not follow it.
        CheckpointError: the round that it goes on from is not saved there.
    """
    sites, unfinished = out / "sites", out / "sites.unfinished"
    if plan.extends is None or sites.exists():
        return
    earlier = find_earlier(RunFolder(out), plan)
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(earlier.path / "sites", unfinished)
    unfinished.rename(sites)
