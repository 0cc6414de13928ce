"""The comparison of propagators as text and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from simulations.propagation import Comparison
from simulations.propagation_scores import Row
from simulations.propagation_slices import ORACLE

MOST_CLASSES = 4  # more columns than these do not fit on a terminal
WIDEST_NAME = 16


def to_json(comparison: Comparison) -> str:
    """The rows with all they hold, and what a reader has to know."""
    values = {
        "rows": [asdict(row) for row in comparison.rows],
        "plane_reason": comparison.plane_reason,
        "notes": list(comparison.notes),
    }
    return json.dumps(values, indent=2)


def to_text(comparison: Comparison) -> str:
    """One block of lines for each slice choice, footnotes below."""
    rows = comparison.rows
    lines = [f"{comparison.plane} slices ({comparison.plane_reason}), {rows[0].scans} scans"]
    for choice in dict.fromkeys(row.slice_choice for row in rows):
        lines += ["", f"painted slice: {describe_choice(choice)}"]
        lines += _block([row for row in rows if row.slice_choice == choice])
    lines += ["", "Dice without the painted slice; a missed structure counts 0"]
    return "\n".join([*lines, *comparison.notes])


def describe_choice(choice: str) -> str:
    """The choice, and whether it could be made in practice."""
    return f"{choice} (chosen with the truth)" if choice == ORACLE else f"{choice} (without labels)"


def _block(rows: Sequence[Row]) -> list[str]:
    classes = list(dict.fromkeys(name for row in rows for name in row.dice))
    shown = classes if len(classes) <= MOST_CLASSES else []
    heads = [name if len(name) <= WIDEST_NAME else f"{name[: WIDEST_NAME - 1]}…" for name in shown]
    widths = [max(len(head), 5) + 2 for head in heads]
    wide = max(len("method"), *(len(row.method) for row in rows)) + 2
    named = "".join(f"{name:>{width}}" for name, width in zip(heads, widths, strict=True))
    lines = [
        f"{'method':<{wide}}{'Dice':>6}{'+-scans':>9}{'+-seeds':>9}{named}"
        f"{'overrun':>9}{'underrun':>10}{'s/scan':>9}{'training s':>12}"
    ]
    for row in rows:
        found = [_number(row.dice.get(name)) for name in shown]
        values = "".join(f"{value:>{width}}" for value, width in zip(found, widths, strict=True))
        lines.append(
            f"{row.method:<{wide}}{_number(row.mean_dice_without_annotated):>6}"
            f"{_number(row.dice_std_over_scans):>9}{_number(row.dice_std_over_seeds):>9}{values}"
            f"{_number(row.overrun_slices, 1):>9}{_number(row.underrun_slices, 1):>10}"
            f"{row.seconds_per_scan:>9.2f}{row.training_seconds:>12.1f}"
        )
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
