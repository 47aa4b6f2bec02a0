import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

import spectralgpt
from spectralgpt import objectives
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.cli import pretrain as command
from spectralgpt.cli.main import main
from spectralgpt.cli.options import CommandParser, plain_values
from spectralgpt.config import build_config, read_config
from spectralgpt.errors import ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.recipes import find_recipe, list_recipes
from spectralgpt.training import trials
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.pretrain_config import PretrainConfig

SCENE = Path(spectralgpt.__file__).parent / "demo_data" / "scene"
ENCODER = {"size": "tiny", "embed_dim": 48, "depth": 2, "num_heads": 4}
SMALL = {
    "model": {
        **ENCODER,
        "decoder_embed_dim": 32,
        "decoder_depth": 1,
        "decoder_num_heads": 4,
    },
    "data": {
        "root": str(SCENE),
        "exclude_bands": ["B10"],
        "image_size": 32,
        "samples_per_epoch": 40,
        "max_held_out": 4,
    },
    "optimizer": {"base_lr": 0.01, "warmup_epochs": 1},
    "trainer": {
        "epochs": 2,
        "batch_size": 8,
        "workers": 0,
        "accelerator": "cpu",
        "checkpoint_every_steps": 2,
    },
    "report": {"images": 1},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def words(config: Path, output: Path, *options: str) -> list[str]:
    program = [sys.executable, "-m", "spectralgpt", "pretrain"]
    return [*program, "--config", str(config), "--output", str(output), *options]


def run(config: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(config, output, *options),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def losses(root: Path) -> list[tuple[str, str]]:
    return [(row["step"], row["loss"]) for row in read_metrics(root / "metrics.csv")]


def parse(*options: str) -> PretrainConfig:
    from spectralgpt.config import build_config

    parser = ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    values = parser.parse_args([*options, "--output", "x"]).as_dict()
    kept = {k: v for k, v in values.items() if k not in ("config", "output",
            "overwrite", "resume", "find_lr")}  # fmt: skip
    return build_config(kept, PretrainConfig, "options")


def test_options_override_the_configuration_file(config: Path) -> None:
    found = parse(
        "--config", str(config), "--data.image_size", "16", "--data.crops.val_share=0.2"
    )
    assert found.data.image_size == 16
    assert found.data.crops.val_share == 0.2
    assert found.data.exclude_bands == ("B10",)
    assert found.model.embed_dim == 48


def test_file_and_command_line_give_the_same_configuration(config: Path) -> None:
    assert parse("--config", str(config)) == read_config(config, PretrainConfig)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modle": {}}, r"config\.yaml: unknown key 'modle'; did you mean 'model'"),
        (
            {"data": {"crops": {"scale_mn": 0.1}}},
            r"config\.yaml, data, crops: unknown key 'scale_mn'; did you mean 'scale_m",
        ),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        parse("--config", str(path))
    with pytest.raises(ConfigError, match=message):
        read_config(path, PretrainConfig)


@pytest.mark.parametrize(
    "name", [name for name in list_recipes() if name.startswith("pretrain_")]
)
def test_recipe_is_a_valid_configuration(name: str) -> None:
    found = parse("--config", name)
    assert found == read_config(find_recipe(name), PretrainConfig)
    said = (found.model.size, found.objective.replace("-", "_"))
    assert found.stages or any(word in name for word in said)


def test_published_recipes_have_the_published_effective_batch() -> None:
    for name in ("pretrain_base_96", "pretrain_base_128"):
        trainer = parse("--config", name).trainer
        assert trainer.batch_size * trainer.accumulate * trainer.devices == 4096


def test_help_explains_every_option() -> None:
    parser = ArgumentParser()
    command.add_arguments(parser)
    unexplained = [
        action.dest
        for action in parser._actions
        if not action.help and action.dest.count(".") > 0
    ]
    assert not unexplained


@pytest.mark.slow
def test_command_makes_a_whole_run(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    result = run(config, output)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{output}\n"
    assert "images/s" in result.stderr
    assert "Warning" not in result.stderr
    for name in ("config.yaml", "report.html", "checkpoints/last.ckpt"):
        assert (output / name).stat().st_size > 0
    assert [step for step, _ in losses(output)] == [str(n) for n in range(1, 11)]
    assert list((output / "figures").glob("reconstruction_epoch_0002_image_0.png"))
    scores = json.loads((output / "validation.json").read_text())
    assert set(scores) == {
        "model", "band_mean", "linear_space", "space_spectrum", "images",
    }  # fmt: skip
    last = read_metrics(output / "metrics.csv")[-1]
    assert scores["model"] == pytest.approx(float(last["val_masked_error"]), rel=1e-5)
    loaded = load_model(output / "checkpoints" / "model")
    assert isinstance(loaded.model, MaskedAutoencoder)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.band_names[9] == "B09"
    assert len(loaded.preprocessing.bands) == 12
    assert read_config(output / "config.yaml", PretrainConfig) == parse(
        "--config", str(config)
    )
    again = run(config, output)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "--resume" in again.stderr


QUEUE = {"version": "v2", "queue_size": 24, "dim": 16, "momentum": 0.9}
MOMENTUM = {"version": "v3", "hidden_dim": 32, "dim": 16, "momentum": 0.9}


TOKENS = {"vocab_size": 32}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("spectralgpt", {}),
        ("moco", QUEUE),
        ("moco", MOMENTUM),
        ("tokenizer", TOKENS | {"code_dim": 8, "embed_dim": 16, "depth": 1}),
        ("beit", TOKENS),
    ],
)
def test_killed_and_resumed_run_equals_uninterrupted_run(
    config: Path, tmp_path: Path, objective: str, settings: dict[str, object]
) -> None:
    model: dict[str, object] = {**ENCODER}
    if objective == "spectralgpt":
        model = SMALL["model"]
    elif objective == "tokenizer":
        model = {"size": "tiny"}
    elif objective == "beit":
        tokens = {"num_bands": 12, "image_size": 32, "embed_dim": 16, "depth": 1}
        tokenizer = objectives.build("tokenizer", **TOKENS, **tokens)
        save_model(tmp_path / "tokens", tokenizer)
        model["start_from"] = str(tmp_path / "tokens")
    own = {"objective": objective, "settings": settings, "model": model}
    config.write_text(yaml.safe_dump({**SMALL, **own}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(config, whole).returncode == 0
    process = subprocess.Popen(
        words(config, killed),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 200
    while len(losses(killed)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(losses(killed)) < 10
    result = run(config, killed, "--resume")
    assert result.returncode == 0, result.stderr
    assert losses(killed) == losses(whole)
    first, second = (load_model(r / "checkpoints/model").model for r in (whole, killed))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_follow_one(config: Path, tmp_path: Path, strategy: str) -> None:
    options = ("--data.crops.val_share", "0")
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(config, one, *options).returncode == 0
    result = run(
        config, two, *options, "--trainer.devices", "2", "--trainer.batch_size", "4",
        "--trainer.strategy", strategy,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{two}\n"
    expected = [float(loss) for _, loss in losses(one)]
    assert [float(loss) for _, loss in losses(two)] == pytest.approx(expected, rel=1e-5)
    first, second = (load_model(r / "checkpoints/model").model for r in (one, two))
    for name, value in first.state_dict().items():
        if name.endswith("qkv.bias"):
            # A key's bias changes no attention: its gradient is rounding noise, which
            # AdamW scales up to a step of full size.
            continue
        found = second.state_dict()[name]
        assert torch.allclose(value, found, rtol=1e-3, atol=1e-4), name


@pytest.mark.slow
def test_sharded_run_is_resumed(config: Path, tmp_path: Path) -> None:
    options = (
        "--data.crops.val_share=0", "--trainer.devices=2", "--trainer.batch_size=4",
        "--trainer.strategy=fsdp",
    )  # fmt: skip
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert run(config, whole, *options).returncode == 0
    process = subprocess.Popen(
        words(config, half, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while len(losses(half)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = run(config, half, *options, "--resume")
    assert result.returncode == 0, result.stderr
    found = [float(loss) for _, loss in losses(half)]
    assert len(found) == 10
    assert found == pytest.approx([float(loss) for _, loss in losses(whole)], rel=1e-5)


def test_wrong_key_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data: {rot: x}\n")
    status = main(["pretrain", "--config", str(path), "--output", str(tmp_path / "o")])
    found = capsys.readouterr()
    assert status == 1
    assert found.out == ""
    assert found.err.startswith(f"error: {path}, data: unknown key 'rot'; did you mean")
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    "name", [n for n in list_recipes() if n.startswith("pretrain")]
)
def test_a_recipe_is_what_its_command_reads(name: str) -> None:
    parser = CommandParser(exit_on_error=False)
    command.add_arguments(parser)
    changed = ["--settings.drop_path", "0.25"] if name == "pretrain_simmim" else []
    args = parser.parse_args(["--config", name, "--output", "x", *changed])
    found = build_config(plain_values(args), PretrainConfig, "the command line")
    wanted = read_config(find_recipe(name), PretrainConfig)
    settings = wanted.settings | ({"drop_path": 0.25} if changed else {})
    assert found == replace(wanted, settings=settings)


@pytest.mark.slow
def test_find_lr_says_a_rate_and_begins_no_run(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    command = ["pretrain", "--config", str(config), "--output", str(output)]
    assert main([*command, "--find-lr"]) == 0
    said, *paths = capsys.readouterr().out.splitlines()
    base_lr, rate = map(float, re.findall(r"\d\.\de-\d\d", said))
    assert said == (
        f"optimizer.base_lr {base_lr:.1e} (a learning rate of {rate:.1e} for 8 images "
        "a step)"
    )
    assert rate == pytest.approx(base_lr * 8 / 256, rel=0.05)
    assert 1e-4 < base_lr < 1
    assert sorted(paths) == sorted(str(path) for path in output.iterdir())
    # The run may come into the same folder, and a trial leaves a run as it is.
    assert main([*command, "--optimizer.base-lr", f"{base_lr:.1e}"]) == 0
    names = ("config.yaml", "metrics.csv", "checkpoints/last.ckpt", "report.html")
    before = [(output / name).read_bytes() for name in names]
    capsys.readouterr()
    # Rates at which nothing is learned.
    monkeypatch.setattr(trials, "_RANGES", {"adamw": (1e-12, 1e-10)})
    (output / "learning_rates.csv").unlink()
    assert main([*command, "--find-lr"]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("error: no learning rate is suggested: from 1e-12 to")
    assert found.err.count("\n") == 1
    assert [(output / name).read_bytes() for name in names] == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resume"], "--find-lr begins no run to go on with: leave out --resume."),
        ([], "learning_rates.csv is there already: pass --overwrite."),
        (["--overwrite", "--stages", "[{name: a, steps: 2}]"], "leave out stages"),
        (["--overwrite", "--trainer.epochs", "1"], "warm-up must end before"),
    ],
)
def test_find_lr_is_refused_in_a_line(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    (tmp_path / "learning_rates.csv").write_text("kept")
    words = ["--config", str(config), "--output", str(tmp_path), "--find-lr"]
    assert main(["pretrain", *words, *options]) == 1
    found = capsys.readouterr()
    assert (found.out, found.err.count("\n")) == ("", 1)
    assert said in found.err
    assert (tmp_path / "learning_rates.csv").read_text() == "kept"
