"""One scan: how to show it, its slices, and who has it open."""

from functools import lru_cache

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from client.annotation.annotator import painted_so_far, slices_of
from client.annotation.page.desk import Annotator, Desk, KnownScan, TheDesk, check_index, task_of
from client.annotation.select_slices import select_slices
from client.annotation.worklist import WHY, WHY_ASKED, scan_state
from client.store.annotations import painted_slices
from client.store.arrays import load_array
from client.store.claims import claim_scan, release_scan
from client.store.display import LARGEST
from client.store.drafts import list_drafts
from client.store.scans import CatalogScan, place_of_scan
from client.store.store import Store

router = APIRouter(prefix="/scans/{scan_id}")

CT_WINDOWS = {
    "soft tissue": (-160, 240),
    "liver": (-20, 140),
    "brain": (0, 80),
    "bone": (-450, 1050),
    "lung": (-1350, 150),
}
LOOKED_AT = 16  # slices that tell how far the window can be drawn


@router.post("/claim")
def claim(scan: KnownScan, desk: TheDesk, annotator: Annotator) -> dict[str, object]:
    """Tells others that one has the scan open; renews that."""
    held = claim_scan(desk.store, scan.scan_id, annotator)
    return {"claimed_by": held.annotator, "claim_left_s": held.left_s}


@router.delete("/claim")
def release(scan: KnownScan, desk: TheDesk, annotator: Annotator) -> dict[str, object]:
    """Tells others that one is done with it."""
    release_scan(desk.store, scan.scan_id, annotator)
    return {}


@router.get("")
def describe(scan: KnownScan, desk: TheDesk, annotator: Annotator) -> dict[str, object]:
    """All that the editor needs to know before it loads a slice."""
    task = task_of(desk, scan)
    state = scan_state(desk.store, desk.plan, scan)
    asked = _asked_index(desk, scan)
    shape, spacing_mm = scan.geometry.shape, scan.geometry.spacing_mm
    row_axis, column_axis = (axis for axis in range(3) if axis != task.axis)
    least, most = _range_of(desk.store, scan.display_key, scan.display.unit == "HU")
    return {
        "scan_id": scan.scan_id,
        "task": scan.task,
        "state": state,
        "axis": task.axis,
        "asked_index": asked,
        "why": WHY.get(state, WHY_ASKED[desk.plan.annotation.slice_choice]),
        "depth": shape[task.axis],
        "rows": shape[row_axis],
        "columns": shape[column_axis],
        "row_mm": spacing_mm[row_axis],
        "column_mm": spacing_mm[column_axis],
        "slice_mm": spacing_mm[task.axis],
        "shape": shape,
        "spacing_mm": spacing_mm,
        "display": vars(scan.display),
        "presets": _presets(scan),
        "least": least,
        "most": most,
        "painted": [
            {
                "axis": one.ref.axis,
                "index": one.ref.index,
                "version": one.version,
                "annotator": one.annotator,
                "seconds": one.seconds_spent,
                "time": one.time,
            }
            for one in painted_slices(desk.store, scan.scan_id)
        ],
        "drafts": [
            {
                "axis": one.ref.axis,
                "index": one.ref.index,
                "version": one.version,
                "seconds": one.seconds_spent,
                "time": one.time,
            }
            for one in list_drafts(desk.store, scan.scan_id, annotator)
        ],
    }


@router.get("/slices/{index}")
def pixels(index: int, scan: KnownScan, desk: TheDesk) -> Response:
    """One slice along the task's axis: int16, little endian, row by row."""
    check_index(scan, task_of(desk, scan).axis, index)
    stack = load_array(desk.store, scan.display_key)
    return Response(stack[index].astype("<i2").tobytes(), media_type="application/octet-stream")


def _asked_index(desk: Desk, scan: CatalogScan) -> int | None:
    """The slice that the plan asks for; None if it asks for none of this scan any more."""
    place, most = place_of_scan(desk.store, scan), desk.plan.annotation.scans
    if most is not None and place >= most:
        return None
    task = task_of(desk, scan)
    if desk.plan.annotation.slice_choice == "representative":
        is_painted = bool(painted_slices(desk.store, scan.scan_id))
        return None if is_painted else _most_typical(desk.store, scan.image_key, task.axis)
    painted = painted_so_far(desk.store, desk.plan, task)
    refs = slices_of(desk.store, desk.plan, task, (place, scan), painted)
    return refs[0].index if refs else None


@lru_cache(maxsize=4096)
def _most_typical(store: Store, image_key: str, axis: int) -> int:
    """As `slices_of` chooses it; looking at the whole of a large volume takes seconds."""
    image = load_array(store, image_key)
    (ref,) = select_slices(image, ("", axis), "representative", place=0, seed=0)
    return ref.index


def _presets(scan: CatalogScan) -> list[dict[str, object]]:
    """Windows by name, the one that the scan opens with first."""
    own = (scan.display.low, scan.display.high)
    if scan.display.unit == "HU":
        windows = {"plan": own, **CT_WINDOWS}
    else:
        windows = {"contrast": own, "full": (0, LARGEST)}
    return [{"name": name, "low": low, "high": high} for name, (low, high) in windows.items()]


@lru_cache(maxsize=4096)
def _range_of(store: Store, display_key: str, in_hu: bool) -> tuple[int, int]:
    """The darkest and the brightest number that a window makes sense for."""
    if not in_hu:
        return 0, LARGEST
    # Reading all of a large CT would take longer than opening it may.
    stack = load_array(store, display_key)
    some = np.linspace(0, len(stack) - 1, min(LOOKED_AT, len(stack))).round().astype(int)
    return (
        min(int(stack[index].min()) for index in some),
        max(int(stack[index].max()) for index in some),
    )
