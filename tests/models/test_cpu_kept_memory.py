"""Memory that is freed stays in the process, in large pages."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from spectralgpt.models.cpu import keep_freed_memory

# Pages that the system maps anew while large tensors come and go.
COUNT = """
import resource, torch
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(10):
        torch.ones(16 * 2**20)
work()  # Alignment makes the first blocks too small for the next ones.
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_tensors_take_no_fresh_pages() -> None:
    call = "from spectralgpt.models import cpu; cpu.keep_freed_memory()"
    faults = [
        int(subprocess.check_output([sys.executable, "-c", COUNT.format(call=text)]))
        for text in ("", call)
    ]
    assert faults[1] < 0.1 * faults[0]


# KiB of the process that lie in large pages, and that it holds at all.
PAGES = """
import re, torch
from pathlib import Path
from spectralgpt.models.cpu import keep_freed_memory
keep_freed_memory()
tensors = [torch.ones(4 * 2**20) for _ in range(8)]
rollup = Path("/proc/self/smaps_rollup").read_text()
for name in ("AnonHugePages", "Rss"):
    print(re.search(rf"{name}:\\s+(\\d+) kB", rollup)[1])
"""
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(),
    reason="this system has no large pages",
)
def test_tensors_lie_in_large_pages_and_no_memory_is_taken_ahead() -> None:
    found = subprocess.check_output([sys.executable, "-c", PAGES])
    large, held = (int(line) for line in found.split())
    assert large > 100 * 2**10
    assert held < 2**20


def test_it_says_whether_it_was_done() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
