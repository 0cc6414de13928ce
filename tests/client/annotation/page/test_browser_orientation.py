"""What is painted on the screen is stored at the very voxels that were under the pointer."""

import nibabel as nib
import numpy as np
import pytest
from page_browser import on_screen

from client.store.annotations import latest_annotations
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.orientation import from_ras
from client.store.scans import list_scans
from client.store.store import create_store
from common.plan import Plane

SHAPE = (14, 18, 11)
SPACING = np.diag([1.0, 0.8, 1.5, 1.0])
# The voxels, in the file's own order, that are bright and are painted: no flip or turn maps them
# onto themselves.
BRIGHT = [(4, 5, 3), (4, 6, 3), (4, 7, 3), (4, 8, 3), (5, 8, 3), (6, 8, 3), (5, 6, 3)]
LEFT_TO_RIGHT = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}


def turned(degrees: float, axis: int) -> np.ndarray:
    """A rotation about one of the patient's axes."""
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    one, other = [place for place in range(3) if place != axis]
    matrix[one, one] = matrix[other, other] = np.cos(angle)
    matrix[one, other], matrix[other, one] = -np.sin(angle), np.sin(angle)
    return matrix


RAS = SPACING
LPS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ SPACING
# The file's first axis runs from front to back, its second to the head, its third to the left.
SAGITTAL = np.array([[0, 0, -1.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]) @ SPACING
OBLIQUE = turned(17, 0) @ turned(-23, 2) @ np.diag([-1.0, 1.0, -1.0, 1.0]) @ SPACING


def bright_volume() -> np.ndarray:
    """A dark noisy volume with the bright voxels in it, in the file's order."""
    image = np.random.default_rng(0).normal(0, 1, SHAPE)
    for voxel in BRIGHT:
        image[voxel] = 50
    return image.astype(np.float32)


def axis_in_ras(affine: np.ndarray) -> int:
    """Which patient axis the file's third axis runs along: the bright voxels lie in one slice."""
    return int(np.abs(affine[:3, 2]).argmax())


@pytest.mark.parametrize(
    ("affine", "plane"),
    [(RAS, "axial"), (LPS, "axial"), (SAGITTAL, "sagittal"), (OBLIQUE, "axial")],
    ids=["RAS", "LPS", "sagittal", "oblique"],
)
def test_painted_pixels_are_the_voxels_under_the_pointer(
    tmp_path, make_plan, start_page, open_screen, affine: np.ndarray, plane: Plane
) -> None:
    task = {"name": "first", "classes": ["organ"], "modality": "MR", "plane": plane, "rounds": 1}
    plan = make_plan(tasks=[task])
    assert axis_in_ras(affine) == plan.tasks[0].axis
    (tmp_path / "data" / "images").mkdir(parents=True)
    path = tmp_path / "data" / "images" / "case.nii.gz"
    nib.save(nib.Nifti1Image(bright_volume(), affine), path)
    store, dataset = create_store(tmp_path / "store", "north"), find_cases(tmp_path / "data")
    ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0])
    scan = list_scans(store)[0]

    page = start_page(store, plan)
    screen = open_screen(page)
    # Where the bright voxels lie in the scan as nibabel, not the store, turns it.
    canonical = nib.as_closest_canonical(nib.load(path)).get_fdata()
    stack = np.moveaxis(canonical, plan.tasks[0].axis, 0)
    index = int(stack.max((1, 2)).argmax())
    screen.open_slice(scan.scan_id, index)
    screen.brush_size(1)
    shown = on_screen(stack[index] > 25)
    pixels = [(int(x), int(y)) for y, x in np.argwhere(shown)]
    assert screen.colours(pixels).min() > 200
    for pixel in pixels:
        screen.page.mouse.click(*screen.centre(pixel))
    letters = [screen.page.locator(f".letter.{side}").inner_text() for side in ("left", "right")]
    assert "".join(letters) == LEFT_TO_RIGHT[plane]
    screen.wait_saved()
    screen.submit()

    (annotation,) = latest_annotations(store, scan.scan_id)
    assert np.array_equal(annotation.mask, stack[index] > 25)
    painted = np.zeros(scan.geometry.shape, np.uint8)
    painted[annotation.ref.selection] = annotation.mask
    in_file = from_ras(painted, scan.original)
    assert sorted(map(tuple, np.argwhere(in_file).tolist())) == sorted(BRIGHT)
