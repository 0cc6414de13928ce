"""The old model of a stage: which file counts, whatever is killed, asked again or lost."""

import logging

import numpy as np
import pytest

from client.store.leftovers import find_leftovers
from client.store.old_models import OLD_MODELS, old_model_of_stage
from client.store.rounds import HospitalState, commit_round
from client.store.store import Store
from client.store.trial_copy import trial_copy
from common.updates import Arrays

FED = "fed"


def weights(value: float) -> Arrays:
    return {"segmenter/w": np.full((2, 3), value, dtype=np.float32)}


def ask(store: Store, first: int, number: int, digest: str, value: float) -> float:
    """The old model in a round of the stage that begins with `first`."""
    found = old_model_of_stage(store, FED, range(first, number + 1), digest, weights(value))
    assert found["segmenter/w"].shape == (2, 3)
    return float(found["segmenter/w"][0, 0])


def commit(store: Store, number: int, digest: str) -> None:
    commit_round(store, HospitalState(FED, number), digest, b"reply")


def files(store: Store) -> list[str]:
    return sorted(path.name for path in (store.folder / OLD_MODELS / FED).iterdir())


def test_the_first_committed_round_of_the_stage_counts(store: Store) -> None:
    for number in (3, 4, 5):
        assert ask(store, 3, number, f"digest-{number}", float(number)) == 3
        commit(store, number, f"digest-{number}")
    assert files(store) == ["00003-digest-3.safetensors"]


def test_rounds_of_earlier_stages_and_other_federations_do_not_count(store: Store) -> None:
    commit(store, 2, "before")
    commit_round(store, HospitalState("other", 3), "elsewhere", b"reply")
    assert ask(store, 3, 4, "mine", 4.0) == 4


def test_a_hospital_that_joins_late_starts_with_what_comes_in_then(store: Store) -> None:
    assert ask(store, 3, 6, "late", 6.0) == 6
    commit(store, 6, "late")
    assert ask(store, 3, 7, "next", 7.0) == 6


def test_a_round_that_was_never_committed_leaves_no_old_model(store: Store) -> None:
    assert ask(store, 3, 3, "killed", 1.0) == 1
    # The coordinator went on from an older checkpoint and asks the round anew.
    assert ask(store, 3, 3, "again", 2.0) == 2
    commit(store, 3, "again")
    assert ask(store, 3, 4, "next", 9.0) == 2
    assert files(store) == ["00003-again.safetensors"]


def test_a_committed_round_asked_anew_takes_the_place_of_the_first(store: Store) -> None:
    ask(store, 3, 3, "first", 1.0)
    commit(store, 3, "first")
    ask(store, 3, 4, "second", 2.0)
    commit(store, 4, "second")
    assert ask(store, 3, 3, "anew", 5.0) == 5
    # Killed here, the committed rounds still have theirs.
    assert ask(store, 3, 5, "third", 3.0) == 1
    assert ask(store, 3, 3, "anew", 5.0) == 5
    commit(store, 3, "anew")
    assert ask(store, 3, 4, "second anew", 6.0) == 5


def test_the_old_model_of_a_stage_goes_when_the_next_is_under_way(store: Store) -> None:
    ask(store, 3, 3, "third", 3.0)
    commit(store, 3, "third")
    ask(store, 4, 4, "fourth", 4.0)
    # One round back is still possible.
    assert files(store) == ["00003-third.safetensors", "00004-fourth.safetensors"]
    commit(store, 4, "fourth")
    ask(store, 4, 5, "fifth", 5.0)
    assert files(store) == ["00004-fourth.safetensors"]


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_lost_one_is_replaced_once_and_the_log_says_so(
    store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask(store, 3, 3, "third", 3.0)
    commit(store, 3, "third")
    (path,) = (store.folder / OLD_MODELS / FED).iterdir()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"")
    with caplog.at_level(logging.WARNING):
        assert ask(store, 3, 4, "fourth", 4.0) == 4
    assert "lost its old model: round 4's takes its place" in caplog.text
    commit(store, 4, "fourth")
    assert ask(store, 3, 5, "fifth", 5.0) == 4


def test_what_a_killed_process_left_unfinished_is_a_leftover(store: Store) -> None:
    ask(store, 3, 3, "third", 3.0)
    assert find_leftovers(store) == []
    half = store.folder / OLD_MODELS / FED / ".unfinished-x.safetensors"
    half.write_bytes(b"half")
    assert [one.path for one in find_leftovers(store)] == [half]


def test_a_trial_works_on_its_own_copy(store: Store) -> None:
    ask(store, 3, 3, "third", 3.0)
    commit(store, 3, "third")
    with trial_copy(store) as copy:
        assert ask(copy, 3, 4, "fourth", 4.0) == 3
        assert ask(copy, 4, 4, "other stage", 8.0) == 8
    assert files(store) == ["00003-third.safetensors"]
