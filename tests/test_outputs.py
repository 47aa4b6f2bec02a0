"""Folders of things in the making, and what killed processes leave."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from spectralgpt.errors import ConfigError
from spectralgpt.files import claiming, drop_temporaries, folder_beside, replace_file

ROOT = Path(__file__).resolve().parent.parent
HEAD = """
import sys, time
from pathlib import Path
from spectralgpt.files import replace_file
from spectralgpt.files import claiming, drop_temporaries, folder_beside
"""
SCRIPT = """
with folder_beside(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(300)
"""
REPLACE = """
def write(path):
    path.write_text("half")
    print(path.parent, flush=True)
    time.sleep(300)
replace_file(Path(sys.argv[1]), write)
"""
CLAIM = """
with claiming(Path(sys.argv[1])):
    print(sys.argv[1], flush=True)
    time.sleep(300)
"""


def start(path: Path, script: str = SCRIPT) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + script, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        text=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_goes_and_what_a_living_one_makes_stays(
    tmp_path: Path,
) -> None:
    dead, left = start(tmp_path / "scene[1].tif")
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    living, used = start(tmp_path / "scene[1].tif")
    try:
        other = tmp_path / ".scene[1].tif.mine"
        other.mkdir()
        assert not left.exists()
        with folder_beside(tmp_path / "scene[1].tif") as folder:
            assert list(folder.iterdir()) == []
            assert (used / "half").read_text() == "half"
        assert not folder.exists()
        assert sorted(tmp_path.iterdir()) == sorted([other, used.parent])
    finally:
        living.send_signal(signal.SIGKILL)
        living.communicate()


def test_a_failure_leaves_no_new_folder_and_no_old_one_is_removed(
    tmp_path: Path,
) -> None:
    (tmp_path / "old").mkdir()
    for path in (tmp_path / "old/a.tif", tmp_path / "new/deep/a.tif"):
        with pytest.raises(ZeroDivisionError), folder_beside(path) as folder:
            (folder / "half").write_text(str(1 / 0))
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


def test_a_file_of_a_killed_process_is_cleaned_up_at_the_next_write(
    tmp_path: Path,
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    dead, left = start(path, REPLACE)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert left.is_dir()
    assert path.read_text() == "old"
    replace_file(path, lambda to: to.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_there", [False, True])
def test_one_process_makes_a_result_until_it_ends_or_is_killed(
    tmp_path: Path, is_there: bool
) -> None:
    result = tmp_path / "new" / "result"
    if is_there:
        result.mkdir(parents=True)
    other, _ = start(result, CLAIM)
    try:
        # The same folder by another name.
        by_link = tmp_path / "link"
        by_link.symlink_to(tmp_path / "new")
        message = "is being made by another process"
        with pytest.raises(ConfigError, match=message), claiming(by_link / "result"):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    with claiming(result):
        pass
    kept = {by_link, result.parent, *([result] if is_there else [])}
    assert kept == set(tmp_path.rglob("*"))


def test_a_lock_that_a_signal_found_half_made_goes_and_one_that_is_held_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, _ = start(tmp_path / "held", CLAIM)
    try:
        monkeypatch.setattr(FileLock, "acquire", interrupt)
        with pytest.raises(KeyboardInterrupt), claiming(tmp_path / "out"):
            pass
        monkeypatch.undo()
        # It is never given back, for the process is to end.
        monkeypatch.setattr("spectralgpt.files._BEGINNING", threading.RLock())
        for name in ("out", "held"):
            drop_temporaries(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [".held.lock"]
    finally:
        held.kill()
        held.communicate()


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_claim_removes_what_killed_processes_left_in_the_folder(
    tmp_path: Path,
) -> None:
    living, used = start(tmp_path / "out" / "scenes" / "a.png")
    dead, left = start(tmp_path / "out" / "scenes" / "b.png")
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    (tmp_path / "out" / ".mine.partial").write_text("mine")
    try:
        with claiming(tmp_path / "out"):
            assert not left.exists()
            assert used.exists()
            assert (tmp_path / "out" / ".mine.partial").exists()
    finally:
        living.send_signal(signal.SIGKILL)
        living.communicate()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_folder_that_takes_no_files_ends_in_a_line_and_not_never() -> None:
    # Who makes a file there is told that it does not exist, though the folder does.
    with (
        pytest.raises(ConfigError, match=r"nothing can be written in /proc: No such"),
        claiming(Path("/proc/out")),
    ):
        pass


def test_a_lock_that_is_another_file_each_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on some network disks.
    acquire = FileLock.acquire

    def lose(lock: FileLock, timeout: float) -> None:
        acquire(lock, timeout=timeout)
        (tmp_path / "another").touch()
        (tmp_path / "another").rename(lock.lock_file)

    monkeypatch.setattr(FileLock, "acquire", lose)
    with (
        pytest.raises(ConfigError, match="a lock is lost as soon as it is made"),
        claiming(tmp_path / "out"),
    ):
        pass


def test_nothing_begins_once_the_process_is_to_end(tmp_path: Path) -> None:
    """Another thread may be writing when a signal ends the process."""
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from spectralgpt.files import drop_temporaries, write_text\n"
        "folder = Path(sys.argv[1])\n"
        "def write():\n"
        "    for number in range(10**6):\n"
        "        write_text(folder / f'{number % 7}.txt', 'x')\n"
        "threading.Thread(target=write, daemon=True).start()\n"
        "while not any(folder.iterdir()): time.sleep(0.01)\n"
        "drop_temporaries(folder)\n"
        "print(*(p.name for p in folder.iterdir() if p.suffix == '.making'))\n"
        "time.sleep(0.2)\n"
        "print(*(p.name for p in folder.iterdir() if p.suffix == '.making'))\n"
    )
    for _ in range(5):
        words = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout.split() == []
