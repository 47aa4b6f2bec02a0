"""Curves come from metrics.csv as runs write it."""

from pathlib import Path

import pytest

from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.reports.curves import describe_divergence, plot_curves, read_metrics

METRICS = """step,epoch,loss,lr,val_loss
1,0.5,2.0,0.1,
2,1.0,1.0,0.2,
2,1.0,,,1.5
"""


def write(folder: Path, text: str = METRICS) -> Path:
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
