"""Stages that run in parallel: one makes the next items while another uses the last ones."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], most: int = 8) -> Iterator[Item]:
    """The items in order, made in a separate thread, at most `most` ahead.

    An exception is raised after the items before it.
    """
    iterator, end = iter(items), object()
    executor = ThreadPoolExecutor(1)
    try:
        waiting: deque[Future[Any]] = deque(executor.submit(next, iterator, end) for _ in range(most))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(executor.submit(next, iterator, end))
            yield item
    finally:
        executor.shutdown(cancel_futures=True)
