"""Ctrl-C and SIGTERM: one line and a status, and nothing half-made is left behind.

The first signal becomes an exception in the main thread, so that what is under way
removes what it has half made, as after an error. Libraries may swallow that exception,
or keep the main thread in code that is not Python: after a while the process ends
without them.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ENDED = 128
_GRACE_S = 8.0
"""For cleaning up; Docker kills after ten."""
_DYING_S = 2.0


class Stopped(KeyboardInterrupt):
    """The user, or the system, asked the command to end."""


class StopSignals:
    """Hears signals that end a command; a context manager, for the main thread.

    Args:
        is_process: the process ends with the command, and is not heard of after it.

    Attributes:
        received: the signal that was heard, if any.
        is_shown: whether this is the process that the user sees, of several.
        unwinds: whether what is under way may have anything to clean up.
        clean: removes what is half-made, also by processes that were killed.
        describe: says what stays, and how to go on with it, for the line.
    """

    def __init__(self, is_process: bool) -> None:
        self._is_process = is_process
        self.received: signal.Signals | None = None
        self.is_shown = True
        self.unwinds = False
        self.clean: Callable[[], object] = str
        self.describe: Callable[[], str] = str
        self._kept: dict[signal.Signals, Any] = {}
        self._ends = threading.Lock()
        self._wakes: int | None = None
        self._stderr = 2

    def __enter__(self) -> "StopSignals":
        """Take over the signals, unless this process is to ignore them."""
        if threading.current_thread() is threading.main_thread():
            self._take_over()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back, or end the process if one was heard."""
        if self.received is not None:
            self.end()
        if self._is_process:
            # All is done, and what is left of the process may end at any moment.
            self.unwinds, self.describe = False, str
            return
        for each, handler in self._kept.items():
            signal.signal(each, handler)
        if self._wakes is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._wakes)

    def _take_over(self) -> None:
        reads, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        # Python's own handlers wait for the main thread; this wakes another one.
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reads,), daemon=True).start()
        _let_go_in_children()
        for each in _SIGNALS:
            handler = signal.getsignal(each)
            # The shell has it ignored by what runs in the background.
            if handler is not signal.SIG_IGN:
                self._kept[each] = handler or signal.SIG_DFL
                signal.signal(each, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # Often sent twice, to the process and to its group.
            return
        self.received = signal.Signals(number)
        self._hush()
        if not self.unwinds or _is_importing(frame):
            self.end()
        raise Stopped

    def _watch(self, reads: int) -> None:
        """End the process some time after a signal, whatever the main thread does."""
        with contextlib.closing(os.fdopen(reads, "rb", buffering=0)) as pipe:
            while number := pipe.read(1):
                if number[0] in self._kept:
                    threading.Event().wait(_GRACE_S)
                    self.received = self.received or signal.Signals(number[0])
                    self.end()

    def _hush(self) -> None:
        """Keep what ends in the middle from telling of it, and what it starts, too."""
        with contextlib.suppress(OSError):
            if self._stderr == 2:
                self._stderr = os.dup(2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def end(self) -> NoReturn:
        """Say what was heard and what stays; end this process and those below it."""
        # Two threads may come here; the second waits for the end.
        self._ends.acquire()
        assert self.received is not None
        self._hush()
        _kill_below()
        if self.unwinds:
            with contextlib.suppress(Exception):
                self.clean()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if self.is_shown:
            stays = ""
            with contextlib.suppress(Exception):
                stays = self.describe()
            # A progress bar may have been cut off, which hides the cursor.
            clean = "\r\x1b[K\x1b[?25h" if os.isatty(self._stderr) else ""
            line = f"{clean}interrupted by {self.received.name}"
            line += f": {stays}" if stays else ""
            with contextlib.suppress(OSError):
                os.write(self._stderr, f"{line}\n".encode(errors="replace"))
        os._exit(_ENDED + self.received)


def _is_importing(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported: code of C++ aborts at an exception."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


@functools.cache
def _let_go_in_children() -> None:
    """Let processes that are forked from this one end as if it had heard of nothing."""

    def let_go() -> None:
        for each, handler in zip(
            _SIGNALS, (signal.SIG_IGN, signal.SIG_DFL), strict=True
        ):
            if signal.getsignal(each) is not signal.SIG_IGN:
                # A terminal sends Ctrl-C to all: the first process ends the others.
                signal.signal(each, handler)
        signal.set_wakeup_fd(-1)

    os.register_at_fork(after_in_child=let_go)


def _kill_below() -> None:
    """Kill the processes that this one has started, and those that they have.

    Other threads of this one may start more in place of those that die.
    """
    deadline = time.monotonic() + _DYING_S
    while (found := _processes_below()) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(OSError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        time.sleep(_DYING_S / 100)


def _processes_below() -> list[int]:
    children = _children_by_parent()
    found = [os.getpid()]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def _children_by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                # The name, in brackets, may hold anything.
                parent = int(file.read().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry))
        return found
    # Not Linux.
    from multiprocessing import active_children

    own = [each.pid for each in active_children() if each.pid]
    return {os.getpid(): own}
