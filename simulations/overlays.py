"""Pictures of test scans: the slice that shows most, with truth and prediction outlined."""

import io
from collections.abc import Sequence

import numpy as np

from client.learning.device import choose_device
from client.learning.predict import predict_labels
from client.store.scans import load_scan, read_reference
from client.store.store import Store
from common.networks.unet import SEGMENTER, build_networks, load_arrays
from common.plan import FederationPlan
from common.updates import Arrays
from server.report import Picture
from simulations.evaluate import CaseScores


def draw_overlays(
    store: Store, cases: Sequence[CaseScores], plan: FederationPlan, arrays: Arrays
) -> list[Picture]:
    """The best, the median and the worst case by mean Dice."""
    classes = [label.index for label in plan.labels]
    scored = [(mean, case) for case in cases if (mean := case.mean_dice(classes)) is not None]
    ranked = sorted(scored, key=lambda pair: pair[0], reverse=True)
    if not ranked:
        return []
    network = build_networks(plan)[SEGMENTER]
    load_arrays(network, arrays, SEGMENTER)
    chosen = (("best", 0), ("median", len(ranked) // 2), ("worst", len(ranked) - 1))
    pictures = []
    for title, place in chosen:
        mean, case = ranked[place]
        scan = load_scan(store, case.scan_id)
        predicted = predict_labels(network, scan, plan.training, device=choose_device("auto"))
        truth = read_reference(store, case.scan_id, plan)
        png = _draw(np.asarray(scan.image[0]), truth, predicted, scan.geometry.spacing_mm, plan)
        pictures.append(Picture(f"{title}: {case.case}, mean Dice {mean:.3f}", png))
    return pictures


def _draw(
    image: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    spacing_mm: tuple[float, float, float],
    plan: FederationPlan,
) -> bytes:
    """The slice with the largest true area in three planes: truth dashed, prediction solid."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (half a second, only for reports)

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, (axes, plane) in enumerate(
        zip(figure.subplots(1, 3), ("sagittal", "coronal", "axial"), strict=True)
    ):
        others = tuple(other for other in range(3) if other != axis)
        index = int((truth > 0).sum(axis=others).argmax())
        rows_mm, columns_mm = (spacing_mm[other] for other in others)
        # Patient's left, back and feet lie at index 0; the transpose puts the head up.
        views = [np.take(volume, index, axis=axis).T for volume in (image, truth, predicted)]
        axes.imshow(views[0], cmap="gray", origin="lower", aspect=columns_mm / rows_mm)
        for label in plan.labels:
            for view, style in ((views[1], "dashed"), (views[2], "solid")):
                mask = view == label.index
                if mask.any():
                    axes.contour(
                        mask, levels=[0.5], colors=[label.colour], linestyles=style, linewidths=1.2
                    )
        axes.set_title(f"{plane} {index}", fontsize=9)
        axes.set_axis_off()
    names = ", ".join(label.name for label in plan.labels)
    figure.supxlabel(f"{names}; truth dashed, prediction solid", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
