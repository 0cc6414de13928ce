"""A picture to look at: the scan in three planes, with what was found in it."""

import io

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.plan import Label
from common.scans import AXIS_OF_PLANE, Scan

# At the ends of the array's axes 0, 1 and 2.
FAR, NEAR = "RAS", "LPI"
INCHES, PIXELS_PER_INCH = (10, 4), 110
MOST_OPAQUE = 0.4


def draw_overlay(
    scan: Scan, labels: np.ndarray, confidence: np.ndarray, known: tuple[Label, ...], title: str
) -> bytes:
    """A PNG of the slices on which most was found; the middle ones where nothing was.

    Shown as radiologists are used to: the patient's right on the left, front or head on top. What
    is less sure is paler.
    """
    figure = Figure(figsize=INCHES, dpi=PIXELS_PER_INCH, layout="constrained")
    planes = zip(figure.subplots(1, 3), AXIS_OF_PLANE.items(), strict=True)
    for axes, (plane, axis) in planes:
        rows, columns = (other for other in range(3) if other != axis)
        index = _fullest(labels, axis)
        image, found, sure = (
            np.take(volume, index, axis=axis).T for volume in (scan.image[0], labels, confidence)
        )
        spacing_mm = scan.geometry.spacing_mm
        axes.imshow(image, cmap="gray", aspect=spacing_mm[columns] / spacing_mm[rows])
        axes.imshow(_paint(found, sure, known), aspect=spacing_mm[columns] / spacing_mm[rows])
        for label in known:
            if (found == label.index).any():
                axes.contour(found == label.index, levels=[0.5], colors=label.colour, linewidths=1)
        axes.invert_xaxis()
        axes.invert_yaxis()
        axes.set_title(f"{plane} {index}", fontsize=9)
        axes.set_xlabel(f"{FAR[rows]} to {NEAR[rows]}", fontsize=8)
        axes.set_ylabel(f"{NEAR[columns]} to {FAR[columns]}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    present = [label for label in known if (labels == label.index).any()]
    lines = [Line2D([], [], color=label.colour, label=label.name) for label in present]
    if lines:
        legend = figure.legend(handles=lines, loc="outside lower center", ncols=6, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name with two dollars is no formula
    told = title if lines else f"{title}: nothing was found"
    figure.suptitle(told, fontsize=9, parse_math=False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _fullest(labels: np.ndarray, axis: int) -> int:
    others = tuple(other for other in range(3) if other != axis)
    areas = np.count_nonzero(labels, axis=others)
    return int(areas.argmax()) if areas.any() else len(areas) // 2


def _paint(found: np.ndarray, sure: np.ndarray, known: tuple[Label, ...]) -> np.ndarray:
    """(rows, columns, 4): each label's colour, the more opaque the surer."""
    painted = np.zeros((*found.shape, 4), dtype=np.float32)
    for label in known:
        red, green, blue = (int(label.colour[place : place + 2], 16) for place in (1, 3, 5))
        painted[found == label.index, :3] = np.array([red, green, blue]) / 255
    painted[..., 3] = np.where(found > 0, MOST_OPAQUE * sure**2, 0)
    return painted
