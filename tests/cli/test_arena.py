"""The arena from the command line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from spectralgpt.cli.main import main
from spectralgpt.training.logs import read_metrics
from tests.toy import SENSOR, write_archive

SIZES = {"size": "tiny", "embed_dim": 48, "depth": 2, "num_heads": 4}


def words(config: Path, output: Path) -> list[str]:
    return ["arena", "--config", str(config), "--output", str(output)]


@pytest.mark.slow
def test_killed_and_repeated_arena_gives_the_scores_of_an_uninterrupted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_archive(tmp_path / "toy", per_class=8, size=16)
    facts = {"root": str(root), "offset": 0}
    config = tmp_path / "arena.yaml"
    settings = {
        "images": 160,
        "seeds": [0, 1],
        "floors": False,
        "pretrain": {
            "model": SIZES,
            "data": {
                **facts,
                "sensor": SENSOR,
                "exclude_bands": ["B10"],
                "image_size": 16,
            },
            "optimizer": {"warmup_epochs": 0.5},
            "trainer": {
                "epochs": 2,
                "batch_size": 8,
                "workers": 0,
                "checkpoint_every_steps": 3,
            },
            "report": {"images": 0},
        },
        "starts": {"mae": {"objective": "mae"}, "simclr": {"objective": "simclr"}},
        "tasks": {"toy": {"data": facts, "methods": ["ridge"]}},
    }
    config.write_text(yaml.safe_dump(settings))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(words(config, whole)) == 0
    capsys.readouterr()
    # Trials are done once, and would take longer than all the rest.
    for start in ("mae", "simclr"):
        (killed / "models" / start).mkdir(parents=True)
        name = f"models/{start}/cost.json"
        shutil.copy(whole / name, killed / name)
    process = subprocess.Popen(
        [sys.executable, "-m", "spectralgpt", *words(config, killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    second = killed / "models/simclr/seed-0/metrics.csv"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if second.exists() and len(read_metrics(second)) >= 5:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(read_metrics(second)) < 20
    assert main(words(config, killed)) == 0
    said = capsys.readouterr().err
    # The first one is not trained again.
    assert "pretraining 1 of 2" not in said
    assert re.search(r"pretraining 2 of 2, about [\d:]+ left: simclr, seed 0", said)
    found, wanted = (
        json.loads((folder / "arena.json").read_text()) for folder in (killed, whole)
    )
    for name in ("scores", "curves", "amount", "seeds"):
        assert found[name] == wanted[name]
