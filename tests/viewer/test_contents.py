"""One heavy job at a time, and bounded memories."""

import threading
import time

import pytest

from spectralgpt.viewer import contents
from spectralgpt.viewer.contents import RequestError


def test_jobs_run_one_after_the_other_and_more_are_refused() -> None:
    heavy, gate = contents._OneAtATime(most=3), threading.Event()
    running, most, done, refused = [0], [0], [], []

    def job() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        gate.wait(10)
        running[0] -= 1
        done.append(True)

    def ask() -> None:
        try:
            heavy.run(job)
        except RequestError:
            refused.append(True)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(refused) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert (len(done), len(refused), most[0]) == (3, 5, 1)
    # Places are free again.
    assert heavy.run(lambda: 7) == 7


def test_a_failed_job_frees_its_place() -> None:
    heavy = contents._OneAtATime(most=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            heavy.run(lambda: 1 // 0)


def test_recent_forgets_what_was_longest_unused() -> None:
    recent: contents._Recent[str, int] = contents._Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
