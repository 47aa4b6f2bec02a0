"""The command: its options as documented, its table, its errors in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spectralgpt.benchmarks import measurement
from spectralgpt.cli.main import main

RUN = [
    "benchmark", "--model", "tiny", "--image-size", "32", "--batch-size", "2",
    "--steps", "5", "--warmup", "1", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "_MATMUL_SIZES", (128,))
    monkeypatch.setattr(measurement, "_COPIED_BYTES", 2**20)


def test_two_results_are_written_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("bf16.json", "fp32.json")]
    for file in files:
        words = ["--precision", file.stem, "--mode", "inference", "--json", str(file)]
        assert main([*RUN, *words]) == 0
    shown = capsys.readouterr().out
    assert "share of the fastest product" in shown
    assert f"of the fastest product; {files[1]}" in shown
    assert json.loads(files[0].read_text())["settings"]["precision"] == "bf16"
    assert main(["benchmark", "--compare", *map(str, files)]) == 0
    shown = capsys.readouterr().out
    assert "precision" in shown
    assert "fp32 does" in shown


def test_a_result_is_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    file.write_text("mine")
    assert main([*RUN, "--json", str(file)]) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_a_file_that_is_there_is_refused_before_anything_slow(tmp_path: Path) -> None:
    file = tmp_path / "made-by-mktemp.json"
    file.touch()
    code = (
        "import sys; from spectralgpt.cli.main import main; "
        f"status = main(['benchmark', '--json', {str(file)!r}]); "
        "sys.exit(9 if 'torch' in sys.modules else status)"
    )
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, check=False, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr == f"error: {file} is there already: pass --overwrite.\n"


def test_quantized_inference_holds_fewer_bytes(tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="spectralgpt[quantize]")
    held = []
    for quantize in ("none", "int8"):
        words = ["--mode", "inference", "--quantize", quantize, "--precision", "fp32"]
        file = tmp_path / f"{quantize}.json"
        assert main([*RUN, *words, "--json", str(file)]) == 0
        result = json.loads(file.read_text())
        assert result["settings"]["quantize"] == quantize
        held.append(result["weight_bytes"])
    assert held[1] < 0.3 * held[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "3"], "at least 5"),
        (["--quantize", "int8"], "or use mode inference"),
        (
            ["--mode", "inference", "--recompute-activations", "true"],
            "leave out --recompute-activations",
        ),
        (["--mode", "data"], "name it with --data"),
        (["--mode", "data", "--data", "nowhere"], "nowhere"),
        (["--mask-ratio", "1.5"], "ratio is 1.5"),
        (["--json", "nowhere/a.json"], "no folder nowhere"),
        (["--compare", "a.json", "b.json"], "a.json is no file"),
        (["--device", "toaster"], "is no device"),
    ],
)
def test_errors_are_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, *words]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []
