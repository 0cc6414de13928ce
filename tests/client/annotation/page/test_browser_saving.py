"""Nothing that was painted is lost: closed pages, servers that do not answer, two windows."""

import numpy as np
import pytest
from page_browser import Screen, dabs, inside, on_screen

from client.annotation.worklist import Wanted, read_worklist
from client.store.drafts import load_draft
from common.scans import SliceRef

SIDE = 24


@pytest.fixture
def ref(page) -> SliceRef:
    """The slice that is asked for first."""
    row = read_worklist(page.store, page.plan, Wanted()).rows[0]
    assert row.index is not None
    return SliceRef(row.scan_id, row.axis, row.index)


def draft(page, ref: SliceRef) -> np.ndarray | None:
    """Anna's newest draft as [y, x] of the screen."""
    found = load_draft(page.store, ref, "anna")
    return None if found is None else on_screen(found[1])


def line(row: int, first: int = 5, last: int = 18) -> np.ndarray:
    """What a stroke of one pixel's width along a row leaves."""
    return dabs((SIDE, SIDE), [(x, row) for x in range(first, last + 1)], 1)


def expect(screen: Screen, problem: str) -> None:
    """Takes what was meant to go wrong off the list of what went wrong."""
    assert any(problem in one for one in screen.problems)
    screen.problems[:] = [one for one in screen.problems if problem not in one]


def test_a_page_closed_in_the_midst_of_a_stroke_loses_nothing(page, ref, open_screen) -> None:
    screen = open_screen(page)
    screen.open_slice(ref.scan_id, ref.index)
    screen.brush_size(1)
    screen.stroke((5, 5), (18, 5))
    screen.stroke((5, 9), (18, 9), lift=False)
    screen.page.close(run_before_unload=False)
    again = open_screen(page)
    again.open_slice(ref.scan_id, ref.index)
    assert "goes on" in again.page.locator("#messages").inner_text()
    both = line(5) | line(9)
    kept = draft(page, ref)
    assert kept is not None
    assert np.array_equal(kept > 0, both), "the page that closed did not get its last stroke off"
    # The work goes on from there.
    again.brush_size(1)
    again.stroke((5, 13), (18, 13))
    again.wait_saved()
    kept = draft(page, ref)
    assert kept is not None
    assert np.array_equal(kept > 0, both | line(13))


def test_an_unfinished_polygon_is_there_again(page, ref, open_screen) -> None:
    screen = open_screen(page)
    screen.open_slice(ref.scan_id, ref.index)
    corners = [(4.3, 3.2), (19.7, 6.4), (14.2, 20.6)]
    screen.press("p")
    for corner in corners:
        screen.page.mouse.click(*screen.position(corner))
    screen.page.reload()
    screen.page.wait_for_selector(f".editor .surface[data-shown='{ref.index}']")
    screen.press("p", "Enter")
    screen.wait_saved()
    kept = draft(page, ref)
    assert kept is not None
    assert np.array_equal(kept > 0, inside((SIDE, SIDE), corners))


def test_strokes_wait_in_the_page_while_the_server_does_not_answer(page, ref, open_screen) -> None:
    screen = open_screen(page)
    screen.open_slice(ref.scan_id, ref.index)
    screen.brush_size(1)
    screen.page.context.set_offline(True)
    screen.stroke((5, 5), (18, 5))
    screen.page.wait_for_selector(".saved[data-state=offline]")
    assert "kept in this page" in screen.page.locator(".saved").inner_text()
    screen.stroke((5, 9), (18, 9))
    screen.press("Control+Enter")
    screen.page.wait_for_selector("#messages .problem")
    assert draft(page, ref) is None
    screen.page.context.set_offline(False)
    screen.wait_saved()
    kept = draft(page, ref)
    assert kept is not None
    assert np.array_equal(kept > 0, line(5) | line(9))
    expect(screen, "ERR_INTERNET_DISCONNECTED")


def test_an_answer_that_got_lost_is_no_conflict(page, ref, open_screen) -> None:
    screen = open_screen(page)
    screen.open_slice(ref.scan_id, ref.index)
    screen.brush_size(1)
    lost = []

    def lose(route) -> None:
        if route.request.method == "PUT" and not lost:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    screen.page.route("**/drafts/**", lose)
    screen.stroke((5, 5), (18, 5))
    screen.page.wait_for_selector(".saved[data-state=offline]")
    screen.stroke((5, 9), (18, 9))
    screen.wait_saved()
    assert lost == [200]
    assert screen.page.locator("dialog[open]").count() == 0
    kept = draft(page, ref)
    assert kept is not None
    assert np.array_equal(kept > 0, line(5) | line(9))
    expect(screen, "ERR_FAILED")
    expect(screen, "409")


@pytest.mark.parametrize("choice", ["Load the newer one", "Keep what is shown here"])
def test_a_newer_draft_from_another_window(page, ref, open_screen, choice: str) -> None:
    one, other = open_screen(page), open_screen(page)
    for screen in (one, other):
        screen.open_slice(ref.scan_id, ref.index)
        screen.brush_size(1)
    one.stroke((5, 5), (18, 5))
    one.wait_saved()
    other.stroke((5, 9), (18, 9))
    other.page.wait_for_selector("dialog")
    kept = draft(page, ref)
    assert kept is not None
    assert np.array_equal(kept > 0, line(5))
    other.page.get_by_role("button", name=choice).click()
    other.stroke((5, 13), (18, 13))
    other.wait_saved()
    kept = draft(page, ref)
    assert kept is not None
    first = line(5) if choice.startswith("Load") else line(9)
    assert np.array_equal(kept > 0, first | line(13))
    expect(other, "409")


def test_a_session_that_ended_is_renewed_beside_the_open_slice(page, ref, open_screen) -> None:
    screen = open_screen(page)
    screen.open_slice(ref.scan_id, ref.index)
    screen.brush_size(1)
    screen.page.context.clear_cookies()
    screen.stroke((5, 5), (18, 5))
    screen.page.wait_for_selector(".saved[data-state=offline]")
    assert draft(page, ref) is None
    beside = screen.page.context.new_page()
    beside.goto(page.link("anna"))
    screen.wait_saved()
    kept = draft(page, ref)
    assert kept is not None
    assert np.array_equal(kept > 0, line(5))
    expect(screen, "401")


def test_time_at_the_brush_stops_when_nothing_is_done(page, ref, open_screen) -> None:
    screen = open_screen(page)
    screen.page.clock.install()
    screen.page.reload()
    screen.open_slice(ref.scan_id, ref.index)
    screen.stroke((5, 5), (9, 5))
    screen.page.clock.run_for(10_000)
    screen.stroke((5, 9), (9, 9))
    # Ten seconds counted; of the ten minutes after the last input, twenty.
    screen.page.clock.fast_forward(600_000)
    assert "paused" in screen.page.locator(".time").evaluate(
        "(time) => getComputedStyle(time, '::after').content"
    )
    screen.stroke((5, 13), (9, 13))
    screen.page.clock.run_for(1000)
    screen.wait_saved()
    found = load_draft(page.store, ref, "anna")
    assert found is not None
    assert 29 < found[0].seconds_spent < 36
