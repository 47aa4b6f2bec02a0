"""The demo from end to end, on a small budget."""

import re
from pathlib import Path

import pytest

from spectralgpt.checkpoints import load_model
from spectralgpt.cli.main import main
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import Stated
from tests.demo.test_imagery import write_image

MINUTES = 0.02  # So little that the least number of epochs is run.


def check_page(page: str) -> None:
    assert not re.findall(r"<script|<link|https?://[^ <]*\.(?:js|css|png)", page)
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert all(source.startswith(("data:image/png", "#")) for source in sources)
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower().split()


@pytest.mark.slow
def test_demo_runs_from_shipped_imagery_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    assert main(["demo", "--output", str(output), "--minutes", str(MINUTES)]) == 0
    printed = capsys.readouterr()
    report = output / "report.html"
    assert printed.out.splitlines()[-1] == str(report)
    assert all(f"[{number}/6]" in printed.err for number in range(1, 7))
    page = report.read_text()
    check_page(page)
    # Scene, curves, three crops, spectra, embeddings, clusters, confusion, classes.
    assert page.count("<figure>") == 10
    for title in ("Pretraining", "Clusters", "Are the embeddings any good?"):
        assert f"{title}</h2>" in page
    assert "mean and range over 5 seeds" in page
    loaded = load_model(output / "pretraining")
    assert loaded.preprocessing is not None
    assert len(loaded.preprocessing.bands) == 12
    assert main(["demo", "--output", str(output)]) == 1
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_demo_runs_on_own_imagery_and_says_that_labels_lack(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    names = ["B2", "B3", "B4", "B5", "B6"]
    for number in range(12):
        write_image(folder / f"{number}.tif", "landsat-8-9-l2", names, 72)
    arguments = ["demo", "--output", str(tmp_path / "out"), "--data", str(folder)]
    arguments += ["--sensor", "landsat-8-9-l2", "--minutes", str(MINUTES)]
    assert main(arguments) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    check_page(page)
    assert "There are no labels for this imagery" in page
    assert "NDVI" in page
    assert "Are the embeddings any good?" not in page


def test_budget_and_sensor_are_checked(tmp_path: Path) -> None:
    from spectralgpt.demo.run import run_demo

    with pytest.raises(ConfigError, match="above 0"):
        run_demo(tmp_path, minutes=0)
    with pytest.raises(ConfigError, match="only together with data"):
        run_demo(tmp_path, stated=Stated(sensor="sentinel-2-l2a"))
    assert not list(tmp_path.iterdir())
