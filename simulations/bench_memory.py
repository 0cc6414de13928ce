"""Whether a hospital's process grows from round to round: `python -m simulations.bench memory`.

One hospital with tiny phantoms and small networks answers all rounds of two stages in this process,
as its worker does.
"""

import ctypes
import gc
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.local_round import Hospital, answer
from common.settings_file import parse_settings
from common.updates import RoundRequest, decode_update, encode_request
from server.rounds import first_state
from simulations.bench_hospitals import tiny_scenario
from simulations.process_memory import KILOBYTES_PER_MEGABYTE, resident_mb
from simulations.progress import Progress, counted, no_progress
from simulations.run import prepare
from simulations.scenario import Scenario, read_scenario

ROUNDS_PER_LOOK = 10
# Libraries load in the first stage; in the second nothing new does.
SETTLED_FROM = 0.5
MOST_KB_PER_ROUND = 10.0


@dataclass(frozen=True)
class Look:
    """After a round: what the process holds, and what of it is in use.

    Python lets go of what points to itself only when there is much of it, and the allocator keeps
    what was freed for the next round. Without both it shows what rounds forgot to let go of.
    """

    round: int
    resident_mb: float
    used_mb: float


def run_memory(out: Path, rounds: int, progress: Progress) -> float:
    """Asks the hospital round after round and prints what it held; kilobytes more in each round."""
    looks = watch_rounds(two_stages(rounds), out / f"memory-{time.time_ns()}", progress)
    print(f"{'round':>5}{'resident MB':>13}{'in use MB':>11}")
    for look in looks:
        print(f"{look.round:>5}{look.resident_mb:>13.1f}{look.used_mb:>11.1f}")
    slope = kb_per_round(looks)
    verdict = "grows" if slope > MOST_KB_PER_ROUND else "does not grow"
    print(f"{slope:+.1f} kB a round in use in the second stage: it {verdict}")
    return slope


def kb_per_round(looks: list[Look]) -> float:
    """The slope of a line through what was in use in the second stage, by least squares."""
    settled = looks[round(SETTLED_FROM * len(looks)) :]
    slope_mb = np.polyfit([one.round for one in settled], [one.used_mb for one in settled], 1)[0]
    return float(slope_mb) * KILOBYTES_PER_MEGABYTE


def two_stages(rounds: int) -> Scenario:
    """One hospital with two phantoms for each of two stages; the second replays the first."""
    scenario = tiny_scenario(1)
    values = json.loads(scenario.model_dump_json())
    whole = json.loads(read_scenario("phantoms").model_dump_json())
    tasks, lengths = whole["plan"]["tasks"], (rounds // 2, rounds - rounds // 2)
    pairs = zip(tasks, lengths, strict=False)
    values["plan"]["tasks"] = [{**task, "rounds": length} for task, length in pairs]
    values["deals"] = whole["deals"][: len(lengths)]
    return parse_settings(Scenario, values, f"{rounds} rounds")


def watch_rounds(scenario: Scenario, folder: Path, progress: Progress) -> list[Look]:
    """All rounds of a scenario's only hospital, each with the model of the one before."""
    plan, (site,) = scenario.plan, scenario.sites
    hospital = Hospital(prepare(scenario, None, folder, no_progress).stores[site])
    arrays, looks = first_state(plan).arrays, []
    on_round = counted(progress, "rounds", plan.num_rounds)
    for number in range(1, plan.num_rounds + 1):
        request = RoundRequest(action="train", plan=plan, round=number)
        update = decode_update(answer(hospital, encode_request(request, arrays)))
        assert update.note.outcome == "trained", update.note.reason
        arrays = update.arrays
        if number % ROUNDS_PER_LOOK == 0:
            looks.append(look_after(number))
        on_round(str(number))
    return looks


def look_after(number: int) -> Look:
    """What this process holds now, and what once all that can be given back has been."""
    held = resident_mb()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return Look(number, held, resident_mb())
