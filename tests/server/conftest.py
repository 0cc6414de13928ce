"""A plan of a few weights, and states of a federation that ran it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from common.plan import FederationPlan
from common.updates import Note, TaskScore
from server import asking
from server.round_state import Dropped, RoundRecord, RoundState

MakePlan = Callable[..., FederationPlan]
MakeState = Callable[..., RoundState]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are looked for a hundred times a second at least."""
    monkeypatch.setattr(asking, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def make_plan() -> MakePlan:
    """Plans with stages of the given lengths; other sections by name."""

    def make(rounds: tuple[int, ...] = (2, 1), **sections: Any) -> FederationPlan:
        tasks = [
            {
                "name": f"task{number}",
                "classes": ["organ"],
                "modality": "MR",
                "plane": "axial",
                "rounds": length,
            }
            for number, length in enumerate(rounds, 1)
        ]
        network = {"channels": [1, 2], "strides": [2], "residual_units": 0}
        values = {
            "name": "small",
            "labels": [{"name": "organ", "index": 1}],
            "tasks": tasks,
            "segmenter": network,
            "student": network,
            "training": {"patch_size": [4, 4, 4]},
            "limits": {"hospitals": 3, "deadline_s": 0.2, "join_deadline_s": 0.2},
        }
        return FederationPlan.model_validate({**values, **sections})

    return make


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Stages of two rounds and one."""
    return make_plan()


@pytest.fixture
def make_state(plan: FederationPlan) -> MakeState:
    """States of a federation of two hospitals after some rounds of `plan`."""

    def note(hospital: str, number: int) -> Note:
        score = TaskScore(task="task1", dice={"organ": min(0.25 * number, 1.0)}, cases=2, missed=0)
        return Note(
            hospital=hospital,
            outcome="trained",
            round=number,
            num_examples=number,
            scans_per_task={"task1": 3, "task2": 1},
            used=number,
            skipped=1,
            annotated_slices=4,
            scores=(score,),
            loss=1 / number,
            seconds={"train": 2.0, "score": 0.5},
        )

    def record(number: int) -> RoundRecord:
        return RoundRecord(
            round=number,
            stage=plan.stage_of_round(number),
            notes=(note("north", number), note("south", number)),
            averaged=("north", "south"),
            dropped=(Dropped(hospital="west", reason="no answer", kind="silent"),),
            bytes_down={"segmenter": 80, "student": 20},
            bytes_up={"north": {"segmenter": 50, "student": 10}, "south": {"segmenter": 40}},
            seconds={"wait": 6.0, "aggregate": 0.25},
        )

    def make(rounds: int, *, closed: bool = False) -> RoundState:
        arrays = {
            "segmenter/a": np.arange(6, dtype=np.float32).reshape(2, 3) / 7 + rounds,
            "student/b": np.array(rounds, np.float32),
        }
        history = tuple(record(number) for number in range(1, rounds + 1))
        moments = {"m_t/segmenter/a": np.full((2, 3), 1 / 3), "v_t/student/b": np.array(1e-300)}
        return RoundState(rounds, arrays, moments, history, record(rounds) if closed else None)

    return make
