"""Every tool in a real browser: the draft in the store holds exactly the pixels that it should."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from page_browser import SCREEN, Screen, dabs, from_screen, inside, on_screen

from client.store.arrays import load_array
from client.store.drafts import load_draft
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.scans import list_scans
from client.store.store import Store, create_store
from common.plan import FederationPlan
from common.scans import SliceRef

SHAPE = (30, 26, 16)  # on the screen 30 wide, 26 high
AXIS = 2
HIGH, WIDE = SHAPE[1], SHAPE[0]
ORGAN, LESION = 1, 2


@dataclass(frozen=True)
class Slice:
    """A slice open in the editor."""

    screen: Screen
    store: Store
    ref: SliceRef

    def draft(self) -> np.ndarray:
        """What is saved, as [y, x] of the screen."""
        self.screen.wait_saved()
        found = load_draft(self.store, self.ref, "anna")
        assert found is not None
        return on_screen(found[1])

    def grey(self) -> np.ndarray:
        """The slice that is shown, as [y, x] of the screen."""
        key = list_scans(self.store)[0].display_key
        return on_screen(np.asarray(load_array(self.store, key)[self.ref.index])).astype(float)

    def shown(self) -> np.ndarray:
        """Whether the label's colour is seen at the middle of each pixel, as [y, x]."""
        y, x = np.indices((HIGH, WIDE))
        colours = self.screen.colours(list(zip(x.ravel(), y.ravel(), strict=True)))
        return (abs(colours[:, 0] - colours[:, 2]) > 25).reshape(HIGH, WIDE)


PLAN = FederationPlan.model_validate(
    {
        "name": "painting",
        "labels": [
            {"name": "organ", "index": ORGAN, "colour": "#e8a33d"},
            {"name": "lesion", "index": LESION, "colour": "#4aa3df"},
        ],
        "tasks": [
            {
                "name": "first",
                "classes": ["organ", "lesion"],
                "modality": "MR",
                "plane": "axial",
                "rounds": 1,
            }
        ],
        "segmenter": {"channels": [4, 8], "strides": [2]},
        "student": {"channels": [4, 8], "strides": [2]},
        "training": {"patch_size": [8, 8, 8]},
        "limits": {"hospitals": 1},
    }
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, start_page_once, browser) -> Iterator[tuple[Store, Screen]]:
    """A noisy volume with a bright block, and a browser at its hospital's page."""
    folder: Path = tmp_path_factory.mktemp("painting")
    image = np.random.default_rng(4).normal(0, 4, SHAPE)
    image[8:22, 6:18] += 100
    (folder / "data" / "images").mkdir(parents=True)
    nib.save(
        nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / "data/images/one.nii.gz"
    )
    store, dataset = create_store(folder / "store", "north"), find_cases(folder / "data")
    ingest_cases(store, dataset, dataset.cases, task=PLAN.tasks[0])
    page = start_page_once(store, PLAN)
    with browser.new_context(viewport=SCREEN) as context:
        screen = Screen(context.new_page(), page.base_url)
        screen.enter(page.link())
        yield store, screen


FRESH_SLICES = iter(range(1, SHAPE[2] - 1))


@pytest.fixture
def opened(shared: tuple[Store, Screen]) -> Iterator[Slice]:
    """A slice that no test has painted yet, 30 x 26 pixels; two classes to paint."""
    store, screen = shared
    scan_id, index = list_scans(store)[0].scan_id, next(FRESH_SLICES)
    screen.open_slice(scan_id, index)
    screen.press("b", "1")
    yield Slice(screen, store, SliceRef(scan_id, AXIS, index))
    assert screen.problems == []
    assert all(url.startswith(f"{screen.base_url}/") for url in screen.requests)


def test_brush_eraser_and_sizes(opened: Slice) -> None:
    screen = opened.screen
    screen.brush_size(5)
    screen.stroke((5, 8), (20, 8))
    wanted = dabs((HIGH, WIDE), [(x, 8) for x in range(5, 21)], 5) * ORGAN
    assert np.array_equal(opened.draft(), wanted)

    screen.press("2")
    screen.brush_size(7)
    screen.stroke((12, 5), (12, 20))
    wanted[dabs((HIGH, WIDE), [(12, y) for y in range(5, 21)], 7)] = LESION
    assert np.array_equal(opened.draft(), wanted)

    screen.brush_size(5)
    screen.press("[", "e")
    screen.stroke((3, 3), (15, 15))
    wanted[dabs((HIGH, WIDE), [(n, n) for n in range(3, 16)], 3)] = 0
    assert np.array_equal(opened.draft(), wanted)
    assert np.array_equal(opened.shown(), wanted > 0)

    # Shift turns any tool into an eraser; a stroke may leave the slice and come back.
    screen.press("b")
    screen.page.keyboard.down("Shift")
    screen.stroke((-3, 9), (33, 9))
    screen.page.keyboard.up("Shift")
    wanted[dabs((HIGH, WIDE), [(x, 9) for x in range(-3, 34)], 3)] = 0
    assert np.array_equal(opened.draft(), wanted)


