"""Batches drawn by a thread while others are in use."""

import threading
from collections.abc import Iterator

import pytest
import torch

from client.learning.draw_ahead import draw_ahead, leaves_cores_idle


def test_the_same_items_come_in_the_same_order() -> None:
    assert list(draw_ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(draw_ahead(iter(()))) == []
    assert list(draw_ahead(iter([None, None]))) == [None, None]


def test_the_next_item_is_made_while_this_one_is_in_use() -> None:
    is_made = [threading.Event() for _ in range(3)]

    def make() -> Iterator[int]:
        for number, event in enumerate(is_made):
            event.set()
            yield number

    items = draw_ahead(make())
    assert next(items) == 0
    assert is_made[1].wait(timeout=10)
    # And no more than that: what waits takes memory.
    assert not is_made[2].wait(timeout=0.05)
    assert list(items) == [1, 2]


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def make() -> Iterator[int]:
        yield 0
        raise OSError("the disk is gone")

    items = draw_ahead(make())
    assert next(items) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_who_stops_early_leaves_no_thread() -> None:
    items = draw_ahead(iter(range(5)))
    assert next(items) == 0
    assert isinstance(items, Iterator)
    items.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("draw-ahead")]


def test_training_on_a_gpu_alone_leaves_cores_idle() -> None:
    assert leaves_cores_idle(torch.device("cuda"))
    assert not leaves_cores_idle(torch.device("cpu"))
