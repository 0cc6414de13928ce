"""A real server over a small hospital, for tests that ask it and for a browser."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from page_browser import CHROMIUM, SCREEN, Screen, launched
from playwright.sync_api import Browser
from running_page import RunningPage, running

from client.local_round import Hospital
from common.plan import FederationPlan

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
StartPage = Callable[..., RunningPage]


@pytest.fixture
def start_page() -> Iterator[StartPage]:
    """Starts servers over a store and a plan; all are stopped after the test."""
    with ExitStack() as stack:
        yield lambda store, plan, task=None: stack.enter_context(running(store, plan, task))


@pytest.fixture(scope="module")
def start_page_once() -> Iterator[StartPage]:
    """As `start_page`, for a server that a module's tests share."""
    with ExitStack() as stack:
        yield lambda store, plan, task=None: stack.enter_context(running(store, plan, task))


@pytest.fixture
def page(make_hospital: MakeHospital, make_plan: MakePlan, start_page: StartPage) -> RunningPage:
    """A server over six phantoms of 24 x 24 x 16 voxels, three for each of two tasks."""
    return start_page(make_hospital().store, make_plan())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine; without one, the tests that need it are skipped."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here (chromium, chromium-browser): install one")
    with launched() as started:
        yield started


OpenScreen = Callable[..., Screen]


@pytest.fixture
def open_screen(browser: Browser) -> Iterator[OpenScreen]:
    """Opens a page in a browser of its own for an annotator, entered and at the worklist.

    After the test nothing may have gone wrong in it, and nothing been asked for elsewhere.
    """
    screens = []
    with ExitStack() as stack:

        def open_one(page: RunningPage, annotator: str = "anna", **context: object) -> Screen:
            opened = stack.enter_context(browser.new_context(**{"viewport": SCREEN, **context}))
            screen = Screen(opened.new_page(), page.base_url)
            screens.append(screen)
            screen.enter(page.link(annotator))
            return screen

        yield open_one
    for screen in screens:
        assert screen.problems == []
        assert all(url.startswith(f"{screen.base_url}/") for url in screen.requests)
