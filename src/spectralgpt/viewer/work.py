"""What keeps the server small: one heavy job at a time, and bounded memories."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["BusyError", "OneAtATime", "Recent"]

Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BusyError(Exception):
    """Too many jobs wait already."""


class OneAtATime:
    """Runs heavy jobs one after the other, and refuses more than a few.

    Args:
        most: jobs that run or wait.
    """

    def __init__(self, most: int = 4) -> None:
        self._places, self._lock = threading.Semaphore(most), threading.Lock()

    def run(self, job: Callable[[], Result]) -> Result:
        """Wait for those before, then run.

        Raises:
            BusyError: too many wait already.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("the model is busy with earlier requests: try again soon.")
        try:
            with self._lock:
                return job()
        finally:
            self._places.release()


class Recent(Generic[Key, Value]):
    """The last few values by key; the one longest unused goes first.

    Args:
        most: values kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """Return a value, None if it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
