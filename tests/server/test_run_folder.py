"""The plan that a run keeps: what comes back, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CheckpointError, SettingsError
from common.plan import FederationPlan
from server.run_folder import RunFolder

MakePlan = Callable[..., FederationPlan]

EVERYTHING: dict[str, Any] = {
    "name": "all-set",
    "seed": 2**63 - 1,
    "labels": [
        {"name": 'Leber "links" é ¼', "index": 1, "snomed": "10200004", "colour": "#00ff00"},
        {"name": "kidney", "index": 2, "snomed": "64033007"},
    ],
    "tasks": [
        {
            "name": "ct",
            "classes": ["kidney", 'Leber "links" é ¼'],
            "modality": "CT",
            "plane": "coronal",
            "rounds": 1000,
            "window_hu": [-160.5, 240],
        },
        {"name": "mr", "classes": ["kidney"], "modality": "MR", "plane": "sagittal", "rounds": 1},
    ],
    "channels": 3,
    "segmenter": {"channels": [4, 8, 16], "strides": [[1, 2, 2], 2], "residual_units": 2},
    "student": {"channels": [2, 4, 8], "strides": [[2, 2, 1], [1, 1, 2]], "residual_units": 0},
    "training": {
        "spacing_mm": [0.1, 1e-7, 3],
        "patch_size": [8, 16, 32],
        "batch_size": 1,
        "learning_rate": 1e-5,
        "weight_decay": 0,
        "clip_norm": 1e300,
        "augmentation": {
            "rotation_degrees": [0, 1 / 3, 90],
            "scale": 0,
            "noise": 0.123456789012345,
        },
    },
    "annotation": {"slice_choice": "centre"},
    "propagation": {"reach_slices": 0, "temperature": 5e-324},
    "replay": {"budget_scans": 0, "share": 1},
    "strategy": {"name": "Krum", "num_malicious": 1, "proximal_mu": 0.1},
    "limits": {"hospitals": 7, "quorum": 5, "deadline_s": 90, "join_deadline_s": 0.5},
}


def test_a_plan_with_everything_set_comes_back_equal(tmp_path: Path) -> None:
    plan, folder = FederationPlan.model_validate(EVERYTHING), RunFolder(tmp_path / "deep" / "run")
    folder.keep_plan(plan)
    came = folder.read_plan()
    assert came == plan
    assert came.federation == plan.federation
    assert came.segmenter.strides == ((1, 2, 2), 2)


def test_a_plan_of_defaults_comes_back_equal(tmp_path: Path, plan: FederationPlan) -> None:
    RunFolder(tmp_path).keep_plan(plan)
    assert RunFolder(tmp_path).read_plan() == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]


@given(rate=st.floats(0, 1, exclude_min=True), name=st.text("aé\"'# \\=[]", min_size=1, max_size=9))
def test_numbers_and_names_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rate: float, name: str
) -> None:
    name = name.replace("\\", "x")
    values = {**EVERYTHING, "labels": [{"name": name, "index": 1}]}
    values["tasks"] = [{**EVERYTHING["tasks"][1], "classes": [name]}]
    values["training"] = {"patch_size": [8, 8, 8], "learning_rate": rate}
    plan, folder = FederationPlan.model_validate(values), RunFolder(tmp_path_factory.mktemp("run"))
    folder.keep_plan(plan)
    assert folder.read_plan() == plan


def test_the_same_plan_may_start_again(tmp_path: Path, plan: FederationPlan) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_plan(plan)
    before = folder.plan_file.read_bytes()
    folder.keep_plan(plan)
    assert folder.plan_file.read_bytes() == before


def test_another_plan_is_refused_and_the_first_kept(
    tmp_path: Path, plan: FederationPlan, make_plan: MakePlan
) -> None:
    folder, other = RunFolder(tmp_path), make_plan(seed=1)
    folder.keep_plan(plan)
    message = rf"holds a run of another plan \({plan.federation}, this one is {other.federation}\)"
    with pytest.raises(SettingsError, match=f"{message}.* that `extends` this one"):
        folder.keep_plan(other)
    assert folder.read_plan() == plan


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a run's folder with plan\.toml"):
        RunFolder(tmp_path).read_plan()


def test_a_plan_that_was_changed_by_hand_is_refused(tmp_path: Path, plan: FederationPlan) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_plan(plan)
    text = folder.plan_file.read_text(encoding="utf-8")
    folder.plan_file.write_text(text.replace("batch_size", "batchsize"), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"plan\.toml: .*\n.*batchsize = 4: unknown key"):
        folder.read_plan()


def test_everything_lies_below_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    paths = (
        folder.plan_file,
        folder.checkpoints,
        folder.artifacts,
        folder.report_json,
        folder.report_html,
    )
    assert {path.parent for path in paths} == {tmp_path}
    assert len(set(paths)) == len(paths)
    assert folder.tracking_uri == f"sqlite:///{tmp_path.resolve()}/mlflow.db"


def test_a_second_server_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with (
        folder.only_server(),
        pytest.raises(CheckpointError, match=r"only server .*, another one does"),
        RunFolder(tmp_path / "run").only_server(),
    ):
        pytest.fail("two servers at once")
    with folder.only_server():
        pass


def test_another_plan_is_refused_with_what_differs(tmp_path: Path, make_plan: MakePlan) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_plan(make_plan((2, 1)))
    with pytest.raises(
        SettingsError, match=r"different in seed \(0 there, 3 here\), tasks\[1\]\.rou"
    ):
        folder.keep_plan(make_plan((2, 4), seed=3))
    longer = make_plan((2, 1, 1, 1))
    with pytest.raises(
        SettingsError, match=r"tasks\[2\]\.classes\[0\] \(None there, organ here\).* more"
    ):
        folder.keep_plan(longer)


def test_federations_of_a_consortium_share_one_tracking_database(tmp_path: Path) -> None:
    shared = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert RunFolder(tmp_path / "run", shared).tracking_uri == shared
    assert RunFolder(tmp_path / "run").tracking_database == tmp_path / "run" / "mlflow.db"
