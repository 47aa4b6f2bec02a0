"""Worker processes: the threads of numpy's products in them, and when they end."""

import os
import signal
import sys
import threading
from contextlib import AbstractContextManager
from multiprocessing import connection, parent_process

from threadpoolctl import ThreadpoolController


def one_thread_a_product() -> AbstractContextManager[object]:
    """Hold numpy's own OpenBLAS to one thread, from the call to the end of the context.

    Beside a model, or in one of several worker processes, each small product would
    otherwise wait for threads that find no free core. Torch keeps its own threads.
    """
    numpys = ThreadpoolController().select(internal_api="openblas")
    return numpys.limit(limits=1, user_api="blas")


def start_worker(_: int) -> None:
    """Prepare a loader's process, as torch does for its own threads."""
    follow_parent()
    one_thread_a_product()


def follow_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end when that has ended.

    A terminal sends Ctrl-C to all processes, and a killed process cannot end others.
    Errors in requested work go to the process that asked; work cut short by the end of
    that process is not an error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _say_nothing
    parent = parent_process()
    if parent is not None:
        ended = parent.sentinel
        threading.Thread(target=_end_after, args=(ended,), daemon=True).start()


def _say_nothing(*_: object) -> None:
    pass


def _end_after(ended: int) -> None:
    connection.wait([ended])
    os._exit(1)
