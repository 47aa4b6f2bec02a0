from pathlib import Path

import numpy as np
import pytest

from spectralgpt.cli.main import main
from tests.product_files import write_safe, zip_folder


def safe(folder: Path) -> Path:
    numbers = np.random.default_rng(0).integers(2000, 5000, (24, 24))
    numbers[:12] = 0
    return write_safe(folder, {"B02": numbers, "B04": numbers})


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_product_says_all_that_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_zip: bool
) -> None:
    path = safe(tmp_path)
    if is_zip:
        path = zip_folder(path, tmp_path / "p.zip")
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    for line in (
        "sensor: sentinel-2-l2a",
        "date: 2024-02-23",
        "reflectance: (DN + -1000) / 10000 (MTD_MSIL2A.xml, baseline 05.11)",
        "size: 24 x 24 px, 2 bands",
        "EPSG:32632, 10 x 10 m a pixel, corner at 500000, 4000000",
        "nodata: 50.0% of the pixels",
        "bands not there: B01, B03",
    ):
        assert line in printed


def test_an_area_is_a_rectangle_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(safe(tmp_path))
    area = ["--bounds", "500020,3999900,500070,3999980", "--bounds_crs", "EPSG:32632"]
    assert main(["info", path, *area]) == 0
    printed = capsys.readouterr().out
    assert "size: 8 x 5 px" in printed
    assert "corner at 500020, 3999980" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bounds", "1,2,3"], "write minx,miny,maxx,maxy"),
        (["--bounds", "0,0,1,1"], "shows the area"),
        (["--bounds", "-3.7,40.3,-3.6,40.4"], "shows the area"),
        (["--bounds=-3.7,-.3,-3.6,40.4"], "shows the area"),
        (["--bounds", "-3.7,40.3,-3.6"], "write minx,miny,maxx,maxy"),
        (["--bounds", "1,1,0,0"], "are empty"),
        (["--bounds", "0,0,1,1", "--bounds_crs", "EPSG:0"], "no reference system"),
        (["--area", "none.geojson"], "none.geojson cannot be read: No such file"),
        (["--bounds", "0,0,1,1", "--area", "a.geojson"], "not both"),
    ],
)
def test_a_wrong_area_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main(["info", str(safe(tmp_path)), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_sensor_of_ones_own_is_said_with_its_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "camera.yaml"
    band = "{name: red, wavelength_nm: 660, width_nm: 20, gsd_m: 0.5}"
    path.write_text(
        "title: Camera\nquantification: 5000\noffset: -10\nnodata: 7\nsaturated: null\n"
        f"source: its maker\nbands:\n  - {band}\n"
    )
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    for wanted in ("Camera", "660", "/ 5000, offset -10", "nodata: 7", "its maker"):
        assert wanted in said
    assert main(["info", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml does not exist" in capsys.readouterr().err
    assert main(["info", "sentinel-2-l2a"]) == 0
    said = capsys.readouterr().out
    assert "offset -1000 from processing baseline 04.00 on, 0 before" in said
