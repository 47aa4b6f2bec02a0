"""How this process takes memory from the system: freed blocks are kept for the next."""

import ctypes
import logging
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

_log = logging.getLogger(__name__)

# Source: mallopt(3), malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_TOP_PAD_BYTES = 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Keep freed blocks in this process, where glibc allocates; once a process.

    By default glibc maps each block over 32 MB anew and gives it back when it is freed,
    so that every large tensor pays for fresh pages: up to a tenth of a training step,
    and far more where pages are dear. Memory stays with the process until it ends.

    Returns:
        Whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = (
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, _NEVER),
        (_TOP_PAD, _TOP_PAD_BYTES),
    )
    done = all(mallopt(name, value) == 1 for name, value in settings)
    if done:
        _log.debug("freed memory is kept for the next tensors (mallopt).")
    return done
