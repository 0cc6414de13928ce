"""Simulated interactive rounds as text and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean

from simulations.interactive import Row

CLOSE_ENOUGH = 0.99  # of the Dice of full labels: within one hundredth


def to_json(rows: Sequence[Row]) -> str:
    """Every guide, seed and round with all that is known of it."""
    return json.dumps([asdict(row) for row in rows], indent=2)


def to_text(rows: Sequence[Row]) -> str:
    """One line per guide and round, means over seeds; below, what it took to come close to full."""
    lines = [
        f"{'guide':<10}{'round':>6}{'seeds':>6}{'slices':>8}{'showing':>9}{'of full':>9}"
        f"{'minutes':>9}{'expected':>10}{'actual':>8}{'corr':>7}{'Dice':>8}{'ratio':>8}"
    ]
    for group in _groups(rows).values():
        effort = [row.effort for row in group]
        showing = mean(e.showing / e.slices for e in effort)
        lines.append(
            f"{group[0].guide:<10}{group[0].round:>6}{len(group):>6}"
            f"{mean(e.slices for e in effort):>8.0f}{100 * showing:>7.0f} %"
            f"{100 * mean(e.of_full for e in effort):>7.1f} %"
            f"{mean(e.minutes for e in effort):>9.0f}"
            f"{_mean_or_dash([row.expected_gain for row in group]):>10}"
            f"{_mean_or_dash([row.actual_gain for row in group]):>8}"
            f"{_mean_or_dash([row.correlation for row in group]):>7}"
            f"{mean(row.mean_dice for row in group):>8.4f}"
            f"{_mean_or_dash([row.of_full_dice for row in group]):>8}"
        )
    notes = [
        "",
        "showing: slices with a structure; of full: slices, as a share of all slices with one",
        "expected: gain in the Dice of a painted scan, as the guide sees it; actual: of its labels",
        "corr: of the guide's residual with the network's wrong voxels, slice by slice (Spearman)",
        "ratio: of the test Dice to that of full labels after as many steps",
    ]
    return "\n".join([*lines, *notes, *_how_many(rows)])


def _groups(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """The seeds of each guide and round, in the order in which they come."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.guide, row.round), []).append(row)
    return groups


def _how_many(rows: Sequence[Row]) -> list[str]:
    """For each guide, the first round that comes close enough to full labels."""
    lines = []
    for guide in dict.fromkeys(row.guide for row in rows if row.guide != "full"):
        rounds = [group for (name, _), group in _groups(rows).items() if name == guide]
        compared = [(group, [row.of_full_dice for row in group]) for group in rounds]
        ratios = [(g, [r for r in found if r is not None]) for g, found in compared]
        close = [g for g, found in ratios if found and mean(found) >= CLOSE_ENOUGH]
        shown = close[0] if close else rounds[-1]
        slices = f"{mean(row.effort.slices for row in shown):.0f} slices"
        said = f"after {slices}" if close else f"not with {slices}"
        lines.append(f"within 1 % of full labels, {guide}: {said}")
    return lines


def _mean_or_dash(values: Sequence[float | None]) -> str:
    """The mean of those that there are."""
    known = [value for value in values if value is not None]
    return f"{mean(known):.3f}" if known else "-"
