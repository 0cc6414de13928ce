"""The label in its volume: look at it, accept it, flag it, or go on to another slice."""

from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter
from jaxtyping import Int16
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from client.annotation.page.desk import (
    Annotator,
    Desk,
    KnownScan,
    Refusal,
    TheDesk,
    check_index,
    task_of,
)
from client.annotation.page.previews import Preview
from client.annotation.worklist import scan_state
from client.store.annotations import SliceVersion, latest_annotations, painted_slices
from client.store.arrays import load_array
from client.store.reviews import latest_review, save_review
from client.store.scans import CatalogScan

router = APIRouter(prefix="/scans/{scan_id}")

CUBIC_MM_PER_ML = 1000.0


class Judgement(BaseModel):
    """What is said of a scan's label; a flag needs a reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["accepted", "flagged"]
    # Without control characters but line breaks and tabs: it is printed in reports.
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")] = ""


class Slice(BaseModel):
    """A slice to open in the editor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int


def begin_preview(desk: Desk, scan_id: str) -> Preview:
    """What there is to see of a painted scan; what is missing is being made from here on."""
    painted = painted_slices(desk.store, scan_id)
    slices = tuple((one.ref.axis, one.ref.index, one.version) for one in painted)
    return desk.previews.look(scan_id, slices)


@router.get("/review")
def review(scan: KnownScan, desk: TheDesk) -> dict[str, object]:
    """What is shown, what it came from, what the model asks for next."""
    painted = _painted(desk, scan)
    preview = begin_preview(desk, scan.scan_id)
    shown, spacing_mm = preview.shown, scan.geometry.spacing_mm
    voxel_ml = float(np.prod(spacing_mm)) / CUBIC_MM_PER_ML
    judged = latest_review(desk.store, scan.scan_id)
    return {
        "state": scan_state(desk.store, desk.plan, scan),
        "ready": shown is not None,
        "source": "propagated" if shown is None else shown.source,
        "dims": scan.geometry.shape,
        "spacing_mm": spacing_mm,
        "centre": _centre(desk, scan),
        "painted": [{"axis": one.ref.axis, "index": one.ref.index} for one in painted],
        "volumes_ml": {
            index: round((0 if shown is None else shown.voxels.get(index, 0)) * voxel_ml, 3)
            for index in desk.plan.class_indexes(task_of(desk, scan))
        },
        "suggestion": None if preview.suggestion is None else vars(preview.suggestion),
        "update": {
            "state": preview.state,
            "sentence": preview.sentence,
            "seconds": preview.seconds,
        },
        "digest": preview.digest,
        "verdict": None if judged is None else judged.verdict,
    }


@router.get("/review/{axis}/{index}")
def section(
    axis: int, index: int, scan: KnownScan, desk: TheDesk, digest: str | None = None
) -> Response:
    """One slice of any plane: int16 image, uint8 labels, uint8 confidence, one after another."""
    if axis not in range(3):
        raise Refusal(404, f"expected axis 0, 1 or 2, got {axis}")
    check_index(scan, axis, index)
    _painted(desk, scan)
    preview = begin_preview(desk, scan.scan_id)
    if preview.shown is None:
        raise Refusal(409, "expected a label that is ready, this one is being made: ask again soon")
    if digest is not None and digest != preview.digest:
        raise Refusal(409, "the label was made anew: load the review again", digest=preview.digest)
    labels, confidence = (
        np.take(volume, index, axis) for volume in (preview.shown.labels, preview.shown.confidence)
    )
    parts = (_image(desk, scan, axis, index).astype("<i2"), labels, confidence)
    return Response(
        b"".join(part.tobytes() for part in parts), media_type="application/octet-stream"
    )


@router.post("/verdict")
def judge(
    body: Judgement, scan: KnownScan, desk: TheDesk, annotator: Annotator
) -> dict[str, object]:
    """Accepts the label, or flags the scan with a reason."""
    reason = body.reason.strip()
    if body.verdict == "flagged" and not reason:
        raise Refusal(422, "expected a reason with a flag, in a few words")
    if body.verdict == "accepted":
        _painted(desk, scan)
    save_review(desk.store, scan.scan_id, body.verdict, annotator, reason)
    return {"state": scan_state(desk.store, desk.plan, scan)}


@router.post("/ask")
def ask(body: Slice, scan: KnownScan, desk: TheDesk) -> dict[str, object]:
    """Whether a slice can be opened in the editor."""
    check_index(scan, task_of(desk, scan).axis, body.index)
    return {}


def _painted(desk: Desk, scan: CatalogScan) -> list[SliceVersion]:
    painted = painted_slices(desk.store, scan.scan_id)
    if not painted:
        raise Refusal(409, "expected a scan with a submitted slice: paint and submit one first")
    return painted


def _centre(desk: Desk, scan: CatalogScan) -> list[int]:
    """A voxel on a painted slice, inside the structure if any is painted."""
    annotations = latest_annotations(desk.store, scan.scan_id)
    largest = max(annotations, key=lambda one: int((one.mask > 0).sum()))
    inside = np.argwhere(largest.mask > 0)
    if len(inside):
        # The pixel nearest to the middle: the middle itself may lie outside of a curved structure.
        row, column = inside[((inside - inside.mean(0)) ** 2).sum(1).argmin()]
    else:
        row, column = (n // 2 for n in largest.mask.shape)
    place = [int(row), int(column)]
    place.insert(largest.ref.axis, largest.ref.index)
    return place


def _image(desk: Desk, scan: CatalogScan, axis: int, index: int) -> Int16[np.ndarray, "r c"]:
    """A slice of any plane out of the stack, which has the task's axis first."""
    stack = load_array(desk.store, scan.display_key)
    volume = np.moveaxis(stack, 0, task_of(desk, scan).axis)
    found: Int16[np.ndarray, "r c"] = volume[tuple([slice(None)] * axis + [index])]
    return found
