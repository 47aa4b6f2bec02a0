"""Memory that is freed stays in the process."""

import platform
import subprocess
import sys

import pytest

from spectralgpt.allocator import keep_freed_memory

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
    call = "from spectralgpt.allocator import keep_freed_memory; keep_freed_memory()"
    faults = [
        int(subprocess.check_output([sys.executable, "-c", COUNT.format(call=text)]))
        for text in ("", call)
    ]
    assert faults[1] < 0.1 * faults[0]


def test_it_says_whether_it_was_done() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
