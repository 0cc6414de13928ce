"""The pictures of a report, drawn by matplotlib."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.plan import FederationPlan
from common.updates import Note
from server.ledger import Ledger, LedgerRow
from server.round_state import RoundState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More rows than these would not be read.
MOST_ROWS = 24
# Less than this at the dark end of the scale would make noise look like a loss.
LEAST_DARKEST = 0.1
DiceMatrix = Sequence[Sequence[float | None]]


def plot_curves(plan: FederationPlan, state: RoundState) -> "Figure":
    """Held-back Dice per task and training loss per hospital, over the rounds."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (half a second, only for reports)

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    records = [*state.history, *([state.closing] if state.closing else [])]
    for task in plan.tasks:
        points = [
            (record.round - (record is not state.closing), mean)
            for record in records
            if (mean := _mean_score(record.notes, task.name)) is not None
        ]
        left.plot(*zip(*points, strict=True), marker="o", ms=3, label=task.name) if points else None
    left.set(xlabel="rounds trained", ylabel="Dice on held-back slices", ylim=(0, 1))
    for name in sorted({note.hospital for r in state.history for note in r.notes}):
        losses = [
            (r.round, note.loss)
            for r in state.history
            for note in r.notes
            if note.hospital == name and note.loss is not None and note.outcome != "self_learned"
        ]
        right.plot(*zip(*losses, strict=True), label=name) if losses else None
    right.set(xlabel="round", ylabel="training loss")
    for axes in (left, right):
        for number in filter(plan.ends_stage, range(1, plan.num_rounds)):
            axes.axvline(number + 0.5, color="0.8", lw=1, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure


def plot_matrix(tasks: Sequence[str], dice_matrix: DiceMatrix) -> "Figure":
    """The stage-by-task Dice matrix."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (as above)

    size = len(tasks)
    figure = Figure(figsize=(1.3 * size + 2, 0.9 * size + 1.4), layout="constrained")
    axes = figure.subplots()
    values = [[value or 0.0 for value in row] for row in dice_matrix]
    axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
    for stage, row in enumerate(dice_matrix):
        for task, value in enumerate(row):
            text = "-" if value is None else f"{value:.3f}"
            dark = value is not None and value > 0.55
            axes.text(task, stage, text, ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(size), tasks)
    stages = tasks[: len(dice_matrix)]
    axes.set_yticks(range(len(stages)), [f"after {task}" for task in stages])
    return figure


def plot_losses(plan: FederationPlan, ledger: Ledger) -> "Figure":
    """What each hospital has lost on each task after each round, darker for more; grey: no score.

    Of many hospitals and tasks those with the largest losses.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (as above)
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (as above)

    keys = _rows_that_lost_most(ledger.rows)
    rounds = range(ledger.rows[0].round, ledger.rows[-1].round + 1)
    loss_of = {((row.hospital, row.task), row.round): row.loss for row in ledger.rows}
    values = [[loss_of.get((key, number), float("nan")) for number in rounds] for key in keys]
    figure = Figure(figsize=(10, 0.26 * len(keys) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.88")
    edges = (rounds[0] - 0.5, rounds[-1] + 0.5, len(keys) - 0.5, -0.5)
    largest = max(LEAST_DARKEST, *(row.loss for row in ledger.rows))
    image = axes.imshow(
        values, vmin=0, vmax=largest, cmap="Reds", extent=edges, aspect="auto", interpolation="none"
    )
    for number in filter(plan.ends_stage, rounds[:-1]):
        axes.axvline(number + 0.5, color="0.3", lw=1)
    axes.set_yticks(range(len(keys)), [f"{hospital}  {task}" for hospital, task in keys])
    axes.tick_params(labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")
    figure.colorbar(image, label="Dice lost", pad=0.01)
    return figure


def to_png(figure: "Figure") -> bytes:
    """The picture as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _rows_that_lost_most(rows: Sequence[LedgerRow]) -> list[tuple[str, str]]:
    """Hospitals and tasks, by name."""
    most: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row.hospital, row.task)
        most[key] = max(most.get(key, 0.0), row.loss)
    return sorted(sorted(most, key=lambda key: -most[key])[:MOST_ROWS])


def _mean_score(notes: Sequence[Note], task: str) -> float | None:
    means = [
        score.mean_dice
        for note in notes
        for score in note.scores
        if score.task == task and score.mean_dice is not None
    ]
    return sum(means) / len(means) if means else None
