"""The table and the picture of a comparison whose rows are made up."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread
from small_scenario import small_scenario

from simulations.compare import Comparison
from simulations.compare_plot import draw_plot
from simulations.compare_run import Failure, Order, Row
from simulations.compare_table import (
    paired_tests,
    spread_over_orders,
    spread_over_seeds,
    to_json,
    to_text,
)


def row(
    arm: str,
    seed: int,
    order: Order,
    dice: float,
    bwt: float | None = -0.1,
    ran_as: Order | None = None,
) -> Row:
    """Five test scans around the mean."""
    cases = {f"case{number}": dice + 0.01 * (number - 2) for number in range(5)}
    return Row(
        arm=arm, seed=seed, order=order, mean_dice=dice, acc=dice - 0.1, bwt=bwt,
        forgetting=bwt and -bwt, fraction_of_slices=0.05, seconds=90, cases=cases,
        ran_as=ran_as or order, patients={name: name for name in cases},
    )  # fmt: skip


@pytest.fixture
def rows() -> list[Row]:
    return [
        row("as-is", 0, "given", 0.80),
        row("as-is", 0, "reversed", 0.70),
        row("as-is", 1, "given", 0.84),
        row("as-is", 1, "reversed", 0.74),
        row("joint", 0, "given", 0.90, None),
        row("joint", 1, "given", 0.91, None),
        row("no-replay", 0, "given", 0.60),
    ]


@pytest.fixture
def comparison(rows: list[Row]) -> Comparison:
    failure = Failure(arm="no-replay", seed=1, order="given", reason="the disk is full")
    return Comparison(
        small_scenario(), tuple(rows), (failure,), {"no-synthesis": "changes nothing here"}
    )


def test_spreads_by_hand(rows: list[Row]) -> None:
    # Means over orders 0.75 and 0.79, means over seeds 0.82 and 0.72.
    assert spread_over_seeds(rows[:4]) == pytest.approx(0.04 / 2**0.5)
    assert spread_over_orders(rows[:4]) == pytest.approx(0.10 / 2**0.5)
    assert spread_over_seeds(rows[:2]) is None
    assert spread_over_orders(rows[4:6]) is None


def test_an_arm_is_tested_on_the_runs_it_shares_with_the_reference(rows: list[Row]) -> None:
    joint, no_replay = paired_tests(rows)
    assert (joint.arm, joint.reference, joint.runs, joint.patients) == ("joint", "as-is", 2, 5)
    # 0.90 - 0.80 and 0.91 - 0.84 of every scan.
    assert joint.mean_difference == pytest.approx(0.085)
    assert no_replay.mean_difference == pytest.approx(-0.2)
    assert no_replay.runs == 1
    assert joint.p_holm == pytest.approx(2 * min(joint.p, no_replay.p))


def test_without_the_reference_nothing_is_tested(rows: list[Row]) -> None:
    assert paired_tests(rows[4:]) == []


def test_the_keys_of_the_json_are_those_of_the_design(comparison: Comparison) -> None:
    values = json.loads(to_json(comparison))
    assert set(values["rows"][0]) == {
        "arm", "seed", "order", "mean_dice", "acc", "bwt", "forgetting", "fraction_of_slices",
        "seconds", "ran_as",
    }  # fmt: skip
    assert values["rows"][4]["bwt"] is None
    assert [test["arm"] for test in values["tests"]] == ["joint", "no-replay"]
    assert values["failed"][0]["reason"] == "the disk is full"


def test_a_run_that_serves_both_orders_counts_once(rows: list[Row]) -> None:
    joint = [
        row("joint", seed, order, dice, None, "given")
        for seed, dice in ((0, 0.90), (1, 0.92))
        for order in ("given", "reversed")
    ]
    whole = Comparison(small_scenario(), (*rows[:4], *joint), (), {})
    cells = to_text(whole).splitlines()[2].split()
    # Runs, Dice, its spread over seeds and orders, ACC and its spread.
    assert cells[:7] == ["joint", "2", "0.9100", "0.0141", "-", "0.8100", "0.0141"]
    (test,) = paired_tests(whole.rows)
    assert test.runs == 4


def test_the_table_has_a_line_for_each_arm(comparison: Comparison) -> None:
    lines = to_text(comparison).splitlines()
    assert lines[0].split()[:4] == ["arm", "runs", "Dice", "+-seeds"]
    assert lines[1].split() == [
        "as-is", "4", "0.7700", "0.0283", "0.0707", "0.6700", "0.0622", "-0.100", "0.000",
        "0.100", "5.0", "%", "1.5", "-", "-",
    ]  # fmt: skip
    assert lines[2].split()[:3] == ["joint", "2", "0.9050"]
    assert lines[2].split()[-2] == "+0.0850"
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[-2:] == [
        "failed: no-replay, seed 1, given order: the disk is full",
        "left out: no-synthesis: changes nothing here",
    ]


def test_the_picture_grows_with_the_arms(comparison: Comparison, tmp_path: Path) -> None:
    draw_plot(comparison, tmp_path / "plots" / "all.png")
    some = Comparison(comparison.scenario, comparison.rows[:4], (), {})
    draw_plot(some, tmp_path / "one.png")
    tall, low = imread(tmp_path / "plots" / "all.png"), imread(tmp_path / "one.png")
    assert tall.shape[0] > low.shape[0]
    # Without a stream there is no panel for what was forgotten.
    no_stream = Comparison(comparison.scenario, comparison.rows[4:6], (), {})
    draw_plot(no_stream, tmp_path / "joint.png")
    assert imread(tmp_path / "joint.png").shape[1] < low.shape[1]
