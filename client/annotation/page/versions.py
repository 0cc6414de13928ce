"""What became of a slice over time and over people."""

from fastapi import APIRouter
from starlette.responses import Response

from client.annotation.agreement import agreements
from client.annotation.page.desk import KnownScan, Refusal, TheDesk, check_index, task_of
from client.store.annotations import all_versions, load_version, slice_versions
from common.scans import SliceRef

router = APIRouter(prefix="/scans/{scan_id}/versions")


@router.get("/{index}")
def versions(index: int, scan: KnownScan, desk: TheDesk) -> dict[str, object]:
    """Every version of a slice, and how far its annotators agree."""
    task = task_of(desk, scan)
    check_index(scan, task.axis, index)
    ref = SliceRef(scan.scan_id, task.axis, index)
    found = [
        {
            "version": one.version,
            "annotator": one.annotator,
            "seconds": one.seconds_spent,
            "time": one.time,
            "present": one.present,
        }
        for one in slice_versions(desk.store, ref)
    ]
    painted = all_versions(desk.store, ref)
    agreed = [vars(one) for one in agreements(painted, desk.plan.class_indexes(task))]
    return {"versions": found, "agreement": agreed}


@router.get("/{index}/{version}")
def mask(index: int, version: int, scan: KnownScan, desk: TheDesk) -> Response:
    """The mask of one version: uint8, row by row."""
    axis = task_of(desk, scan).axis
    check_index(scan, axis, index)
    found = load_version(desk.store, SliceRef(scan.scan_id, axis, index), version)
    if found is None:
        raise Refusal(404, f"slice {index} has no version {version}; see the list of its versions")
    return Response(found.mask.tobytes(), media_type="application/octet-stream")
