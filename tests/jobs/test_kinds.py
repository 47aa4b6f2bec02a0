"""The work of jobs on one scene."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectralgpt.checkpoints import save_model
from spectralgpt.data.formats import ImageFormat
from spectralgpt.jobs.kinds import PredictJob, ReadyJob
from spectralgpt.models.heads import SegmentationModel
from spectralgpt.scenes.inputs import Progress
from tests.tiny import tiny_contract, tiny_model
from tests.toy import chip_pixels, write_chip


def do_scene(
    ready: ReadyJob, scene: Path, target: Path, progress: Progress | None = None
) -> list[Path]:
    made: Any = ready.make(ready.describe((scene,)), target, progress)
    return ready.finish(made)


def test_a_map_that_was_interrupted_goes_on_at_its_last_row(tmp_path: Path) -> None:
    model = SegmentationModel(tiny_model().encoder, 2, head="linear")
    extra = {"class_names": ["a", "b"], "task": "segmentation", "window_px": 32}
    path = save_model(tmp_path / "model", model, tiny_contract(), extra)
    pixels = chip_pixels("forest", 120, np.random.default_rng(0))
    scene = write_chip(tmp_path / "in/scene.tif", pixels)
    job = PredictJob(str(path), ImageFormat(offset=0.0), "cpu", batch_size=4)
    ready = job.load()
    whole = do_scene(ready, scene, tmp_path / "whole/scene.tif")

    def stop(share: float) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    target = tmp_path / "out/scene.tif"
    with pytest.raises(KeyboardInterrupt):
        do_scene(ready, scene, target, stop)
    assert [each.name for each in target.parent.iterdir()] == [".scene.tif.unfinished"]
    seen: list[float] = []
    made = do_scene(job.load(), scene, target, seen.append)
    assert seen[0] > 0.5
    assert [each.read_bytes() for each in made] == [each.read_bytes() for each in whole]
