"""Whether growth would be noticed, and what is watched."""

import numpy as np
import pytest

from simulations.bench_memory import Look, kb_per_round, look_after, two_stages


def _looks(used_mb: list[float]) -> list[Look]:
    return [Look(10 * place, mb, mb) for place, mb in enumerate(used_mb, 1)]


def test_only_the_second_stage_counts() -> None:
    assert kb_per_round(_looks([700, 710, 720, 730, 730, 730, 730, 730])) == pytest.approx(
        0, abs=1e-6
    )
    # 1 MB in ten rounds.
    growing = [730, 730, 730, 730, 731, 732, 733, 734]
    assert kb_per_round(_looks(list(map(float, growing)))) == pytest.approx(102.4)


def test_one_hospital_answers_as_many_rounds_as_were_asked_for() -> None:
    plan = two_stages(7).plan
    assert ([task.rounds for task in plan.tasks], plan.limits.hospitals) == ([3, 4], 1)


def test_what_is_held_on_to_is_in_use_and_what_was_let_go_of_is_not() -> None:
    before = look_after(1).used_mb
    kept = [np.ones(2**10) for _ in range(4_000)]  # 31 MB in pieces that the allocator keeps
    assert look_after(2).used_mb > before + 25
    kept.append(kept)  # type: ignore[arg-type]  # it points to itself, so only the collector sees it
    del kept
    assert look_after(3).used_mb < before + 5