def test_other_labels_are_kept_where_that_is_wanted(opened: Slice) -> None:
    screen = opened.screen
    screen.brush_size(5)
    screen.stroke((10, 10), (20, 10))
    wanted = dabs((HIGH, WIDE), [(x, 10) for x in range(10, 21)], 5) * ORGAN
    screen.press("k", "2")
    screen.stroke((15, 4), (15, 20))
    crossing = dabs((HIGH, WIDE), [(15, y) for y in range(4, 21)], 5)
    wanted[crossing & (wanted == 0)] = LESION
    assert np.array_equal(opened.draft(), wanted)
    # The eraser then takes the picked class alone.
    screen.press("e")
    screen.stroke((15, 4), (15, 20))
    wanted[wanted == LESION] = 0
    assert np.array_equal(opened.draft(), wanted)
    screen.press("k")


def test_polygon(opened: Slice) -> None:
    screen = opened.screen
    corners = [(4.3, 3.2), (22.7, 6.4), (17.2, 20.6), (9.4, 12.3)]
    screen.press("p")
    for corner in corners:
        screen.page.mouse.click(*screen.position(corner))
    # A corner can still be moved, taken back and set again.
    screen.drag(corners[1], (25.3, 4.6))
    screen.press("Backspace")
    corners[1], corners[3] = (25.3, 4.6), (8.4, 17.7)
    screen.page.mouse.click(*screen.position(corners[3]))
    screen.press("Enter")
    assert np.array_equal(opened.draft(), inside((HIGH, WIDE), corners) * ORGAN)

    hole = [(10.3, 8.2), (16.6, 8.2), (16.6, 13.7), (10.3, 13.7)]
    screen.page.keyboard.down("Shift")
    for corner in hole:
        screen.page.mouse.click(*screen.position(corner))
    screen.page.mouse.click(*screen.position(hole[0]))  # the first corner closes it
    screen.page.keyboard.up("Shift")
    wanted = inside((HIGH, WIDE), corners) & ~inside((HIGH, WIDE), hole)
    assert np.array_equal(opened.draft(), wanted * ORGAN)


def test_lasso_then_fill(opened: Slice) -> None:
    screen = opened.screen
    corners = [(5.2, 5.3), (21.7, 7.4), (18.8, 19.6), (8.3, 17.2)]
    screen.press("l")
    screen.drag(*corners)
    wanted = inside((HIGH, WIDE), corners) * ORGAN
    assert np.array_equal(opened.draft(), wanted)

    # An outline of another class, filled inside: what it encloses changes, whatever it was.
    screen.press("b", "2")
    screen.brush_size(1)
    screen.stroke((1, 21), (26, 21), (26, 24), (1, 24), (1, 21))
    ring = [
        *((x, y) for x in range(1, 27) for y in (21, 24)),
        *((x, y) for x in (1, 26) for y in range(21, 25)),
    ]
    wanted[dabs((HIGH, WIDE), ring, 1)] = LESION
    screen.press("g", "1")
    screen.page.mouse.click(*screen.centre((12, 22)))
    wanted[22:24, 2:26] = ORGAN
    assert np.array_equal(opened.draft(), wanted)

    # What no outline closes off is not filled.
    screen.page.mouse.click(*screen.centre((28, 2)))
    assert "not closed" in screen.page.locator("#messages").inner_text()
    assert np.array_equal(opened.draft(), wanted)


def test_threshold_brush_paints_what_is_as_bright_as_its_beginning(opened: Slice) -> None:
    screen, grey = opened.screen, opened.grey()
    screen.brush_size(7)
    screen.press("t")
    screen.stroke((12, 12), (3, 12), (27, 12))
    display = list_scans(opened.store)[0].display
    band = round(0.15 * (display.high - display.low))
    similar = abs(grey - grey[11:14, 11:14].mean()) <= band
    swept = dabs((HIGH, WIDE), [(x, 12) for x in range(3, 28)], 7)
    assert 0 < (swept & similar).sum() < swept.sum()
    assert np.array_equal(opened.draft(), (swept & similar) * ORGAN)

    # A wider band takes more.
    screen.press("Control+z", *["}"] * 60)
    screen.stroke((12, 12), (3, 12), (27, 12))
    band = round(0.75 * (display.high - display.low))
    similar = abs(grey - grey[11:14, 11:14].mean()) <= band
    assert np.array_equal(opened.draft(), (swept & similar) * ORGAN)
    screen.press(*["{"] * 60)


def line(row: int) -> list[tuple[int, int]]:
    """The pixels of the strokes that are undone and redone."""
    return [(x, row) for x in range(4, 25)]


