"""Folders of things in the making, and what killed processes leave."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spectralgpt.atomic_files import folder_beside

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import sys, time
from pathlib import Path
from spectralgpt.atomic_files import folder_beside

with folder_beside(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(300)
"""


def start(path: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)],
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
