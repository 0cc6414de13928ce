"""The whole way in a real browser: worklist, a slice, its volume, a verdict."""

import re

import numpy as np
from page_browser import Screen, dabs, from_screen, inside

from client.annotation.worklist import Wanted, WorklistRow, read_worklist
from client.store.annotations import all_versions, latest_annotations
from client.store.reviews import latest_review
from client.store.scans import list_scans
from common.scans import SliceRef

SIDE = 24  # of the phantoms' slices


def rows(page, state: str | None = None) -> list[WorklistRow]:
    """The hospital's list as the store has it."""
    return read_worklist(page.store, page.plan, Wanted(state=state)).rows  # type: ignore[arg-type]


def paint_block(screen: Screen) -> np.ndarray:
    """Draws a thick line on the slice that is open; the array slice it should leave."""
    screen.brush_size(7)
    screen.stroke((8, 12), (16, 12))
    return from_screen(dabs((SIDE, SIDE), [(x, 12) for x in range(8, 17)], 7)).astype(np.uint8)


def test_the_worklist_is_filtered_by_task_and_state(page, open_screen) -> None:
    tab = open_screen(page).page
    assert tab.locator("tbody tr").count() == 6
    tab.select_option("select", "second")
    tab.wait_for_function("() => document.querySelectorAll('tbody tr').length === 3")
    assert set(tab.locator("tbody td:nth-child(2)").all_inner_texts()) == {"second"}
    tab.get_by_role("button", name="Accepted").click()
    tab.wait_for_selector("tr.none")
    tab.get_by_role("button", name="To paint").click()
    tab.wait_for_selector("tr[data-state=asked]")
    first = rows(page)[0]
    tab.select_option("select", "first")
    why = tab.locator(f"tr[data-scan={first.scan_id}] .why")
    assert why.inner_text() == first.why
    tab.go_back()
    tab.wait_for_function("() => document.querySelector('select').value === 'second'")


def test_from_the_worklist_to_an_accepted_scan(page, open_screen) -> None:
    screen = open_screen(page)
    tab, first = screen.page, rows(page)[0]
    tab.click("text=Paint the next slice")
    tab.wait_for_selector(f".editor .surface[data-shown='{first.index}']")
    assert rows(page)[0].claimed_by == "anna"

    wanted = paint_block(screen)
    screen.wait_saved()
    assert [row.scan_id for row in rows(page, "drafted")] == [first.scan_id]
    screen.submit()
    (annotation,) = latest_annotations(page.store, first.scan_id)
    assert annotation.ref == SliceRef(first.scan_id, first.axis, first.index or 0)
    assert np.array_equal(annotation.mask, wanted)
    assert (annotation.looked_for, annotation.annotator) == ((1,), "anna")
    assert 0 < annotation.seconds_spent < 60

    screen.wait_for_planes()
    assert tab.locator(".plane").count() == 3
    large = tab.locator(".plane.axial")
    assert large.locator(".badge").is_visible()
    assert large.locator(".surface").get_attribute("data-shown") == str(first.index)
    assert re.search(r"organ\s+\d+\.\d+ ml", tab.locator(".volumes").inner_text())

    tab.click("text=Accept")
    tab.locator("dialog[open]").get_by_role("button", name="Worklist").click()
    tab.wait_for_selector("tr[data-state=accepted]")
    review = latest_review(page.store, first.scan_id)
    assert review is not None
    assert (review.verdict, review.annotator) == ("accepted", "anna")
    tab.wait_for_selector("#progress >> text=1 of 6")


def test_the_three_planes_move_together(page, open_screen) -> None:
    screen = open_screen(page)
    screen.open_slice(rows(page)[0].scan_id)
    paint_block(screen)
    screen.submit()
    screen.wait_for_planes()
    tab = screen.page

    def shown() -> list[int]:
        planes = [
            tab.locator(f".plane.{name} .surface") for name in ("sagittal", "coronal", "axial")
        ]
        return [int(plane.get_attribute("data-shown") or -1) for plane in planes]

    def wait_for(position: list[int]) -> None:
        for _ in range(200):
            if shown() == position:
                return
            tab.wait_for_timeout(10)
        raise AssertionError(f"expected {position}, the planes show {shown()}")

    # The large plane is the axial one: x runs from the right to the left, y from front to back.
    tab.mouse.click(*screen.centre((5, 18)))
    index = shown()[2]
    wait_for([SIDE - 1 - 5, SIDE - 1 - 18, index])
    tab.mouse.wheel(0, 100)
    wait_for([18, 5, index + 1])
    coronal = tab.locator(".plane.coronal .surface")
    coronal.hover()
    tab.mouse.wheel(0, -200)
    wait_for([18, 3, index + 1])
    coronal.press("ArrowUp")
    wait_for([18, 3, index + 2])
    tab.mouse.down(button="right")
    tab.mouse.move(900, 300, steps=3)
    tab.mouse.up(button="right")
    wait_for([18, 3, index + 2])


