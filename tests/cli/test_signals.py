"""Real signals to real commands: one line, a status, nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from spectralgpt.checkpoints import save_model
from spectralgpt.models.heads import SegmentationModel
from tests.cli.test_pretrain import SMALL
from tests.dense_places import write_places
from tests.imagery import write_archive
from tests.raster_files import write_tiff
from tests.tiny import tiny_contract, tiny_model
from tests.toy import write_archive as write_archive_of_classes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
TIMEOUT_S = 240


def holds(folder: Path, pattern: str) -> bool:
    """Whether a folder holds such a file, while another process works in it."""
    try:
        return any(folder.glob(pattern))
    except FileNotFoundError:
        # What was made beside it has just moved to its place.
        return False


def interrupt(
    words: Sequence[object],
    when: Callable[[], bool],
    number: signal.Signals,
    to_group: bool = False,
) -> tuple[int, list[str]]:
    """Run a command, signal it when it is time; its status and lines on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spectralgpt", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not hears(process.pid) and process.poll() is None:
            time.sleep(0.01)
        while not when() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()[1]
        (os.killpg if to_group else os.kill)(process.pid, number)
        errors = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert running_in(process.pid) == []
    return process.returncode, errors.splitlines()


def hears(process: int) -> bool:
    """Tell whether a process is past the start of Python, and catches SIGTERM."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():  # Only Linux tells.
        time.sleep(1)
        return True
    caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def running_in(session: int) -> list[str]:
    """Return the command lines of what still runs in a session."""
    listed = subprocess.run(
        ["ps", "-eo", "sid,stat,args"], check=True, capture_output=True, text=True
    )
    rows = (line.split(maxsplit=2) for line in listed.stdout.splitlines()[1:])
    return [row[2] for row in rows if row[0] == str(session) and row[1][0] != "Z"]


def after(seconds: float) -> Callable[[], bool]:
    """Wait for some seconds after the first question."""
    begun: list[float] = []

    def is_over() -> bool:
        begun.append(time.monotonic())
        return begun[-1] > begun[0] + seconds

    return is_over


def write_config(tmp_path: Path) -> Path:
    trainer = {**SMALL["trainer"], "epochs": 50, "workers": 1}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "trainer": trainer}))
    return path


def write_big(path: Path, side: int = 640) -> Path:
    rng = np.random.default_rng(0)
    names = tiny_contract().band_names
    numbers = rng.integers(200, 4000, (len(names), side, side), dtype=np.uint16)
    write_tiff(path, numbers, descriptions=names)
    return path


@pytest.mark.parametrize("seconds", [0.0, 0.8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_imports_is_a_line(
    tmp_path: Path, number: signal.Signals, seconds: float
) -> None:
    words = ["pretrain", "--config", write_config(tmp_path), "--output", tmp_path / "o"]
    status, lines = interrupt(words, after(seconds), number, to_group=True)
    assert (status, lines) == (128 + number, [f"interrupted by {number.name}"])
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("number", "to_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)]
)
def test_training_names_the_checkpoint_that_a_resume_goes_on_from(
    tmp_path: Path, number: signal.Signals, to_group: bool
) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "--config", write_config(tmp_path), "--output", run]
    last = run / "checkpoints" / "last.ckpt"
    status, lines = interrupt(words, last.exists, number, to_group)
    assert status == 128 + number
    assert lines[-1] == f"interrupted by {number.name}: --resume goes on from {last}"
    # The loss is shown once in a while.
    assert not "\n".join(line for line in lines[:-1] if line[:5] != "step ")
    assert not list(tmp_path.rglob(".*"))


def finetuning(tmp_path: Path, *words: object) -> list[object]:
    """Fine-tune for maps, without an output."""
    model = tmp_path / "model"
    if not model.exists():
        save_model(model, tiny_model(), tiny_contract())
        write_places(tmp_path / "places")
    return [
        *("finetune", "segmentation", "--model", model, "--head", "linear"),
        *("--data.root", tmp_path / "places", "--data.images", "after"),
        *("--data.sensor", "sentinel-2-l1c", "--data.offset", 0),
        *("--data.classes", "{intact: 0, damaged: 1}"),
        *("--trainer.accelerator", "cpu", "--trainer.workers", 0),
        *("--trainer.batch_size", 2, "--trainer.checkpoint_every_steps", 2, *words),
    ]


def test_fine_tuning_names_the_checkpoint_that_a_resume_goes_on_from(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    words = finetuning(tmp_path, "--output", run, "--trainer.epochs", 500)
    last = run / "checkpoints" / "last.ckpt"
    status, lines = interrupt(words, last.exists, signal.SIGTERM)
    assert status == 143
    assert lines[-1] == f"interrupted by SIGTERM: --resume goes on from {last}"
    assert not "\n".join(line for line in lines[:-1] if line[:5] != "step ")
    assert not list(tmp_path.rglob(".*"))


def test_a_study_says_that_it_goes_on(tmp_path: Path) -> None:
    write_archive_of_classes(tmp_path / "classes", per_class=6)
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    trainer = {"accelerator": "cpu", "workers": 0, "epochs": 500, "batch_size": 4}
    data = {"root": str(tmp_path / "classes"), "offset": 0.0}
    study = {
        "task": "classification",
        "starts": {"random": {"model": str(model)}},
        "finetune": {"data": data, "trainer": trainer},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    out = tmp_path / "out"
    words = ["compare", "--config", tmp_path / "study.yaml", "--output", out]
    begun = partial(holds, out, "**/last.ckpt")
    status, lines = interrupt(words, begun, signal.SIGINT)
    assert status == 130
    assert lines[-1] == (
        f"interrupted by SIGINT: what is finished stays in {out}, and the same "
        "command goes on"
    )
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_the_demo_says_what_it_leaves_and_how_to_begin_anew(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    words = ["demo", "--output", out]
    status, lines = interrupt(words, (out / "pretraining").exists, signal.SIGINT)
    assert status == 130
    assert lines[-1] == (
        f"interrupted by SIGINT: {out} holds a part of the demo: begin anew with "
        "--overwrite"
    )


def run_whole(words: Sequence[object]) -> None:
    command = [sys.executable, "-m", "spectralgpt", *map(str, words)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def files_in(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def header_and_numbers(content: bytes) -> tuple[object, bytes]:
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


@pytest.mark.slow
def test_fine_tuning_that_is_killed_and_resumed_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = finetuning(tmp_path, "--trainer.epochs", 6)
    run_whole([*words, "--output", whole])
    last = killed / "checkpoints" / "last.ckpt"
    words += ["--output", killed]
    assert interrupt(words, last.exists, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (killed / "metrics.json").exists()
    run_whole([*words, "--resume"])
    one, other = files_in(whole), files_in(killed)
    weights, scores = "checkpoints/model/model.safetensors", "metrics.json"
    # Entries of the header stand in any order.
    assert header_and_numbers(one[weights]) == header_and_numbers(other[weights])
    # They name the model's folder.
    assert one[scores] == other[scores].replace(b"killed", b"whole")


@pytest.mark.slow
def test_a_map_that_is_killed_and_made_again_has_the_same_bytes(
    tmp_path: Path,
) -> None:
    model = SegmentationModel(tiny_model().encoder, 2, head="linear")
    extra = {"class_names": ["field", "forest"], "task": "segmentation"}
    save_model(tmp_path / "model", model, tiny_contract(), extra | {"window_px": 32})
    scene = write_big(tmp_path / "scene.tif", side=400)
    words: list[object] = ["predict", scene, "--model", tmp_path / "model"]
    words += ["--sensor", "sentinel-2-l1c", "--offset", 0, "--probabilities"]
    words += ["--device", "cpu"]
    run_whole([*words, "--output", tmp_path / "whole"])
    killed = tmp_path / "killed"
    journal = killed / ".scene.tif.unfinished" / "journal.jsonl"
    begun = lambda: journal.exists() and len(journal.read_text().splitlines()) > 2  # noqa: E731
    words += ["--output", killed]
    assert interrupt(words, begun, signal.SIGKILL)[0] == -signal.SIGKILL
    assert journal.exists()
    run_whole(words)
    assert files_in(killed) == files_in(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_a_signal_in_the_middle_of_an_import_ends_at_once(tmp_path: Path) -> None:
    # As libraries of C++ do that meet an exception where they expect none.
    (tmp_path / "aborting.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    import time\n"
        "    time.sleep(60)\nexcept BaseException:\n    os.abort()\n"
    )
    code = (
        "from spectralgpt.cli.main import _StopSignals\n"
        "with _StopSignals(is_process=True) as signals:\n"
        "    signals.unwinds = True\n    import aborting\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert (done.returncode, done.stderr) == (143, "interrupted by SIGTERM\n")


def test_packing_says_that_it_goes_on(tmp_path: Path) -> None:
    source = write_archive(tmp_path, "scenes", "sentinel-2-l2a", count=400)
    out = tmp_path / "pack"
    words = ["data", "pack", source, tmp_path, "--output", out, "--shard-mb", "0.2"]
    note = out / "shard-00001.json"
    status, lines = interrupt(words, note.exists, signal.SIGINT)
    assert status == 130
    assert lines == [
        f"interrupted by SIGINT: what is finished stays in {out}, and the same "
        "command goes on"
    ]
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulating_leaves_no_process_and_no_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    words = ["simulate", "--output", tmp_path / "out", "--workers", 2]
    begun = partial(holds, tmp_path, "**/*.tif")
    status, lines = interrupt([*words, "--images", 5000], begun, number)
    assert (status, lines) == (128 + number, [f"interrupted by {number.name}"])
    assert list(tmp_path.iterdir()) == []


def test_embedding_leaves_no_file(tmp_path: Path) -> None:
    scene = write_big(tmp_path / "scene.tif", side=4000)
    out = tmp_path / "out"
    words = ["embed", scene, "--model", "tiny", "--format", "geotiff", "--cell_px", 2]
    words += ["--output", out, "--sensor", "sentinel-2-l1c", "--offset", 0]
    making = partial(holds, out, ".*.making")
    status, lines = interrupt(words, making, signal.SIGTERM)
    # The first says that the weights are random.
    assert (status, lines[1:]) == (143, ["interrupted by SIGTERM"])
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_on_dask_ends_without_a_word_of_its_workers(
    tmp_path: Path, number: signal.Signals
) -> None:
    pytest.importorskip("distributed", reason="spectralgpt[dask]")
    model = save_model(tmp_path / "model", tiny_model(), tiny_contract())
    scene = write_big(tmp_path / "scene.tif", side=3000)
    out = tmp_path / "out"
    words = ["batch", "embed", scene, "--model", model, "--workers", 2]
    words += ["--output", out, "--sensor", "sentinel-2-l1c", "--offset", 0]
    making = partial(holds, out, "scenes/.*.making")
    status, lines = interrupt(words, making, number, to_group=True)
    assert status == 128 + number
    assert [line.partition(":")[0] for line in lines] == [
        f"interrupted by {number.name}"
    ]
    assert not list(out.glob("scenes/.*"))


@pytest.mark.slow
def test_two_training_processes_end_together(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "--config", write_config(tmp_path), "--output", run]
    words += ["--trainer.devices", 2, "--trainer.batch_size", 4]
    last = run / "checkpoints" / "last.ckpt"
    status, lines = interrupt(words, last.exists, signal.SIGTERM)
    assert status == 143
    assert lines[-1] == f"interrupted by SIGTERM: --resume goes on from {last}"


def test_the_second_of_two_at_once_gets_a_line(tmp_path: Path) -> None:
    scene = write_big(tmp_path / "scene.tif", side=4000)
    out = tmp_path / "out"
    words = ["embed", scene, "--model", "tiny", "--format", "geotiff", "--cell_px", 2]
    words += ["--output", out, "--sensor", "sentinel-2-l1c", "--offset", 0]
    seen: list[subprocess.CompletedProcess[str]] = []

    def second() -> bool:
        if any(out.glob(".*.making")):
            command = [sys.executable, "-m", "spectralgpt", *map(str, words)]
            seen.append(
                subprocess.run(command, check=False, capture_output=True, text=True)
            )
        return bool(seen)

    assert interrupt(words, second, signal.SIGINT)[0] == 130
    assert seen[0].returncode == 1
    assert seen[0].stderr == (
        f"error: {out} is being made by another process: wait for it, or name another "
        "--output.\n"
    )
