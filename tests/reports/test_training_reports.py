"""A run's report and curves tell what the run's files hold."""

import json
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.reports.style import new_figure
from spectralgpt.reports.training_reports import (
    describe_divergence,
    describe_fillers,
    plot_curves,
    read_metrics,
    write_pretraining_report,
)

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
    assert "The model&#39;s error is 50% below that of the best filler" in page
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
    text, _ = describe_fillers(SCORES | {"model": 0.03})
    assert "does not beat" in text
    assert "1.50 times" in text
    with pytest.raises(DataError, match="need model and a filler"):
        describe_fillers({"model": 1.0})


def test_table_has_the_ratio_to_the_model() -> None:
    _, rows = describe_fillers(SCORES)
    assert [row[2] for row in rows] == ["1.00", "4.00", "2.00"]
    assert np.isclose(float(rows[1][1]), SCORES["band_mean"])


CURVES = """step,epoch,loss,lr,val_loss
1,0.5,2.0,0.1,
2,1.0,1.0,0.2,
2,1.0,,,1.5
"""


def write(folder: Path, text: str = CURVES) -> Path:
    path = folder / "metrics.csv"
    path.write_text(text)
    return path


def test_empty_cells_are_left_out(tmp_path: Path) -> None:
    assert read_metrics(write(tmp_path)) == {
        "loss": ([1, 2], [2.0, 1.0]),
        "lr": ([1, 2], [0.1, 0.2]),
        "val_loss": ([2], [1.5]),
    }


def test_training_and_validation_share_a_panel(tmp_path: Path) -> None:
    figure = plot_curves(write(tmp_path))
    by_title = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert set(by_title) == {"loss", "learning rate"}
    drawn = {
        line.get_label(): list(line.get_ydata()) for line in by_title["loss"].lines
    }
    assert drawn == {"training": [2.0, 1.0], "validation": [1.5]}
    assert by_title["loss"].get_xlabel() == "optimizer step"


def test_wide_ranges_get_a_log_scale_and_narrow_ones_do_not(tmp_path: Path) -> None:
    rows = "\n".join(f"{step},0,{10.0 / step},{1 + step / 10}" for step in range(1, 9))
    figure = plot_curves(write(tmp_path, f"step,epoch,loss,lr\n{rows}\n"))
    scales = {axes.get_title(loc="left"): axes.get_yscale() for axes in figure.axes}
    assert scales == {"loss": "log", "learning rate": "linear"}


def test_chosen_panels_come_in_the_order_asked(tmp_path: Path) -> None:
    figure = plot_curves(write(tmp_path), ["lr", "loss", "absent"])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["learning rate", "loss"]


def test_files_that_are_no_metrics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        read_metrics(tmp_path / "metrics.csv")
    with pytest.raises(DataError, match="line 2"):
        read_metrics(write(tmp_path, "step,loss\n1,high\n"))
    with pytest.raises(DataError, match="no metrics to draw"):
        plot_curves(write(tmp_path), ["absent"])


def test_a_single_step_has_a_tick_of_its_own(tmp_path: Path) -> None:
    figure = plot_curves(write(tmp_path, "step,loss,images_per_s\n3,2.0,15.5\n"))
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert set(panels) == {"loss", "images/s"}
    for axes in panels.values():
        assert list(axes.get_xticks()) == [3]
        assert axes.get_ylim()[0] == 0


def test_steps_are_whole_numbers(tmp_path: Path) -> None:
    figure = plot_curves(write(tmp_path), ["loss"])
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def told_of(*losses: float, name: str = "loss") -> str:
    return describe_divergence({name: (list(range(len(losses))), list(losses))})


def test_a_loss_that_ends_far_above_its_best_is_told(tmp_path: Path) -> None:
    falling = [2.0 / (1 + step) for step in range(40)]
    assert told_of(*falling) == ""
    assert told_of(*falling, 0.1) == "", "a single step scatters"
    # Back where it began: what it had learned is gone.
    assert "0.052 at its best and 1.9 at the end" in told_of(*falling, *[1.9] * 8)
    assert "1.1 at the first step" in told_of(1.1, 900.0, 700.0)
    assert told_of(1.1, 1.2, 1.0) == ""
    # The sets of a mixture differ in level; each is compared with its own beginning.
    mixed = {"loss": ([1, 2], [0.01, 5.0]), "loss_s1": ([2], [5.0])}
    assert describe_divergence({**mixed, "loss_s2": ([1], [0.01])}) == ""
    assert "loss s1 was 1 at" in told_of(1.0, 99.0, name="loss_s1")
    assert describe_divergence(tmp_path / "metrics.csv") == "", "there is no file"
