"""The desk's commands from end to end, as they are typed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from hospital_rounds import ask

from client.cli import run
from client.local_round import Hospital
from client.store.scans import list_scans
from client.store.store import create_store
from common.plan import FederationPlan
from common.updates import decode_update

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]
Desk = Callable[..., str]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """The first task painted."""
    made = make_hospital()
    paint(made, make_plan(), "first")
    return made


@pytest.fixture
def plan_file(tmp_path: Path, make_plan: MakePlan) -> Path:
    """The plan as a file."""
    path = tmp_path / "plan.toml"
    values = make_plan().model_dump(mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return path


@pytest.fixture
def desk(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> Desk:
    """Runs a command on the hospital's store; its output, after the exit code was checked."""

    def type_in(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            run([*words, "--store", str(hospital.store.folder)], "oneslice hospital")
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, said
        return said.out + said.err

    return type_in


def test_status_in_words_and_in_json(hospital: Hospital, make_plan: MakePlan, desk: Desk) -> None:
    text = desk("status")
    assert "nothing was sent yet" in text
    assert "all that OneSlice ever asks is allowed" in text
    update = ask(hospital, make_plan(), 1)
    with hospital.store.connect() as connection:
        for number in range(7):
            row = ("first", f"case{number}", "truncated")
            connection.execute("INSERT INTO quarantine VALUES (?, ?, ?)", row)
    (hospital.store.folder / "policy.toml").write_text("min_annotated_scans = 2", encoding="utf-8")
    text = desk("status")
    assert "3 slices painted" in text
    assert "first: case0, case1, case2, case3, case4 and 2 more: truncated" in text
    assert f"federation {make_plan().federation}: round 1 answered" in text
    assert f"trained, round 1, {len(update.arrays)} tensors" in text
    assert "policy: min_annotated_scans = 2" in text
    found = json.loads(desk("status", "--format", "json"))
    states = {task["task"]: task["states"] for task in found["tasks"]}
    assert (states["first"]["painted"], states["second"]["asked"]) == (3, 3)
    assert found["last_sent"]["content"]["note"]["outcome"] == "trained"
    assert found["policy"]["min_annotated_scans"] == 2
    assert len(found["quarantine"]) == 7
    (hospital.store.folder / "policy.toml").write_text("min_annotated = 2", encoding="utf-8")
    assert "policy: broken, so no round is answered" in desk("status")
    assert "unknown key" in json.loads(desk("status", "--format", "json"))["policy"]["broken"]


def test_policy(hospital: Hospital, desk: Desk) -> None:
    assert "does not exist" in desk("policy")
    (hospital.store.folder / "policy.toml").write_text('hours = ["20:00-06:00"]', encoding="utf-8")
    assert 'hours = ["20:00-06:00"]' in desk("policy")
    assert json.loads(desk("policy", "--format", "json"))["hours"] == ["20:00-06:00"]
    (hospital.store.folder / "policy.toml").write_text("hours = 3", encoding="utf-8")
    assert "hours = 3" in desk("policy", code=2)


def test_egress(
    hospital: Hospital, make_plan: MakePlan, plan_file: Path, tmp_path: Path, desk: Desk
) -> None:
    assert "has sent nothing yet" in desk("egress", code=1)
    assert "name it with --plan" in desk("egress", "--next", code=2)
    out = tmp_path / "message.safetensors"
    text = desk("egress", "--next", "--plan", str(plan_file), "--out", str(out))
    tried = decode_update(out.read_bytes())
    assert tried.note.outcome == "trained"
    assert f"{len(tried.arrays)} tensors" in text
    assert all(name in text for name in tried.arrays)
    assert all(name in text for name in type(tried.note).model_fields)
    update = ask(hospital, make_plan(), 1)
    found = json.loads(desk("egress", "--format", "json", "--out", str(out)))
    assert found["note"] == update.note.model_dump(mode="json")
    assert len(found["tensors"]) == len(update.arrays)
    assert found["num_bytes"] == out.stat().st_size
    ask(hospital, make_plan(), 1, action="score")
    assert "is not kept" in desk("egress", "--out", str(out), code=1)


def test_forget(hospital: Hospital, make_plan: MakePlan, desk: Desk) -> None:
    ask(hospital, make_plan(), 1)
    scan = list_scans(hospital.store, "first")[0]
    text = desk("forget", scan.case, "--reason", "asked for it")
    assert scan.scan_id in text
    assert f"sha256 {scan.image_key}" in text
    assert "trained in rounds 1 to 1" in text
    assert f"the models of {make_plan().federation} from round 1 on derive from it" in text
    assert "weights trained on it; kept, not sent again" in text
    assert "no scan, case or patient is called" in desk("forget", scan.case, code=1)
    other = list_scans(hospital.store, "second")[0]
    (proof,) = json.loads(desk("forget", other.scan_id, "--format", "json"))
    assert (proof["scan_id"], proof["uses"]) == (other.scan_id, [])
    assert json.loads(desk("status", "--format", "json"))["withdrawn"] == 2


def test_doctor(hospital: Hospital, plan_file: Path, desk: Desk) -> None:
    assert "PROBLEM" not in desk("doctor", "--plan", str(plan_file))
    key = list_scans(hospital.store)[0].image_key
    (path,) = hospital.store.folder.rglob(f"{key}.npy")
    path.unlink()
    text = desk("doctor", "--quick", code=1)
    assert "PROBLEM  arrays" in text
    assert "-> delete the damaged files and ingest the same scans again" in text
    found = json.loads(desk("doctor", "--quick", "--format", "json", code=1))
    assert [one["check"] for one in found if one["problem"]] == ["arrays"]


def test_audit(hospital: Hospital, make_plan: MakePlan, desk: Desk) -> None:
    assert "0 rows" in desk("audit", "verify")
    ask(hospital, make_plan(), 1)
    ask(hospital, make_plan(), 2)
    text = desk("audit", "verify")
    assert "2 rows, none changed" in text
    head = json.loads(desk("audit", "verify", "--format", "json"))["head"]
    assert head in text
    assert desk("audit", "show").count("sending") == 2
    assert [row["number"] for row in json.loads(desk("audit", "show", "--format", "json"))] == [
        1,
        2,
    ]
    ask(hospital, make_plan(), 3)
    assert "3 rows" in desk("audit", "verify", "--noted", head)
    with hospital.store.connect() as connection:
        connection.execute("DELETE FROM audit WHERE number = 3")
    assert "rows were cut off" in desk("audit", "verify", code=1)


def test_a_withdrawn_case_comes_back_only_by_name(
    hospital: Hospital, plan_file: Path, desk: Desk
) -> None:
    scan = list_scans(hospital.store, "first")[0]
    folder = hospital.store.folder.parent / "cellar-first"
    ingest = ("ingest", str(folder), "--plan", str(plan_file), "--task", "first")
    desk("forget", scan.scan_id)
    text = desk(*ingest)
    assert "0 added, 2 known already, 1 set aside" in text
    assert f"{scan.case}: this scan was withdrawn on 20" in text
    assert "0 added" in desk(*ingest, "--again-allowed", "another")
    assert "1 added, 2 known already, 0 set aside" in desk(*ingest, "--again-allowed", scan.case)


def test_a_case_that_serves_another_task_is_told(
    hospital: Hospital, plan_file: Path, desk: Desk
) -> None:
    folder = hospital.store.folder.parent / "cellar-first"
    ingest = ("ingest", str(folder), "--plan", str(plan_file), "--task", "second")
    text = desk(*ingest)
    assert "3 added, 0 known already, 0 set aside\n3 of those added serve another task" in text
    assert "serve another" not in desk(*ingest)
    assert json.loads(desk(*ingest, "--format", "json"))["serve_others"] == 0


def test_help_imports_nothing_heavy() -> None:
    """Torch and the like would make every command seconds slower."""

    code = (
        "import sys; import client.cli; heavy = {'torch', 'monai', 'nibabel', 'SimpleITK', 'flwr',"
        " 'mlflow', 'fastapi', 'torchio', 'pydicom'}; print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_folder_without_a_store_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_store(tmp_path / "there", "north")
    for words in (["status"], ["forget", "x"], ["egress"], ["audit", "verify"], ["policy"]):
        with pytest.raises(SystemExit) as left:
            run([*words, "--store", str(tmp_path / "nowhere")], "oneslice hospital")
        assert left.value.code == 1
        assert "hospital init" in capsys.readouterr().err
