"""Painting: every stroke is saved, and a finished slice is submitted."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
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
from client.annotation.page.review import begin_preview
from client.store.drafts import (
    OutdatedDraftError,
    drop_draft,
    load_draft,
    save_draft,
    submit_slice,
)
from client.store.scans import CatalogScan
from common.scans import SliceAnnotation, SliceRef

router = APIRouter(prefix="/scans/{scan_id}")

MOST_VERSIONS = 1_000_000_000
MOST_SECONDS = 7 * 24 * 3600.0
Version = Annotated[int, Field(ge=0, le=MOST_VERSIONS)]
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]
MASK_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Stroke(BaseModel):
    """Which version a mask continues, 0 for the first, and the seconds at the brush so far.

    `another`: the page closes while its save before this one, of the next version, is under way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    seconds: Seconds
    another: bool = False


class Submission(BaseModel):
    """The draft that is finished, or an empty slice without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    version: Version
    seconds: Seconds
    nothing_here: bool = False


@router.get("/drafts/{index}")
def newest(index: int, scan: KnownScan, desk: TheDesk, annotator: Annotator) -> Response:
    """One's own newest draft of a slice."""
    found = load_draft(desk.store, _ref(desk, scan, index), annotator)
    if found is None:
        raise Refusal(404, f"there is no draft of slice {index}: start with an empty one")
    draft, mask = found
    headers = {"X-Version": str(draft.version), "X-Seconds": str(draft.seconds_spent)}
    return Response(mask.tobytes(), media_type="application/octet-stream", headers=headers)


@router.put("/drafts/{index}", openapi_extra=MASK_BODY)
async def save(
    index: int,
    stroke: Annotated[Stroke, Query()],
    request: Request,
    scan: KnownScan,
    desk: TheDesk,
    annotator: Annotator,
) -> dict[str, int]:
    """Saves a stroke."""
    ref = _ref(desk, scan, index)
    mask = await _read_mask(request, desk, scan)

    def write() -> int:
        return save_draft(
            desk.store,
            ref,
            annotator,
            mask,
            continues=(stroke.version, stroke.version + 1)[: 1 + stroke.another],
            seconds_spent=stroke.seconds,
        )

    try:
        return {"version": await run_in_threadpool(write)}
    except OutdatedDraftError as error:
        raise Refusal(409, str(error), version=error.version) from None


@router.delete("/drafts/{index}")
def drop(index: int, scan: KnownScan, desk: TheDesk, annotator: Annotator) -> dict[str, object]:
    """Throws one's own draft away, all its versions."""
    drop_draft(desk.store, _ref(desk, scan, index), annotator)
    return {}


@router.post("/submit")
def submit(
    body: Submission, scan: KnownScan, desk: TheDesk, annotator: Annotator
) -> dict[str, int]:
    """Makes a draft an annotation; all classes of the task were looked for."""
    ref = _ref(desk, scan, body.index)
    annotation = SliceAnnotation(
        ref=ref,
        mask=_finished_mask(desk, scan, ref, annotator, body),
        looked_for=desk.plan.class_indexes(task_of(desk, scan)),
        annotator=annotator,
        seconds_spent=body.seconds,
    )
    try:
        version = submit_slice(desk.store, annotation, body.version)
    except OutdatedDraftError as error:
        raise Refusal(409, str(error), version=error.version) from None
    begin_preview(desk, scan.scan_id)
    return {"version": version}


def _finished_mask(
    desk: Desk, scan: CatalogScan, ref: SliceRef, annotator: str, body: Submission
) -> UInt8[np.ndarray, "rows columns"]:
    """The mask to submit; an empty one must be meant."""
    found = load_draft(desk.store, ref, annotator)
    newest, mask = (0, None) if found is None else (found[0].version, found[1])
    if newest != body.version:
        error = OutdatedDraftError(newest, body.version)
        raise Refusal(409, str(error), version=newest)
    if mask is None:
        mask = np.zeros(_plane(desk, scan), dtype=np.uint8)
    if mask.any() and body.nothing_here:
        raise Refusal(422, "expected an empty slice with nothing_here, this draft holds paint")
    if not mask.any() and not body.nothing_here:
        raise Refusal(
            422,
            "expected a painted slice, this one is empty: paint it, or say that nothing is here",
        )
    return mask


async def _read_mask(
    request: Request, desk: Desk, scan: CatalogScan
) -> UInt8[np.ndarray, "rows columns"]:
    """The request's mask; reading stops where it is larger than the slice."""
    rows, columns = _plane(desk, scan)
    read = await _read_at_most(request, rows * columns + 1)
    if len(read) > rows * columns:
        raise Refusal(413, f"expected a mask of {rows} x {columns} bytes, more came")
    if len(read) < rows * columns:
        raise Refusal(422, f"expected a mask of {rows} x {columns} bytes, {len(read)} came")
    mask = np.frombuffer(read, np.uint8).reshape(rows, columns)
    allowed = [0, *desk.plan.class_indexes(task_of(desk, scan))]
    odd = np.setdiff1d(mask, allowed)
    if len(odd):
        raise Refusal(422, f"expected the labels {allowed}, the mask holds {odd.tolist()[:5]}")
    return mask


async def _read_at_most(request: Request, num_bytes: int) -> bytes:
    """The body, or its first `num_bytes` and some; what announces more is not read at all."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) >= num_bytes:
        return bytes(num_bytes)
    read = bytearray()
    try:
        async for part in request.stream():
            read += part
            if len(read) >= num_bytes:
                break
    except ClientDisconnect:
        raise Refusal(400, "expected a whole mask, the connection broke off") from None
    return bytes(read)


def _ref(desk: Desk, scan: CatalogScan, index: int) -> SliceRef:
    axis = task_of(desk, scan).axis
    check_index(scan, axis, index)
    return SliceRef(scan.scan_id, axis, index)


def _plane(desk: Desk, scan: CatalogScan) -> tuple[int, int]:
    axis = task_of(desk, scan).axis
    rows, columns = (n for other, n in enumerate(scan.geometry.shape) if other != axis)
    return rows, columns
