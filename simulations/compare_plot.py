"""The picture of a comparison: a dot for each run, a bar for the mean of each arm."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.continual import mean_known
from simulations.arms import REFERENCE
from simulations.compare import ORDERS, Comparison
from simulations.compare_run import Order, Row
from simulations.compare_table import by_arm

# Of Okabe and Ito's palette, told apart by the colour-blind, and by their shapes as well.
LOOKS: dict[Order, tuple[str, str]] = {"given": ("#0072B2", "o"), "reversed": ("#E69F00", "D")}
APART: dict[Order, float] = {"given": -0.14, "reversed": 0.14}


def draw_plot(comparison: Comparison, path: Path) -> None:
    """Writes the mean Dice of every arm and, where there is a stream, its BWT, as one picture."""
    arms = by_arm(comparison.rows)
    has_stream = any(row.bwt is not None for row in comparison.rows)
    figure = Figure(figsize=(11 if has_stream else 7, 1.6 + 0.36 * len(arms)), layout="constrained")
    panels = figure.subplots(1, 1 + has_stream, sharey=True, squeeze=False)[0]
    dice = {arm: [(row, row.mean_dice) for row in rows] for arm, rows in arms.items()}
    _draw_panel(panels[0], dice, "mean test Dice")
    if has_stream:
        bwt = {arm: [(row, row.bwt) for row in rows] for arm, rows in arms.items()}
        _draw_panel(panels[1], bwt, "BWT (below zero: forgotten)")
    panels[0].set_yticks(range(len(arms)), list(arms))
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    _explain(figure, panels[0], comparison.rows)
    figure.suptitle(f"{comparison.scenario.name}: a dot for each run", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_panel(axes: Axes, values: dict[str, list[tuple[Row, float | None]]], label: str) -> None:
    means = {arm: mean_known([value for _, value in found]) for arm, found in values.items()}
    for place, (arm, found) in enumerate(values.items()):
        for order in ORDERS:
            dots = [value for row, value in found if row.order == order and value is not None]
            colour, marker = LOOKS[order]
            height = [place + APART[order]] * len(dots)
            axes.plot(dots, height, marker, color=colour, markersize=5, alpha=0.75, linewidth=0)
        middle = means[arm]
        if middle is not None:
            axes.vlines(middle, place - 0.36, place + 0.36, color="black", linewidth=1.8)
            number = f"{middle:.3f}"
            axes.text(
                1.02, place, number, va="center", fontsize=8, transform=axes.get_yaxis_transform()
            )
    reference = means.get(REFERENCE)
    if reference is not None:
        axes.axvline(reference, color="0.5", linestyle="dashed", linewidth=0.9, zorder=0)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)


def _explain(figure: Figure, axes: Axes, rows: Sequence[Row]) -> None:
    """A legend under the panels: the orders that there are, the mean, the reference."""
    orders = [order for order in ORDERS if any(row.order == order for row in rows)]
    handles = [
        axes.plot([], [], LOOKS[order][1], color=LOOKS[order][0], markersize=5, linewidth=0)[0]
        for order in orders
    ]
    mean_mark = axes.plot([], [], "|", color="black", markersize=12, markeredgewidth=1.8)[0]
    line = axes.plot([], [], color="0.5", linestyle="dashed", linewidth=0.9)[0]
    labels = [f"tasks in {order} order" for order in orders]
    figure.legend(
        [*handles, mean_mark, line],
        [*labels, "mean", f"mean of {REFERENCE}"],
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
