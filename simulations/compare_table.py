"""A comparison of arms as text and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Literal

from common.continual import mean_known
from simulations.arms import REFERENCE
from simulations.compare import Comparison
from simulations.compare_run import Row
from simulations.paired_test import holm, mean_differences, wilcoxon_p


@dataclass(frozen=True)
class PairedTest:
    """One arm against the reference, on the test scans that both scored.

    Attributes:
        arm: the arm.
        reference: what it is compared with.
        runs: pairs of runs with the same seed and order.
        patients: of the test scans; each counts once, by the mean of its differences over its scans
            and the runs.
        mean_difference: in the Dice of a scan; above zero: the arm is better.
        p: of Wilcoxon's signed-rank test, two-sided.
        p_holm: corrected for the number of arms.
    """

    arm: str
    reference: str
    runs: int
    patients: int
    mean_difference: float
    p: float
    p_holm: float


def paired_tests(rows: Sequence[Row]) -> list[PairedTest]:
    """Every arm against the reference, where both have runs with the same seed and order."""
    runs = {
        arm: {(row.seed, row.order): row for row in found} for arm, found in by_arm(rows).items()
    }
    reference = runs.pop(REFERENCE, {})
    pairs = {arm: sorted(found.keys() & reference.keys()) for arm, found in runs.items()}
    differences = {
        arm: mean_differences(
            [runs[arm][key].cases for key in keys],
            [reference[key].cases for key in keys],
            [reference[key].patients for key in keys],
        )
        for arm, keys in pairs.items()
    }
    differences = {arm: found for arm, found in differences.items() if found}
    p_values = [wilcoxon_p(list(found.values())) for found in differences.values()]
    return [
        PairedTest(arm, REFERENCE, len(pairs[arm]), len(found), mean(found.values()), p, corrected)
        for (arm, found), p, corrected in zip(
            differences.items(), p_values, holm(p_values), strict=True
        )
    ]


def to_json(comparison: Comparison) -> str:
    """The rows, the tests, and what is not there."""
    values = {
        "scenario": comparison.scenario.name,
        "rows": [row.model_dump(exclude={"cases", "patients"}) for row in comparison.rows],
        "tests": [asdict(test) for test in paired_tests(comparison.rows)],
        "failed": [failure.model_dump() for failure in comparison.failures],
        "left_out": comparison.left_out,
    }
    return json.dumps(values, indent=2)


def to_text(comparison: Comparison) -> str:
    """One line for each arm; below, what the columns are, what failed, and what was left out."""
    arms, tests = by_arm(comparison.rows), paired_tests(comparison.rows)
    against = {test.arm: test for test in tests}
    wide = max([len("arm"), *map(len, arms)]) + 1
    lines = [
        f"{'arm':<{wide}}{'runs':>5}{'Dice':>8}{'+-seeds':>9}{'+-orders':>10}{'ACC':>9}{'+-':>8}"
        f"{'BWT':>8}{'+-':>7}{'forgetting':>12}{'slices':>9}{'minutes':>9}{'to as-is':>10}{'p':>8}"
    ]
    lines += [f"{arm:<{wide}}{_cells(rows, against.get(arm))}" for arm, rows in arms.items()]
    lines += ["", *_notes(tests)]
    lines += [
        f"failed: {one.arm}, seed {one.seed}, {one.order} order: {one.reason}"
        for one in comparison.failures
    ]
    lines += [f"left out: {name}: {reason}" for name, reason in comparison.left_out.items()]
    return "\n".join(lines)


def spread_over_seeds(rows: Sequence[Row]) -> float | None:
    """Standard deviation over seeds of the mean Dice, a mean over orders; None with one seed."""
    return _spread([_mean_dice(found) for found in _grouped(rows, "seed")])


def spread_over_orders(rows: Sequence[Row]) -> float | None:
    """Standard deviation over orders of the mean Dice, a mean over seeds.

    None with one order, and of an arm that is the same in both.
    """
    return _spread([_mean_dice(found) for found in _grouped(rows, "ran_as")])


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each arm, arms in the order in which they come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.arm, []).append(row)
    return found


def _cells(rows_of_arm: Sequence[Row], test: PairedTest | None) -> str:
    # Where one run serves both orders it counts once.
    rows = list({(row.seed, row.ran_as): row for row in rows_of_arm}.values())
    acc, bwt = [row.acc for row in rows], [row.bwt for row in rows]
    share = mean_known([row.fraction_of_slices for row in rows])
    cells = (
        (str(len(rows)), 5),
        (_number(_mean_dice(rows), 4), 8),
        (_number(spread_over_seeds(rows), 4), 9),
        (_number(spread_over_orders(rows), 4), 10),
        (_number(mean_known(acc), 4), 9),
        (_number(_spread(acc), 4), 8),
        (_number(mean_known(bwt)), 8),
        (_number(_spread(bwt)), 7),
        (_number(mean_known([row.forgetting for row in rows])), 12),
        ("-" if share is None else f"{100 * share:.1f} %", 9),
        (f"{mean(row.seconds for row in rows) / 60:.1f}", 9),
        ("-" if test is None else f"{test.mean_difference:+.4f}", 10),
        (_p_value(test), 8),
    )
    return "".join(f"{text:>{width}}" for text, width in cells)


def _notes(tests: Sequence[PairedTest]) -> list[str]:
    notes = [
        "+-: standard deviations; without a name: over all runs, seeds and orders",
        "slices: painted, as a share of those with a structure; minutes: of work in a run",
    ]
    if tests:
        counts = sorted({test.patients for test in tests})
        patients = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        notes += [
            f"to {REFERENCE}: in the Dice of a test scan, a mean over {patients} patients, each "
            "itself a mean over runs",
            "with the same seed and order; p: of Wilcoxon's signed-rank test over these patients, "
            f"corrected for {len(tests)} arm{'s' * (len(tests) > 1)} (Holm)",
        ]
    return notes


def _grouped(rows: Sequence[Row], key: Literal["seed", "ran_as"]) -> list[list[Row]]:
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.seed if key == "seed" else row.ran_as, []).append(row)
    return list(groups.values())


def _mean_dice(rows: Sequence[Row]) -> float | None:
    return mean_known([row.mean_dice for row in rows])


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


def _number(value: float | None, digits: int = 3) -> str:
    # Adding zero takes the sign from a zero.
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def _p_value(test: PairedTest | None) -> str:
    if test is None:
        return "-"
    return "<0.001" if test.p_holm < 0.001 else f"{test.p_holm:.3f}"
