"""The clinician's page, really served, by a thread of the test's own process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import torch

from client.annotate import HospitalLabeller
from client.annotation.page.access import Access
from client.annotation.page.desk import Desk
from client.annotation.page.previews import Labeller, Previews
from client.annotation.page.serve import listen, make_server
from client.store.store import Store
from common.plan import FederationPlan

MOST_BYTES = 100_000_000
PATIENCE_S = 120.0


@dataclass(frozen=True)
class RunningPage:
    """A server that runs until the test is over."""

    desk: Desk

    @property
    def store(self) -> Store:
        """What it serves."""
        return self.desk.store

    @property
    def plan(self) -> FederationPlan:
        """Which tasks it serves."""
        return self.desk.plan

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://{self.desk.access.hosts[0]}"

    def link(self, annotator: str = "anna") -> str:
        """A fresh link for an annotator; it works once."""
        return self.desk.access.fresh_links([annotator])[annotator]

    @contextmanager
    def client(self, annotator: str = "anna") -> Iterator[httpx.Client]:
        """A session of an annotator that asks as the page's own scripts do."""
        headers = {"X-OneSlice": "1", "Origin": self.base_url}
        with httpx.Client(base_url=self.base_url, headers=headers, timeout=60) as client:
            assert client.get(self.link(annotator)).status_code == 303
            yield client


def previews_of(
    store: Store, plan: FederationPlan, load: Callable[[], Labeller] | None = None
) -> Previews:
    """What spreads submitted slices: the real label engine, unless a test brings its own."""

    def load_real() -> Labeller:
        return HospitalLabeller(store, plan, torch.device("cpu"))

    return Previews(load or load_real, most_bytes=MOST_BYTES)


@contextmanager
def running(store: Store, plan: FederationPlan, task: str | None = None) -> Iterator[RunningPage]:
    """The page, until the block ends."""
    with listen(0) as listener:
        access = Access(listener.getsockname()[1])
        desk = Desk(store, plan, access, previews_of(store, plan), task)
        server = make_server(desk)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield RunningPage(desk)
        finally:
            server.should_exit = True
            thread.join()


def wait_for(
    client: httpx.Client, scan_id: str, is_there: Callable[[dict[str, object]], bool]
) -> dict[str, object]:
    """The review of a scan once it is as wanted."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found: dict[str, object] = client.get(f"/api/scans/{scan_id}/review").json()
        if is_there(found):
            return found
        time.sleep(0.02)
    raise AssertionError(f"not there after {PATIENCE_S:g} s: {found}")
