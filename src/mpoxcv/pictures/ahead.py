"""Work that threads do ahead, a bounded number of items at a time (``Executor.map``: all)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Sequence[Item], ahead: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``; at most ``ahead`` results wait."""
    waiting = deque(pool.submit(function, item) for item in items[:ahead])
    for position in range(len(items)):
        result = waiting.popleft().result()
        if position + ahead < len(items):
            waiting.append(pool.submit(function, items[position + ahead]))
        yield result
