"""Many may add to a store at once; who takes away is alone."""

import threading
import time

import pytest

from client.store.lock import alone, among_others
from client.store.store import Store
from common.errors import StoreError


def test_those_who_add_do_not_wait_for_each_other(store: Store) -> None:
    with among_others(store), among_others(store):
        pass


def test_who_wants_it_alone_gives_up_and_says_why(store: Store) -> None:
    with among_others(store), pytest.raises(StoreError, match=r"in use.*went on for 0.1 s"):  # noqa: SIM117
        with alone(store, patience_s=0.1):
            pytest.fail("two had the store")
    with alone(store, patience_s=0):
        pass


def test_who_adds_waits_for_who_is_alone(store: Store) -> None:
    order = []

    def add() -> None:
        with among_others(store):
            order.append("added")

    with alone(store, patience_s=0):
        other = threading.Thread(target=add)
        other.start()
        time.sleep(0.1)
        order.append("alone")
    other.join()
    assert order == ["alone", "added"]