def test_undo_and_redo(opened: Slice) -> None:
    screen = opened.screen
    screen.brush_size(3)
    states = [np.zeros((HIGH, WIDE), np.uint8)]
    for row in (4, 9, 14):
        screen.stroke((4, row), (24, row))
        states.append(opened.draft())
    for state in states[-2::-1]:
        screen.press("Control+z")
        assert np.array_equal(opened.draft(), state)
    screen.press("Control+z")  # nothing left to take back
    for state in states[1:3]:
        screen.press("Control+y")
        assert np.array_equal(opened.draft(), state)
    # A new stroke ends what could be done again.
    screen.stroke((4, 20), (24, 20))
    after = opened.draft()
    screen.press("Control+Shift+z")
    assert np.array_equal(opened.draft(), after)
    # In the midst of a stroke there is nothing whole to take back.
    screen.stroke((4, 23), (24, 23), lift=False)
    screen.press("Control+z")
    screen.page.mouse.up()
    with_last = opened.draft()
    assert np.array_equal(with_last > 0, (after > 0) | dabs((HIGH, WIDE), line(23), 3))
    screen.press("Control+z")
    assert np.array_equal(opened.draft(), after)


def test_zoomed_and_moved_it_is_still_the_pixel_under_the_pointer(opened: Slice) -> None:
    screen = opened.screen
    screen.brush_size(1)
    screen.page.mouse.move(*screen.centre((20, 20)))
    screen.page.keyboard.down("Control")
    screen.page.mouse.wheel(0, -300)
    screen.page.keyboard.up("Control")
    screen.drag((20.5, 20.5), (18.2, 17.1), button="middle")
    screen.page.keyboard.down(" ")
    screen.drag((20.5, 20.5), (20.1, 21.9))
    screen.page.keyboard.up(" ")
    screen.press("+", "-", "-")
    screen.stroke((17, 19), (22, 19), (22, 22))
    path = [*((x, 19) for x in range(17, 23)), *((22, y) for y in range(19, 23))]
    assert np.array_equal(opened.draft(), dabs((HIGH, WIDE), path, 1) * ORGAN)


def test_a_window_drag_changes_the_picture_and_no_label(opened: Slice) -> None:
    screen = opened.screen
    words = screen.page.locator(".window-words")
    before = words.inner_text()
    screen.drag((5, 5), (15, 12), button="right")
    dragged = words.inner_text()
    assert dragged != before
    screen.press("w")
    screen.drag((15, 12), (5, 5))
    assert words.inner_text() != dragged
    screen.press("r", "b")
    assert words.inner_text() == before
    assert load_draft(opened.store, opened.ref, "anna") is None


def test_neighbours_are_context_and_cannot_be_painted(opened: Slice) -> None:
    screen = opened.screen
    screen.page.mouse.move(*screen.centre((10, 10)))
    screen.page.mouse.wheel(0, 100)
    here, next_one = opened.ref.index, opened.ref.index + 1
    screen.page.wait_for_selector(f".editor .surface[data-shown='{next_one}']")
    assert f"context: slice {next_one}, +1" in screen.page.locator(".banner").inner_text()
    screen.stroke((5, 5), (15, 5))
    screen.press("Home")
    screen.page.wait_for_selector(f".editor .surface[data-shown='{here}']")
    assert load_draft(opened.store, opened.ref, "anna") is None
    screen.stroke((5, 5))
    assert opened.draft().any()


def test_one_finger_paints_two_pinch_and_a_pen_makes_fingers_move(opened: Slice) -> None:
    screen = opened.screen
    screen.brush_size(1)
    touch = screen.page.context.new_cdp_session(screen.page)

    def fingers(kind: str, *pixels: tuple[float, float]) -> None:
        places = screen.positions(pixels)
        points = [{"x": x, "y": y, "id": place} for place, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", (6.5, 6.5))
    fingers("touchMove", (12.5, 6.5))
    fingers("touchEnd")
    painted = dabs((HIGH, WIDE), [(x, 6) for x in range(6, 13)], 1) * ORGAN
    assert np.array_equal(opened.draft(), painted)

    zoom = screen.page.locator(".status .zoom").inner_text()
    fingers("touchStart", (10.5, 10.5))
    fingers("touchStart", (10.5, 10.5), (16.5, 16.5))
    fingers("touchMove", (9.5, 9.5), (20.5, 20.5))
    fingers("touchEnd")
    assert screen.page.locator(".status .zoom").inner_text() != zoom
    assert np.array_equal(opened.draft(), painted)

    pen = {"button": "left", "clickCount": 1, "pointerType": "pen"}
    x, y = screen.centre((13, 14))
    for kind in ("mousePressed", "mouseReleased"):
        touch.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pen})
    painted[14, 13] = ORGAN
    assert np.array_equal(opened.draft(), painted)
    fingers("touchStart", (11.5, 12.5))
    fingers("touchMove", (14.5, 12.5))
    fingers("touchEnd")
    assert np.array_equal(opened.draft(), painted)


def test_the_order_on_screen_turned_twice_is_the_array() -> None:
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(from_screen(on_screen(mask)), mask)
    assert on_screen(mask)[0, 0] == mask[-1, -1]
