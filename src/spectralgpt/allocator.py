"""How this process takes memory from the system: blocks are kept, in large pages."""

import ctypes
import logging
import mmap
import os
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

_log = logging.getLogger(__name__)

# Source: mallopt(3), malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1
_TOP_PAD_BYTES = 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Keep freed blocks in this process, where glibc allocates; once a process.

    By default glibc maps each block over 32 MB anew and gives it back when it is freed,
    so that every large tensor pays for fresh pages: up to a tenth of a training step,
    and far more where pages are dear. Memory stays with the process until it ends.
    Linux is asked to back it with pages of 2 MiB, whose addresses the processor finds
    faster: another twentieth of a step.

    Returns:
        Whether blocks are kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = (
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, _NEVER),
        (_TOP_PAD, _TOP_PAD_BYTES),
    )
    done = all(libc.mallopt(name, value) == 1 for name, value in settings)
    if done:
        _log.debug("freed memory is kept for the next tensors (mallopt).")
        _ask_for_large_pages(libc)
    return done


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Mark the addresses that the next blocks will lie at; none of it is used yet."""
    libc.malloc.restype = ctypes.c_void_p
    page = mmap.PAGESIZE
    size = os.sysconf("SC_PHYS_PAGES") * page // 2
    start = libc.malloc(ctypes.c_size_t(size))
    if not start:  # The system promises no more than it has.
        return
    first = -(-start // page) * page
    length = (start + size - first) // page * page
    libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    libc.free(ctypes.c_void_p(start))
