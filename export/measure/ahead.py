"""Items made one ahead of who looks at them: on two cores, a graph runs while the logits before it are compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_END = object()


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """``items``, each made on a thread of its own while the one before it is looked at; two of them exist at a time.

    What making one raises is raised where it would have been yielded. An item under way is finished when nobody wants
    more.
    """
    with ThreadPoolExecutor(1, "ahead") as pool:
        following = pool.submit(next, items, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]


def halves(pairs: Iterator[tuple[S, T]]) -> tuple[Iterator[S], Iterator[T]]:
    """The first and the second of each pair, for a reader who takes one of either in turn; nothing is kept longer.

    ``itertools.tee`` would keep 57 pairs.
    """
    first, second = deque[S](), deque[T]()

    def firsts() -> Iterator[S]:
        for pair in pairs:
            first.append(pair[0])
            second.append(pair[1])
            del pair
            yield first.popleft()

    def seconds() -> Iterator[T]:
        while second:
            yield second.popleft()

    return firsts(), seconds()
