"""The desk sees exactly what left: every tensor, every number."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hospital_rounds import ask, first_arrays, request_for

from client.dry_run import try_next_round
from client.egress import content_of, last_sent
from client.local_round import Hospital, answer
from client.store.audit import verify_audit
from client.store.rounds import latest_round
from client.store.store import Store
from common.errors import SettingsError, StoreError
from common.plan import FederationPlan
from common.updates import LocalUpdate, decode_update, encode_update

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """The first task painted."""
    made = make_hospital()
    paint(made, make_plan(), "first")
    return made


# What left --------------------------------------------------------------------------------------


def test_before_the_first_message_there_is_nothing(hospital: Hospital) -> None:
    assert last_sent(hospital.store) is None


def test_the_last_message_to_the_byte(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan()
    ask(hospital, plan, 1)
    reply = answer(hospital, request_for(plan, 2))
    update = decode_update(reply)
    sent = last_sent(hospital.store)
    assert sent is not None
    assert sent.content == content_of(reply)
    assert sent.content.num_bytes == len(reply)
    found = {tensor.name: (tensor.dtype, tensor.shape) for tensor in sent.content.tensors}
    assert found == {name: (str(a.dtype), a.shape) for name, a in update.arrays.items()}
    assert sum(one.num_bytes for one in sent.content.tensors) == sum(
        array.nbytes for array in update.arrays.values()
    )
    assert sent.content.note == update.note.model_dump(mode="json")
    assert sent.stored_reply is not None
    assert sent.stored_reply.read_bytes() == reply


def test_a_message_that_is_not_kept_is_told_from_the_log(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan(training={"held_back_share": 0.5})
    update = ask(hospital, plan, 1, action="score")
    sent = last_sent(hospital.store)
    assert sent is not None
    assert sent.stored_reply is None
    assert sent.content.note == update.note.model_dump(mode="json")
    assert sent.content.tensors == ()
    # A failure's fixed reply left, too.
    (hospital.store.folder / "policy.toml").write_text("broken", encoding="utf-8")
    failed = ask(hospital, plan, 2)
    sent = last_sent(hospital.store)
    assert sent is not None
    assert sent.content.note == failed.note.model_dump(mode="json")
    assert "SettingsError" in str(sent.content.note["reason"])


def test_a_log_that_tells_less_than_was_sent_is_caught(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    ask(hospital, make_plan(), 1)
    with hospital.store.connect() as connection:
        connection.execute(
            "UPDATE audit SET details = json_remove(details, '$.tensors') WHERE event = 'sending'"
        )
    with pytest.raises(StoreError, match="other tensors or numbers than row 1 of the audit log"):
        last_sent(hospital.store)


# What would leave -------------------------------------------------------------------------------


def everything(store: Store) -> dict[str, object]:
    """All rows of all tables, and all files but SQLite's own, with their content."""
    with store.read() as connection:
        names = [r["name"] for r in connection.execute("SELECT name FROM sqlite_master") if r]
        tables = [name for name in names if not name.startswith("sqlite_") and "_by_" not in name]
        rows: dict[str, object] = {
            name: [tuple(row) for row in connection.execute(f"SELECT * FROM {name}")]
            for name in tables
        }
    own = ("catalog.sqlite", "lock")
    files = [path for path in store.folder.rglob("*") if not path.name.startswith(own)]
    contents = {
        str(path.relative_to(store.folder)): path.read_bytes() for path in files if path.is_file()
    }
    return {**rows, **contents, "folders": sorted(str(p) for p in files if p.is_dir())}


def test_a_dry_run_shows_the_next_reply_and_changes_nothing(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan()
    ask(hospital, plan, 1)
    before = everything(hospital.store)
    trial = try_next_round(hospital, plan)
    assert everything(hospital.store) == before
    assert (trial.round, trial.stayed_out) == (2, None)
    real = answer(hospital, request_for(plan, 2))
    tried, sent = content_of(trial.reply), content_of(real)
    assert tried.tensors == sent.tensors
    assert tried.note.keys() == sent.note.keys()
    for counted in ("outcome", "round", "task", "num_examples", "used", "scans_per_task"):
        assert tried.note[counted] == sent.note[counted]
    assert abs(tried.num_bytes - sent.num_bytes) < 200  # digits of losses and seconds


def test_before_the_first_round_the_plans_own_weights_stand_in(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    before = everything(hospital.store)
    trial = try_next_round(hospital, make_plan())
    assert everything(hospital.store) == before
    update = decode_update(trial.reply)
    assert trial.round == update.note.round == 1
    assert {name: array.shape for name, array in update.arrays.items()} == {
        name: array.shape for name, array in first_arrays(make_plan()).items()
    }


def test_a_dry_run_keeps_to_the_policy_and_says_why(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    (hospital.store.folder / "policy.toml").write_text("min_annotated_scans = 9", encoding="utf-8")
    trial = try_next_round(hospital, make_plan())
    assert decode_update(trial.reply).note.outcome == "abstained"
    assert trial.stayed_out == "3 scans are annotated, `min_annotated_scans` is 9"


def test_a_dry_run_that_fails_says_so_and_leaves_nothing(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    before = everything(hospital.store)
    (hospital.store.folder / "policy.toml").write_text("broken", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"policy.toml is not TOML"):
        try_next_round(hospital, make_plan())
    (hospital.store.folder / "policy.toml").unlink()
    assert everything(hospital.store) == before


def test_a_federation_that_is_over_has_no_next_round(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan()
    ask(hospital, plan, 4)
    assert latest_round(hospital.store, plan.federation) == plan.num_rounds == 4
    with pytest.raises(SettingsError, match="all 4 rounds of 'tiny' are answered"):
        try_next_round(hospital, plan)


def test_what_the_coordinator_gets_is_what_the_desk_sees(
    hospital: Hospital, make_plan: MakePlan, tmp_path: Path
) -> None:
    trial = try_next_round(hospital, make_plan())
    (tmp_path / "message").write_bytes(trial.reply)
    again = decode_update((tmp_path / "message").read_bytes())
    assert encode_update(LocalUpdate(again.arrays, again.note)) == trial.reply
    verify_audit(hospital.store)
