"""Do the next things of a row in a thread while the last one is being used."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from spectralgpt.threads import one_thread_a_product

__all__ = ["prefetch"]

T = TypeVar("T")


def prefetch(items: Generator[T, None, Any], depth: int = 2) -> Iterator[T]:
    """Yield what a generator yields, which runs ahead in a thread of its own.

    The generator runs in that one thread from its beginning to its `finally`, so that
    it may hold files that are for one thread, and computes in the precision of the
    thread that asks. Its errors are raised here, in their turn. Meanwhile numpy's
    products keep to one thread: several would wait in turn for the model's threads.

    Args:
        items: the generator.
        depth: how many items it may be ahead.
    """
    end: Any = object()
    with (
        one_thread_a_product(),
        ThreadPoolExecutor(1, initializer=_prepare_thread()) as pool,
    ):
        pending = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, items, end))
                yield item
        finally:
            for waiting in pending:
                waiting.cancel()
            pool.submit(items.close).result()


def _prepare_thread() -> Callable[[], None]:
    """Return what gives another thread the autocast of this one, and few threads."""
    states = [
        (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in ("cpu", "cuda")
    ]

    def prepare() -> None:
        for kind, is_enabled, dtype in states:
            torch.set_autocast_enabled(kind, is_enabled)
            torch.set_autocast_dtype(kind, dtype)
        # Where OpenBLAS runs on OpenMP, each thread has a limit of its own.
        one_thread_a_product()

    return prepare