def test_by_keyboard_alone(page, open_screen) -> None:
    screen = open_screen(page)
    tab, first = screen.page, rows(page)[0]
    screen.press("ArrowDown", "Enter")
    tab.wait_for_selector(f".editor .surface[data-shown='{first.index}']")
    screen.press(*["["] * 4, "ArrowRight")  # the cross begins in the middle of the slice
    assert screen.shown_size() == 1
    for _ in range(4):
        screen.press("Enter", "ArrowRight")
    screen.press("p", "Enter", "Shift+ArrowDown", "Enter", "Shift+ArrowLeft", "Enter", "Enter")
    screen.wait_saved()
    screen.submit()
    (annotation,) = latest_annotations(page.store, first.scan_id)
    dabbed = dabs((SIDE, SIDE), [(x, 12) for x in range(12, 16)], 1)
    triangle = inside((SIDE, SIDE), [(16.5, 12.5), (16.5, 22.5), (6.5, 22.5)])
    assert triangle.sum() == 45
    assert np.array_equal(annotation.mask, from_screen(dabbed | triangle))
    screen.wait_for_planes()
    screen.press("a")
    tab.wait_for_selector("dialog")
    screen.press("Escape", "?")
    assert "accept" in tab.locator("dialog[open]").inner_text()
    screen.press("Escape")
    tab.locator("dialog[open]").wait_for(state="detached")
    assert rows(page, "accepted")[0].scan_id == first.scan_id


def test_nothing_here(page, open_screen) -> None:
    screen = open_screen(page)
    tab, first = screen.page, rows(page)[0]
    screen.open_slice(first.scan_id)
    nothing = tab.get_by_role("button", name="Nothing here").first
    assert tab.get_by_role("button", name="Submit").is_disabled()
    screen.press("Control+Enter")
    assert "Nothing is painted" in tab.locator("#messages").inner_text()
    paint_block(screen)
    assert nothing.is_disabled()
    screen.press("Control+z")
    nothing.click()
    tab.locator("dialog[open]").get_by_role("button", name="Nothing here").click()
    tab.wait_for_selector(".review")
    (annotation,) = latest_annotations(page.store, first.scan_id)
    assert not annotation.mask.any()
    assert annotation.looked_for == (1,)


def test_a_submitted_slice_is_corrected_and_a_second_reading_compared(page, open_screen) -> None:
    anna = open_screen(page)
    first = rows(page)[0]
    ref = SliceRef(first.scan_id, first.axis, first.index or 0)
    anna.open_slice(ref.scan_id)
    once = paint_block(anna)
    anna.submit()
    anna.page.click(".painted-slices >> text=Correct")
    anna.page.wait_for_selector(f".editor .surface[data-shown='{ref.index}']")
    anna.stroke((12, 4), (12, 20))
    twice = from_screen(dabs((SIDE, SIDE), [(12, y) for y in range(4, 21)], 7)) | (once > 0)
    anna.submit()
    anna.page.get_by_role("button", name="Worklist").click()

    # The second reader does not see the first one's labels before painting.
    boris = open_screen(page, "boris")
    boris.page.goto(f"{page.base_url}/#/edit/{ref.scan_id}/{ref.index}")
    boris.page.click("dialog >> text=Paint anew")
    boris.page.wait_for_selector(f".editor .surface[data-shown='{ref.index}']")
    paint_block(boris)
    boris.submit()
    boris.page.click("summary")
    told = boris.page.locator(".agreement").inner_text()
    expected = 2 * once.sum() / (once.sum() + twice.sum())
    assert "anna and boris" in told
    assert f"Dice {expected:.2f}" in told
    versions = all_versions(page.store, ref)
    assert [one.annotator for one in versions] == ["anna", "anna", "boris"]
    for version, mask in zip(versions, (once, twice, once), strict=True):
        assert np.array_equal(version.mask, mask)


def test_who_has_a_scan_is_seen_and_it_cannot_be_painted_meanwhile(page, open_screen) -> None:
    anna, boris = open_screen(page), open_screen(page, "boris")
    scan_id = rows(page)[0].scan_id
    anna.open_slice(scan_id)
    boris.page.reload()
    boris.page.wait_for_selector("tr.held")
    assert "anna, 15 min" in boris.page.locator("tr.held").inner_text()
    boris.open_slice(scan_id)
    assert "anna" in boris.page.locator(".banner").inner_text()
    boris.stroke((5, 5), (9, 9))
    assert rows(page, "drafted") == []
    boris.problems[:] = [one for one in boris.problems if "409" not in one]

    anna.page.get_by_role("button", name="Worklist").click()
    anna.page.wait_for_selector(".worklist")
    boris.page.click("text=Try again")
    boris.page.wait_for_selector(".banner", state="hidden")
    boris.stroke((5, 5), (9, 9))
    boris.wait_saved()
    assert rows(page, "drafted")[0].claimed_by == "boris"


def test_a_scan_is_flagged_with_a_reason(page, open_screen) -> None:
    screen = open_screen(page)
    scan_id = rows(page)[0].scan_id
    screen.open_slice(scan_id)
    screen.page.click("text=Flag scan")
    screen.page.fill("textarea", "a metal artefact over the organ")
    screen.page.locator("dialog[open]").get_by_role("button", name="Flag", exact=True).click()
    screen.page.wait_for_selector("tr[data-state=flagged]")
    review = latest_review(page.store, scan_id)
    assert review is not None
    assert (review.verdict, review.reason) == ("flagged", "a metal artefact over the organ")
    assert len(list_scans(page.store)) == 6
