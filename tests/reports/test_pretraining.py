"""The pretraining report tells what the run's files hold."""

import json
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.reports.pretraining import (
    describe_fillers,
    scores_table,
    write_pretraining_report,
)
from spectralgpt.reports.style import new_figure

METRICS = "step,epoch,loss,token_loss,spectral_loss,lr,val_masked_error\n" + "".join(
    f"{step},{step / 4},{2 / step},{1 / step},{1 / step},0.001,0.5\n"
    for step in range(1, 9)
)
SCORES = {"model": 0.01, "band_mean": 0.04, "linear_space": 0.02, "images": 30.0}


def write_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "validation.json").write_text(json.dumps(SCORES))
    (folder / "config.yaml").write_text("model: {size: tiny}\ndata: {bands: [B02]}\n")
    (folder / "figures").mkdir()
    for name in ("reconstruction_epoch_0001_image_0", "spectra_epoch_0002_image_0"):
        new_figure(1, 1).savefig(folder / "figures" / f"{name}.png")
    new_figure(1, 1).savefig(
        folder / "figures" / "reconstruction_epoch_0002_image_0.png"
    )
    return folder


def test_report_holds_curves_scores_figures_and_configuration(tmp_path: Path) -> None:
    report = write_pretraining_report(write_run(tmp_path / "run"))
    page = report.read_text()
    assert report == tmp_path / "run" / "report.html"
    # The curves and the two figures of the last epoch, not those of the first.
    assert page.count("<figure>") == 3
    assert "Reconstructions after epoch 2" in page
    assert "The model&#x27;s error is 50% below that of the best filler" in page
    assert "model.size" in page
    assert "over 30 held-out images" in page
    assert page.count("<figcaption>Held-out image 0") == 1
    assert "learning rate" in page


def test_report_of_a_killed_run_needs_metrics_only(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    assert write_pretraining_report(tmp_path).read_text().count("<figure>") == 1


def test_run_without_metrics_or_with_broken_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"metrics\.csv does not exist"):
        write_pretraining_report(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "validation.json").write_text("{")
    with pytest.raises(DataError, match="no table of scores"):
        write_pretraining_report(run)


def test_a_model_that_loses_to_a_filler_is_said_to() -> None:
    text = describe_fillers(SCORES | {"model": 0.03})
    assert "does not beat" in text
    assert "1.50 times" in text
    with pytest.raises(DataError, match="need model and a filler"):
        describe_fillers({"model": 1.0})


def test_table_has_the_ratio_to_the_model() -> None:
    rows = scores_table(SCORES).rows
    assert [row[2] for row in rows] == ["1.00", "4.00", "2.00"]
    assert np.isclose(float(rows[1][1]), SCORES["band_mean"])
