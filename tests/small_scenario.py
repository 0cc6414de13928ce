"""A scenario that takes seconds, and how near two runs of it ended."""

import numpy as np

from common.plan import FederationPlan
from common.updates import Arrays
from server.rounds import first_state
from simulations.scenario import Scenario, read_scenario


def small_scenario(num_sites: int = 2, **plan_changes: object) -> Scenario:
    """Phantoms of 16 x 20 x 16 voxels, two stages of two rounds, networks of a few weights."""
    values = read_scenario("phantoms").model_dump()
    sites = [f"hospital-{letter}" for letter in "abcdef"[:num_sites]]
    tasks = [{**task, "rounds": 2} for task in values["plan"]["tasks"][:2]]
    size = {"channels": [4, 8], "strides": [2], "residual_units": 1}
    training = {
        "patch_size": [8, 20, 16],
        "batch_size": 2,
        "steps_per_round": 2,
        "student_steps_per_round": 1,
        "held_back_share": 0.3,
    }
    plan = {
        **values["plan"],
        "name": "small",
        "tasks": tasks,
        "segmenter": size,
        "student": {**size, "channels": [2, 4]},
        "training": training,
        "limits": {"hospitals": num_sites, "quorum": 1, "deadline_s": 60, "join_deadline_s": 60},
        **plan_changes,
    }
    phantoms = {"shape": [16, 20, 16], "scans_per_site": 3, "test_scans": 2}
    changes = {"name": "small", "sites": sites, "deals": values["deals"][:2]}
    return Scenario.model_validate({**values, **changes, "phantoms": phantoms, "plan": plan})


def drift(one: Arrays, other: Arrays, plan: FederationPlan) -> float:
    """How far two runs ended from each other, as a share of how far they went.

    Another engine uses another number of threads, which changes the last bits of sums; training
    then makes them larger.
    """
    first = first_state(plan).arrays
    apart = np.sqrt(sum(float(((one[n] - other[n]) ** 2).sum()) for n in first))
    moved = np.sqrt(sum(float(((one[n] - first[n]) ** 2).sum()) for n in first))
    return float(apart / moved)
