"""A promoted round is exported whole, says what it is, and MONAI's own checks accept it."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scored_rounds import scored_state
from typer.testing import CliRunner

from common.errors import CheckpointError, ReleaseError, SettingsError
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.released_models import read_release
from server.checkpoints import save_state
from server.cli import app
from server.exported_models import _read_report, _whole_folder, export
from server.model_card import ReleaseCard
from server.promoted_models import promote
from server.round_state import RoundRecord, RoundState
from server.run_folder import RunFolder

# MONAI's and nibabel's own old habits.
pytestmark = pytest.mark.filterwarnings("ignore")
TASK = {"classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 2}
NETWORK = {"channels": [2, 4], "strides": [2], "residual_units": 0}
VALUES = {
    "name": "small",
    "labels": [{"name": "organ", "index": 1, "snomed": "10200004"}, {"name": "a|b", "index": 2}],
    "tasks": [
        {"name": "first", **TASK},
        {"name": "ct", **TASK, "modality": "CT", "window_hu": [-100, 300]},
        {"name": "later", **TASK, "classes": ["a|b"]},
    ],
    "segmenter": NETWORK,
    "student": NETWORK,
    "training": {"patch_size": [4, 8, 4]},
    "release": {"most_loss": 0.25},
    "limits": {"hospitals": 2},
}
BUNDLE = {
    "configs/inference.json",
    "configs/inference_ct.json",
    "configs/metadata.json",
    "docs/MODEL_CARD.md",
    "docs/README.md",
    "models/model.pt",
}


def _run(path: Path, *, despite_losses: bool = False) -> RunFolder:
    """Round 3 of 6, the first of the task "ct", scored and promoted."""
    plan = FederationPlan.model_validate(VALUES)
    folder = RunFolder(path)
    folder.keep_plan(plan)
    last = 0.25 if despite_losses else 0.8125
    rounds = [{"north": {"first": one}, "south": {"first": 0.5}} for one in (0.75, 0.875, last)]
    state = scored_state(plan, rounds, closed=False)
    arrays = networks_to_arrays(build_networks(plan))
    history = tuple(map(_with_counts, state.history))
    for number in (3, 4):
        save_state(folder.checkpoints, RoundState(number, arrays, {}, history[:number]), plan)
    promote(folder, 3, despite_losses=despite_losses)
    return folder


def _with_counts(record: RoundRecord) -> RoundRecord:
    """Every hospital has painted 7 slices of 9 scans."""
    counts = {"annotated_slices": 7, "scans_per_task": {"first": 9}}
    notes = tuple(note.model_copy(update=counts) for note in record.notes)
    return record.model_copy(update={"notes": notes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return _run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def out(folder: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export, by the command."""
    path = tmp_path_factory.mktemp("given") / "new" / "release"
    done = CliRunner().invoke(
        app, ["export", str(folder.path), "--out", str(path), "--format", "json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["folder"], found["round"]) == (str(path), 3)
    assert found["onnx_differences"].keys() == {"segmenter", "student"}
    assert all(0 <= one < 1e-4 for one in found["onnx_differences"].values())
    return path


def test_what_is_in_it(folder: RunFolder, out: Path) -> None:
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    bundles = {f"{role}_bundle/{name}" for role in ("segmenter", "student") for name in BUNDLE}
    files = {"models.safetensors", "release.json", "card.json", "model_card.json", "MODEL_CARD.md"}
    assert names == {*files, *bundles, "segmenter.onnx", "student.onnx"}
    assert [path.name for path in out.parent.iterdir()] == ["release"]
    promoted = folder.promoted / "round-00003"
    for name in ("models.safetensors", "release.json", "card.json"):
        assert (out / name).read_bytes() == (promoted / name).read_bytes()


def test_every_form_holds_the_released_weights(out: Path) -> None:
    release = read_release(out)
    for role in ("segmenter", "student"):
        own = {
            name.removeprefix(f"{role}/"): array
            for name, array in release.arrays.items()
            if name.startswith(f"{role}/")
        }
        weights = torch.load(out / f"{role}_bundle" / "models" / "model.pt", weights_only=True)
        model = onnx.load(out / f"{role}.onnx")
        held = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        assert weights.keys() == own.keys()
        for name, array in own.items():
            np.testing.assert_array_equal(weights[name].numpy(), array)
            # A single number may have become part of another operator.
            if array.size > 1:
                np.testing.assert_array_equal(held[name], array)
        facts = {one.key: one.value for one in model.metadata_props}
        assert facts["models_sha256"] == release.record.models_sha256
        assert json.loads(facts["labels"]) == {"1": "organ", "2": "a|b"}


@pytest.mark.parametrize("role", ["segmenter", "student"])
def test_monai_verifies_the_bundle(out: Path, tmp_path: Path, role: str) -> None:
    from monai.bundle import verify_metadata, verify_net_in_out

    configs = out / f"{role}_bundle" / "configs"
    tensor = {"required": ["type", "format", "num_channels", "spatial_shape", "dtype"]}
    one = {"type": "object", "minProperties": 1, "additionalProperties": tensor}
    # MONAI would fetch its own schema; this says the same of what has to be there.
    schema = {
        "required": [
            *("schema", "version", "monai_version", "pytorch_version", "numpy_version"),
            *("required_packages_version", "task", "description", "authors", "copyright"),
        ],
        "properties": {
            "network_data_format": {
                "required": ["inputs", "outputs"],
                "properties": {"inputs": one, "outputs": one},
            }
        },
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    metadata = str(configs / "metadata.json")
    verify_metadata(meta_file=metadata, filepath=str(tmp_path / "schema.json"))
    verify_net_in_out(
        net_id="network_def",
        meta_file=metadata,
        config_file=str(configs / "inference.json"),
        device="cpu",
    )


def test_a_scan_needs_the_configuration_of_its_task(out: Path) -> None:
    configs = out / "student_bundle" / "configs"
    # The third task has not begun, and would take that of the first.
    named = json.loads((configs / "metadata.json").read_text())["oneslice"]["configs"]
    assert named == {"first": "inference.json", "ct": "inference_ct.json"}
    steps = json.loads((configs / "inference_ct.json").read_text())["preprocessing"]["transforms"]
    (window,) = [one for one in steps if one["_target_"] == "ScaleIntensityRanged"]
    assert (window["a_min"], window["a_max"]) == (-100, 300)
    readme = (configs.parent / "docs" / "README.md").read_text()
    assert "| ct | CT | organ | configs/inference_ct.json |" in readme


def test_the_card_by_hand(out: Path) -> None:
    card = ReleaseCard.model_validate_json((out / "model_card.json").read_text())
    assert [task.stage for task in card.tasks] == ["learnt", "being learnt", "not begun"]
    assert [one.name for one in card.hospitals] == ["north", "south"]
    north = card.hospitals[0]
    assert (north.scans, north.annotated_slices) == (9, 7)
    assert (north.scores[0].task, north.scores[0].dice) == ("first", {"organ": 0.8125})
    assert (north.lost[0].loss, north.lost[0].best_round) == (0.0625, 2)
    # Both on ten slices.
    assert card.mean_dice == {"organ": pytest.approx((0.8125 + 0.5) / 2)}
    assert (card.annotation.scans, card.annotation.slices) == (18, 14)
    assert card.annotation.share_of_slices is None
    # Two layers: 2 and 4 channels down, one convolution each of 27 voxels; two back up.
    weights = [array.size for name, array in read_release(out).arrays.items() if "student" in name]
    assert card.networks["student"].parameters == sum(weights)
    assert "Nobody has taught it yet: a|b." in card.limits


def test_the_card_for_people(out: Path) -> None:
    text = (out / "MODEL_CARD.md").read_text()
    for line in (
        "| round | 3 of 6 |",
        "| release gate | passed: no task of any hospital lost more than 0.25 |",
        "| 1 | organ | 10200004 |",
        "| 2 | a\\|b | not given |",
        "| ct | organ | CT, -100 to 300 HU | axial slices | 2 | being learnt |",
        "| north | first | organ | 0.812 | 10 | 0 |",
        "north lost 0.062 on first: 0.875 after round 2, 0.812 after this one.",
        "| north | 9 | 7 |",
        "| all that is told | 18 | 14 |",
    ):
        assert f"{line}\n" in text, line
    assert "no medical device" in text
    assert text == (out / "student_bundle" / "docs" / "MODEL_CARD.md").read_text()


def test_the_card_of_a_refused_round_says_why(tmp_path: Path) -> None:
    from server.checkpoints import load_state
    from server.model_card import build_card, card_text

    folder = _run(tmp_path, despite_losses=True)
    done = promote(folder, 3, despite_losses=True)
    state = load_state(folder.checkpoints, folder.read_plan())
    assert state is not None
    card = build_card(read_release(done.folder).record, done.card, state, {}, 0.125)
    assert any("refused this round" in one and "north lost 0.625" in one for one in card.limits)
    text = card_text(card)
    assert "refused, promoted all the same: north lost 0.625" in text
    assert "That is 12.5 % of the slices that show a structure." in text


def _export(folder: RunFolder, out: Path, number: int | None = None) -> None:
    export(folder, number, out, lambda _: None)


def test_nothing_promoted_is_said_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"expected a run's folder with plan\.toml"):
        _export(folder, tmp_path / "out")
    folder.keep_plan(FederationPlan.model_validate(VALUES))
    with pytest.raises(ReleaseError, match="no round is promoted yet: `oneslice coordinator prom"):
        _export(folder, tmp_path / "out")
    with pytest.raises(ReleaseError, match=r"round 2 is not promoted, promoted are \[\]: `.* 2` f"):
        _export(folder, tmp_path / "out", 2)


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    promoted = folder.promoted / "round-00003"
    record, models = promoted / "release.json", promoted / "models.safetensors"
    text, data = record.read_text(), models.read_bytes()
    record.unlink()
    with pytest.raises(ReleaseError, match=r"wrote no release\.json: `.* --round 3` adds it"):
        _export(folder, tmp_path / "out")
    record.write_text(text)
    models.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ReleaseError, match=r"models\.safetensors was changed"):
        _export(folder, tmp_path / "out")
    models.write_bytes(data)
    card = (promoted / "card.json").read_text()
    (promoted / "card.json").write_text(card[:-9])
    with pytest.raises(ReleaseError, match=r"card\.json cannot be read .*promote` for this round"):
        _export(folder, tmp_path / "out")
    (promoted / "card.json").write_text(card)
    folder.plan_file.write_text(folder.plan_file.read_text().replace('"small"', '"other"'))
    with pytest.raises(ReleaseError, match=r"is of small-\w+, expected other-"):
        _export(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_with_something_in_it_is_left_alone(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter").write_text("dear")
    for out in (tmp_path / "out", tmp_path / "out" / "letter"):
        with pytest.raises(SettingsError, match="expected a new or an empty folder"):
            _export(folder, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "letter").read_text() == "dear"


def test_a_full_disk_leaves_nothing(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"out cannot be written \(No space left on device"):
        _export(folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_cleared(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "half").touch()

    def stop(_: str) -> None:
        assert not (tmp_path / ".out.unfinished" / "half").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(folder, None, tmp_path / "out", stop)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_one_stands_in_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with (
        pytest.raises(SettingsError, match="cannot be replaced as a whole: name a new --out"),
        _whole_folder(Path()),
    ):
        pass


def test_an_empty_folder_behind_a_link_is_filled(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with _whole_folder(tmp_path / "link") as unfinished:
        (unfinished / "file").touch()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]


def test_a_damaged_report_is_told(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"report\.json cannot be read .*writes it anew"):
        _read_report(tmp_path / "report.json")
