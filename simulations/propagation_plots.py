"""Pictures of a comparison of propagators: Dice against distance, and bars."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simulations.propagation import Comparison
from simulations.propagation_scores import Row
from simulations.propagation_table import describe_choice

# Okabe and Ito's palette, told apart by the colour-blind, without its yellow: too pale on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = "osD^vP*X<>"
DASHES = ("solid", "dashed", "dotted")


def draw_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes `dice-by-distance-CHOICE.png` for each slice choice, and `dice.png`; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for choice in _choices(comparison.rows):
        rows = [row for row in comparison.rows if row.slice_choice == choice]
        paths.append(folder / f"dice-by-distance-{choice}.png")
        _draw_distances(rows, choice).savefig(paths[-1], dpi=120)
    paths.append(folder / "dice.png")
    _draw_bars(comparison.rows).savefig(paths[-1], dpi=120)
    return paths


def _choices(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.slice_choice for row in rows))


def _draw_distances(rows: Sequence[Row], choice: str) -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        # Where hardly a scan reaches, the mean is of a few odd ones.
        most = max((count for _, _, count in row.dice_by_distance), default=0)
        points = [(far, dice) for far, dice, count in row.dice_by_distance if 4 * count >= most]
        axes.plot(
            [far for far, _ in points],
            [dice for _, dice in points],
            label=row.method,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle=DASHES[place // len(COLOURS) % len(DASHES)],
            markersize=4,
        )
    axes.set(xlabel="slices from the painted one", ylabel="Dice of the slice", ylim=(0, 1))
    axes.set_title(f"{rows[0].plane}, painted slice: {describe_choice(choice)}", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _draw_bars(rows: Sequence[Row]) -> Figure:
    """A panel for each slice choice; whiskers are the spread over scans."""
    choices, methods = _choices(rows), list(dict.fromkeys(row.method for row in rows))
    size = (1.8 + 2.6 * len(choices), 1.4 + 0.4 * len(methods))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(choices), sharey=True, squeeze=False)[0]
    for axes, choice in zip(panels, choices, strict=True):
        for row in (row for row in rows if row.slice_choice == choice):
            place = methods.index(row.method)
            value, colour = row.mean_dice_without_annotated, COLOURS[place % len(COLOURS)]
            text = "-" if value is None else f"{value:.3f}"
            axes.text(1.02, place, text, va="center", fontsize=8)
            if value is not None:
                spread = row.dice_std_over_scans or 0.0
                axes.barh(place, value, xerr=spread, color=colour, ecolor="0.4")
        axes.set(xlim=(0, 1), xlabel="Dice")
        axes.set_title(describe_choice(choice), fontsize=9)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.suptitle(f"{rows[0].plane}, {rows[0].scans} scans, painted slice left out", fontsize=10)
    return figure
