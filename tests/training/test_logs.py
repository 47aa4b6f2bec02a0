import logging
import warnings
from pathlib import Path

import pytest
from lightning.fabric.utilities.warnings import PossibleUserWarning

from spectralgpt.training.logs import MetricsTable, quiet_lightning, read_metrics


def test_numbers_read_back_bit_for_bit(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    value = 0.1 + 0.2
    table.log_metrics({"epoch": 0.5, "loss": value}, 1)
    (row,) = read_metrics(table.path)
    assert float(row["loss"]) == value
    assert row["step"] == "1"


def test_later_columns_join_the_row_of_their_step(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"epoch": 0.5, "loss": 2.0}, 1)
    table.log_metrics({"epoch": 1.0, "loss": 1.0}, 2)
    table.log_metrics({"epoch": 1.0, "val_masked_error": 0.25}, 2)
    table.log_metrics({"epoch": 1.5, "loss": 0.5}, 3)
    rows = read_metrics(table.path)
    assert [row["loss"] for row in rows] == ["2.0", "1.0", "0.5"]
    assert [row["val_masked_error"] for row in rows] == ["", "0.25", ""]
    assert list(rows[0]) == ["step", "epoch", "loss", "val_masked_error"]


def test_resume_removes_the_rows_that_will_be_written_again(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    for step in range(1, 6):
        table.log_metrics({"epoch": step / 5, "loss": float(step)}, step)
    resumed = MetricsTable(table.path, first_step=3)
    resumed.log_metrics({"epoch": 0.8, "loss": 40.0}, 4)
    rows = read_metrics(table.path)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[-1]["loss"] == "40.0"


def test_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,loss\n1,0.5,2.0\n2,1.0,1.2345")
    assert [row["step"] for row in read_metrics(path)] == ["1"]


def test_lightnings_hints_are_hidden_inside_the_block_only() -> None:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    before = list(warnings.filters)
    with quiet_lightning():
        warnings.warn("few workers", PossibleUserWarning, stacklevel=1)
        assert not logger.isEnabledFor(logging.INFO)
    assert logger.level == level
    assert warnings.filters == before


def test_warnings_of_real_trouble_pass() -> None:
    with quiet_lightning(), pytest.warns(RuntimeWarning, match="overflow"):
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
