"""Interactive rounds on phantoms with networks of a few weights; a table by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scenario import small_scenario

from client.propagation.residual import Suggestion
from common.errors import SettingsError
from common.networks.unet import SEGMENTER, build_networks
from common.plan import FederationPlan
from common.scans import SliceRef
from simulations import bench
from simulations.interactive import InteractiveSettings, Row, run_interactive
from simulations.interactive_gains import correlation, mean_dice, realised_gains
from simulations.interactive_guides import Guide, Looked, unguided
from simulations.interactive_pool import (
    Effort,
    Pool,
    as_painted,
    every_slice,
    first_slices,
    gather_pool,
    measure_effort,
    paint,
)
from simulations.interactive_table import to_json, to_text
from simulations.phantoms import write_phantoms
from simulations.progress import no_progress

SCANS = 4
GUIDES: tuple[Guide, ...] = ("full", "residual", "random", "none", "cohort", "doubt")


def settings(**changes: object) -> InteractiveSettings:
    values = {"scans": SCANS, "rounds": 3, "slices_per_round": 3, "steps": 10, "least_gain": 0}
    return InteractiveSettings.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def plan() -> FederationPlan:
    return small_scenario().plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interactive")
    write_phantoms(path / "phantoms", small_scenario())
    return path


@pytest.fixture(scope="module")
def rows(folder: Path, plan: FederationPlan) -> list[Row]:
    return run_interactive(folder / "phantoms", folder / "out", plan, settings())


@pytest.fixture(scope="module")
def pool(folder: Path, plan: FederationPlan) -> Pool:
    return gather_pool(
        folder / "phantoms", folder / "out", plan, num_scans=SCANS, progress=no_progress
    )


def kept_rounds(folder: Path) -> dict[str, dict[str, object]]:
    return {
        f"{path.parent.name}/{path.stem}": json.loads(path.read_text())
        for path in (folder / "out").glob("interactive-*/*/round-*.json")
    }


def test_all_guides_start_from_one_slice_in_each_scan(rows: list[Row], folder: Path) -> None:
    start = kept_rounds(folder)["start/round-1"]["painted"]
    assert len({scan_id for scan_id, _ in start}) == len(start) == SCANS
    first = [row for row in rows if row.round == 1 and row.guide != "full"]
    assert [row.effort.slices for row in first] == [SCANS] * 5
    assert len({row.mean_dice for row in first}) == 1


def test_no_slice_is_painted_twice_and_a_round_asks_one_of_each_scan(
    rows: list[Row], folder: Path
) -> None:
    assert {row.guide for row in rows if row.round == 3} == set(GUIDES)
    rounds = {name: found for name, found in kept_rounds(folder).items() if "full" not in name}
    for name, found in rounds.items():
        painted = [tuple(pair) for pair in found["painted"]]
        assert len(set(painted)) == len(painted), name
        number = int(name[-1])
        newest = painted[SCANS + 3 * (number - 2) :] if number > 1 else painted
        assert len({scan_id for scan_id, _ in newest}) == len(newest), name
        if name.startswith("residual") and number > 1:
            gains = found["expected_gains"]
            assert gains == sorted(gains, reverse=True)
            assert all(gain > 0 for gain in gains)
            assert len(found["actual_gains"]) == len(gains)
            assert -1 <= found["correlation"] <= 1


def test_only_full_labels_are_compared_with_themselves(rows: list[Row]) -> None:
    full = {row.round: row.mean_dice for row in rows if row.guide == "full"}
    for row in rows:
        assert row.of_full_dice == pytest.approx(row.mean_dice / full[row.round])
    assert full[3] > full[1]


def test_without_guide_nothing_more_is_painted(rows: list[Row]) -> None:
    assert [row.effort.slices for row in rows if row.guide == "none"] == [SCANS] * 3


def test_it_stops_by_itself_when_no_slice_promises_enough(
    rows: list[Row], folder: Path, plan: FederationPlan
) -> None:
    changed = settings(least_gain=1, guides=("residual", "random"))
    stopped = run_interactive(folder / "phantoms", folder / "out", plan, changed)
    assert [(row.guide, row.round) for row in stopped] == [
        ("residual", 1), ("random", 1), ("random", 2), ("random", 3),
    ]  # fmt: skip
    assert all(row.of_full_dice is None for row in stopped)
    # The first round was not trained again.
    assert stopped[0].mean_dice == next(r.mean_dice for r in rows if r.guide == "residual")


def test_it_stops_when_everything_is_painted(pool: Pool) -> None:
    assert unguided("random", pool, every_slice(pool), 3) == []
    assert unguided("cohort", pool, every_slice(pool)[1:], 3) == [every_slice(pool)[0]]


def test_a_stopped_course_goes_on_to_the_same_numbers(
    rows: list[Row], folder: Path, plan: FederationPlan
) -> None:
    before = {name: found for name, found in kept_rounds(folder).items() if "residual" in name}
    for path in (folder / "out").glob("interactive-*/residual-3-2-0.0/round-3.*"):
        path.unlink()
    again = run_interactive(folder / "phantoms", folder / "out", plan, settings())
    assert again == rows
    assert before.items() <= kept_rounds(folder).items()


def test_first_slices_show_where_the_organ_is_and_the_oracle_paints_the_truth(pool: Pool) -> None:
    refs = first_slices(pool)
    assert refs == first_slices(pool)
    for ref in refs:
        painted = paint(pool, ref)
        assert painted.looked_for == (1, 2)
        assert as_painted(pool, ref).shows == bool(painted.mask.any())


def write_boxes(folder: Path, *, split: bool) -> Path:
    """Two scans to train on and one to test on; slices 1 and 2 of four show a box."""
    import nibabel as nib

    label = np.zeros((4, 6, 6), dtype=np.uint8)
    label[1:3, 2:4, 2:4] = 1
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(3):
        image = (100 * label + 10 * number + np.arange(6)).astype(np.float32)
        for part, array in (("images", image), ("labels", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / part / f"case{number}.nii.gz")
    (folder / "labels.json").write_text('{"1": "head", "2": "body"}')
    if split:
        with (folder / "cases.csv").open("w", newline="") as file:
            lines = [("case", "split"), ("case0", "train"), ("case1", "train"), ("case2", "test")]
            csv.writer(file).writerows(lines)
    return folder


def test_the_effort_by_hand(tmp_path: Path, plan: FederationPlan) -> None:
    data = write_boxes(tmp_path / "data", split=True)
    pool = gather_pool(data, tmp_path / "out", plan, num_scans=0, progress=no_progress)
    one, other = (row.scan_id for row in pool.training)
    refs = [SliceRef(one, 0, 0), SliceRef(one, 0, 1), SliceRef(other, 0, 2)]
    # Three slices, of which two show the box; four slices of both scans do; a minute each.
    assert measure_effort(pool, refs) == Effort(3, 2, 3 / 4, 3.0)
    assert measure_effort(pool, every_slice(pool)) == Effort(8, 4, 2.0, 8.0)


def test_scans_to_test_on_are_not_trained_on(tmp_path: Path, plan: FederationPlan) -> None:
    data = write_boxes(tmp_path / "data", split=False)
    with pytest.raises(SettingsError, match=r"expected a cases\.csv with a column `split`"):
        gather_pool(data, tmp_path / "out", plan, num_scans=0, progress=no_progress)


def test_the_dice_of_labels_by_hand() -> None:
    truth = np.array([[[1, 1, 2, 0]]], dtype=np.uint8)
    found = np.array([[[1, 0, 2, 3]]], dtype=np.uint8)
    # 2 * 1 / 3 of the first structure, all of the second, none of the third.
    assert mean_dice(found, truth) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert mean_dice(np.zeros_like(truth), np.zeros_like(truth)) == 1


def test_the_correlation_by_hand() -> None:
    def looked(residual: list[float], wrong: list[float]) -> Looked:
        return Looked("scan", (), np.array(residual, float), 10.0, np.array(wrong, float))

    # Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15).
    assert correlation([looked([0, 1], [0, 2]), looked([5, 9], [8, 7])]) == pytest.approx(0.8)
    assert correlation([looked([0, 0], [0, 2])]) is None


def test_what_a_painted_slice_gained(folder: Path, rows: list[Row], pool: Pool) -> None:
    refs = first_slices(pool)
    scan_id = refs[0].scan_id
    suggestions = [
        Suggestion(SliceRef(scan_id, 0, index), 0.0, 0.0)
        for index in range(pool.depth(scan_id))
        if index != refs[0].index
    ]
    network = build_networks(pool.plan)[SEGMENTER]
    gains = realised_gains(pool, refs, suggestions, network, torch.device("cpu"))
    # An untrained network is wrong nearly everywhere: a painted slice of the middle must help.
    assert max(gains) > 0.01
    assert gains == realised_gains(pool, refs, suggestions, network, torch.device("cpu"))


def row(guide: Guide, number: int, slices: int, dice: float, of_full: float | None) -> Row:
    effort = Effort(slices, slices // 2, slices / 40, float(slices))
    gain = 0.02 if guide == "residual" and number > 1 else None
    return Row(guide, 0, number, effort, gain, gain and 0.03, gain and 0.5, dice, of_full)


def test_the_table_says_how_many_slices_came_close_to_full_labels() -> None:
    found = [
        row("full", 1, 50, 0.8, 1.0),
        row("full", 2, 50, 0.9, 1.0),
        row("residual", 1, 4, 0.6, 0.75),
        row("residual", 2, 6, 0.8955, 0.995),
        row("random", 1, 4, 0.6, 0.75),
        row("random", 2, 6, 0.81, 0.9),
    ]
    lines = to_text(found).splitlines()
    assert lines[4].split() == [
        "residual", "2", "1", "6", "50", "%", "15.0", "%", "6",
        "0.020", "0.030", "0.500", "0.8955", "0.995",
    ]  # fmt: skip
    assert lines[3].split()[-5:] == ["-", "-", "-", "0.6000", "0.750"]
    assert lines[-2:] == [
        "within 1 % of full labels, residual: after 6 slices",
        "within 1 % of full labels, random: not with 6 slices",
    ]
    assert json.loads(to_json(found))[3]["effort"]["slices"] == 6


def test_the_command_refuses_too_few_steps(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="steps"):
        bench.interactive(tmp_path, tmp_path, steps=1)
