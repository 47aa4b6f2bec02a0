import errno
import os
import pickle
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from spectralgpt.errors import CheckpointError, OutputError
from spectralgpt.training.checkpointing import AtomicCheckpointIO, read_checkpoint
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.module import TrainingModule

RunTiny = Callable[..., TrainingModule]


class Payload:
    """Pickled, it would run code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-run",)


def test_pickled_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "x": Payload()}, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt .* pickled code"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match=r"last\.ckpt .* pickled code"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("kept", [0, 10, 500, -1])
@pytest.mark.parametrize("mmap", [False, True])
def test_truncated_checkpoint_is_refused(tmp_path: Path, kept: int, mmap: bool) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(500)}}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        read_checkpoint(path, mmap=mmap)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.ckpt does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a training"):
        read_checkpoint(tmp_path / "other.ckpt")


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Make the `after`-th save and all later ones fail halfway, as a full disk does."""
    calls = []

    def save(checkpoint: object, path: Path) -> None:
        calls.append(path)
        if len(calls) < after:
            with path.open("wb") as file:
                original(checkpoint, file)
            return
        path.write_bytes(b"half a checkpoint")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    original = torch.save
    monkeypatch.setattr(torch, "save", save)


def test_full_disk_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": torch.ones(3)}}, path)
    fill_the_disk(monkeypatch, after=1)
    with pytest.raises(OutputError, match=r"last\.ckpt.*No space left.*--resume"):
        writer.save_checkpoint({"state_dict": {"w": torch.zeros(3)}}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.ones(3))


def test_run_on_a_full_disk_stops_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_tiny: RunTiny
) -> None:
    run_tiny(tmp_path / "whole")
    with monkeypatch.context() as patch:
        fill_the_disk(patch, after=4)
        with pytest.raises(OutputError, match="No space left"):
            run_tiny(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [file.name for file in checkpoints.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(checkpoints / "last.ckpt")["global_step"] == 3
    run_tiny(tmp_path / "run", resume=True)
    whole, resumed = (
        [(row["step"], row["loss"]) for row in read_metrics(root / "metrics.csv")]
        for root in (tmp_path / "whole", tmp_path / "run")
    )
    assert resumed == whole
    assert len(whole) == 15


def test_write_error_inside_torch_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": torch.ones(3)}}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow past 64 KiB: a write that the system refuses midway.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(
            OutputError,
            match=r"cannot write .*last\.ckpt.*is unchanged\. Free some",
        ):
            writer.save_checkpoint({"state_dict": {"w": torch.zeros(10**6)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.ones(3))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, check=False, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_really_full_disk_keeps_the_last_good_checkpoint(small_disk: Path) -> None:
    path = small_disk / "checkpoints" / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"state_dict": {"w": torch.ones(150_000)}}, path)
    with pytest.raises(OutputError, match=r"cannot write .*last\.ckpt.*--resume"):
        writer.save_checkpoint({"state_dict": {"w": torch.zeros(150_000)}}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(path)["state_dict"]["w"].sum() == 150_000


class Steps(Callback):
    def __init__(self) -> None:
        self.saved: list[int] = []

    def on_save_checkpoint(
        self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        self.saved.append(checkpoint["global_step"])


def test_checkpoints_are_written_at_the_interval_and_after_each_epoch(
    tmp_path: Path, run_tiny: RunTiny
) -> None:
    steps = Steps()
    run_tiny(tmp_path, callbacks=(steps,), checkpoint_every_steps=2)
    assert steps.saved == [2, 4, 5, 6, 8, 10, 12, 14, 15]
