import logging
from pathlib import Path

import numpy as np
import pytest
import yaml

from spectralgpt.data.series import Series
from spectralgpt.data.sources import find_series, read_source
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.rasters import read_raster
from tests.raster_files import S2_L2A, constant, numbered, write_band_folder, write_tiff


def describe(tmp_path: Path, **keys: object) -> Path:
    path = tmp_path / "set.yaml"
    table = {"sensor": "sentinel-2-l2a", "root": "images", "offset": 0} | keys
    path.write_text(yaml.safe_dump(table))
    return path


def find(tmp_path: Path, max_bad_share: float = 0.1, **keys: object) -> list[Series]:
    source = read_source(describe(tmp_path, **keys))
    return find_series([source], tmp_path, max_bad_share)


def write_date(folder: Path, name: str, first: int = 1000, side: int = 16) -> None:
    values = [first + 100 * i for i in range(len(S2_L2A))]
    pixels = constant(values, side)
    write_tiff(folder / name, pixels, descriptions=S2_L2A)


PLACES = {"items": "*/*.tif", "place": r"^(?P<place>[^/]+)/", "series": 2}


def test_seasonal_folders_form_series_sorted_by_date(tmp_path: Path) -> None:
    names = (
        "20200813T054639_20200813T054952_T43RCP",
        "20191201T054639_x",
        "20200604T0546",
    )
    for number, place in enumerate(("0000001", "0000002")):
        for season, name in enumerate(names):
            values = numbered(S2_L2A, 1000 * number + 200 * season + 1000)
            write_band_folder(tmp_path / "images" / place / name, values)
    found = find(tmp_path, items="*/*", place=r"^(?P<place>\d+)/", series=2)
    assert [one.place for one in found] == ["set/0000001", "set/0000002"]
    for one in found:
        assert one.days == (18_231, 18_417, 18_487)
    values = [float(read_raster(item).pixels[0, 0, 0]) for item in found[1].items]
    np.testing.assert_allclose(values, [0.22, 0.24, 0.20])


def test_a_file_a_date_forms_series(tmp_path: Path) -> None:
    for place in "ab":
        for name in ("2020-06-04.tif", "2019-01-01.tif"):
            write_date(tmp_path / "images" / place, name)
    found = find(tmp_path, **PLACES)
    assert [one.days for one in found] == [(17_897, 18_417)] * 2
    assert [item.name for item in found[0].items] == [
        "set/a/2019-01-01.tif",
        "set/a/2020-06-04.tif",
    ]


@pytest.mark.parametrize("kind", ["tif", "npy"])
def test_stacked_dates_are_taken_apart_and_sorted(tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    array = np.arange(2 * 16 * 16 * 12, dtype=np.float32).reshape(2, 16, 16, 12) / 1e4
    if kind == "npy":
        np.save(images / "a.npy", array)
    else:
        layers = np.moveaxis(array, -1, 1).reshape(24, 16, 16)
        write_tiff(images / "a.tif", layers)
    (one,) = find(
        tmp_path,
        items=f"*.{kind}",
        bands=list(S2_L2A),
        offset="auto",
        unit="reflectance",
        series={"dates": 2, "stack": ["2020-06-04", "2019-01-01"]},
    )
    assert one.days == (17_897, 18_417)
    for item, date in zip(one.items, array[::-1], strict=True):
        raster = read_raster(item, item.sensor.select(S2_L2A))
        order = [S2_L2A.index(name) for name in raster.band_names]
        np.testing.assert_array_equal(raster.pixels, date.transpose(2, 0, 1)[order])


def test_stack_of_another_number_of_dates_is_explained(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", np.zeros((3, 16, 16, 12), np.float32))
    keys = {"items": "*.npy", "bands": list(S2_L2A), "unit": "reflectance"}
    rule = {"dates": 2, "stack": 2}
    with pytest.raises(DataError, match=r"has 36 layers, 24 bands were stated"):
        find(tmp_path, **keys, offset="auto", series=rule)
    with pytest.raises(ConfigError, match="'stack' needs the bands of one date"):
        find(tmp_path, items="*.npy", series=rule)


def test_images_without_a_date_are_refused_or_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in "ab":
        for name in ("2020-06-04.tif", "2019-01-01.tif", "2020-08-01.tif"):
            write_date(tmp_path / "images" / place, name)
    write_date(tmp_path / "images" / "b", "latest.tif")
    with pytest.raises(
        DataError, match=r"1 of 7 images are bad.*latest.tif has no date"
    ):
        find(tmp_path, **PLACES)
    with caplog.at_level(logging.WARNING):
        found = find(tmp_path, 0.5, **PLACES)
    assert [len(one.items) for one in found] == [3, 3]
    assert "latest.tif has no date" in caplog.text


def test_places_with_too_few_dates_or_other_sizes_are_left_out(tmp_path: Path) -> None:
    for place in "abc":
        for name in ("2020-06-04.tif", "2019-01-01.tif"):
            large = place == "b" and name.startswith("2020")
            write_date(tmp_path / "images" / place, name, side=24 if large else 16)
    (tmp_path / "images" / "c" / "2019-01-01.tif").unlink()
    with pytest.raises(DataError, match=r"2 of 3 images are bad.*24 x 24 px.*16 x 16"):
        find(tmp_path, **PLACES)
    assert [one.place for one in find(tmp_path, 0.7, **PLACES)] == ["set/a"]
    (tmp_path / "images" / "b" / "2020-06-04.tif").unlink()
    with pytest.raises(DataError, match=r"set/b has 1 date\(s\), 2 were asked for"):
        find(tmp_path, **PLACES)
    padded = PLACES | {"series": {"dates": 2, "at_least": 1}}
    assert len(find(tmp_path, **padded)) == 3


def test_description_without_series_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set has no key 'series'"):
        find(tmp_path, items="*.tif")


@pytest.mark.parametrize(
    ("name", "places", "dates"),
    [
        ("ssl4eo_s12_s2a", 1, [(18_417, 18_487)]),
        ("ssl4eo_s12_s2c", 1, [(18_417, 18_497)]),
        (
            "ravaen_worldfloods",
            2,
            [
                (17_422, 17_430, 17_447, 17_450, 17_457),
                (17_427, 17_430, 17_435, 17_447, 17_457),
            ],
        ),
        ("eolearn_testeopatch", 1, None),
    ],
)
def test_real_series_are_found_from_their_descriptions(
    shared: Path, name: str, places: int, dates: list[tuple[int, ...]] | None
) -> None:
    project = Path(__file__).resolve().parents[2]
    source = read_source(project / "examples" / "series" / f"{name}.yaml")
    found = find_series([source], shared / "data")
    assert len(found) == places
    if dates is None:
        assert len(found[0].items) == 5
        assert np.isnan(found[0].days).all()
    else:
        assert [one.days for one in found] == dates
