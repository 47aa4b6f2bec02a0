"""`spectralgpt view`, tried wrong, and once right."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.cli.main import main
from tests.raster_files import write_tiff
from tests.viewer.places import BANDS, write_all, write_model, write_scene


def complain(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["view", *words, "--no-open", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_wrong_uses_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, run = write_scene(tmp_path / "scene.tif"), write_model(tmp_path)
    words = [str(scene)]
    assert "nowhere.tif does not exist" in complain(["nowhere.tif"], capsys)
    assert "no model at nowhere" in complain([*words, "--model", "nowhere"], capsys)
    assert "alone shows nothing" in complain([str(run)], capsys)
    assert "ports are 0" in complain([*words, "--port", "70000"], capsys)
    names = [band.name for band in BANDS]
    stated = f"[{','.join([*names[:-1], 'B99'])}]"
    assert "B99" in complain([*words, "--bands", stated], capsys)
    (tmp_path / "empty").mkdir()
    empty = str(tmp_path / "empty")
    assert "holds no model.safetensors" in complain([*words, "--model", empty], capsys)
    assert "scene.tif" in complain([*words, "--model", str(scene)], capsys)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert "choose another with --port" in complain(
            [*words, "--port", port], capsys
        )


def test_broken_files_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, run = write_scene(tmp_path / "scene.tif"), write_model(tmp_path)
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    for words in ([str(scene), str(run)], [str(scene), "--model", str(run)]):
        assert "truncated or no safetensors file" in complain(words, capsys)
    (tmp_path / "corrupt.tif").write_bytes(b"II*\0" + bytes(range(200)))
    assert "corrupt.tif" in complain([str(tmp_path / "corrupt.tif")], capsys)
    data = scene.read_bytes()
    scene.write_bytes(data[: len(data) // 3])
    assert "scene.tif" in complain([str(scene)], capsys)
    # Layers of which nothing says what they are.
    stack = write_tiff(tmp_path / "stack.tif", np.ones((5, 9, 9), np.uint16))
    assert "does not say which sensor took it" in complain([str(stack)], capsys)


@pytest.mark.slow
def test_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_scene(tmp_path / "other" / "scene.tif")
    paths = [*write_all(tmp_path), other, write_model(tmp_path)]
    words = [sys.executable, "-m", "spectralgpt", "view", *map(str, paths)]
    words += ["--port", "0", "--no-open", "--device", "cpu"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:")
            url = line.split()[0]
            assert f"{tmp_path.name}/scene.tif, other/scene.tif, " in line
            with urllib.request.urlopen(f"{url}api/state", timeout=60) as answer:
                state = json.load(answer)
            assert state["model"] == "run"
            assert state["can_rebuild"] is True
            assert len(state["maps"]) == 2
        finally:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted by SIGINT\n")
