"""Scenes and labels become tiles: to the pixel, apart, and readable."""

import csv
import fnmatch
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from shapely import Polygon, unary_union

from spectralgpt.data.dense import (
    DenseDataset,
    count_classes,
    find_faults,
    read_dense,
    read_dense_config,
)
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.labelling import (
    UNLABELLED,
    LabelSource,
    TileRules,
    make_labelled_set,
)
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    RasterError,
    SpectralGPTError,
)
from spectralgpt.preprocessing import BandStatistics
from spectralgpt.rasters import Stated, Window, describe_raster, read_raster
from tests.dense_files import contract, image_of, write_sensor
from tests.label_files import (
    BANDS,
    SENSOR,
    halves,
    pixel_box,
    write_labels,
    write_scene,
)
from tests.raster_files import LEFT, TOP, write_tiff

FORMAT = ImageFormat(sensor=SENSOR, offset=0.0)
RULES = TileRules(tile_px=16, block_m=320.0, gap_m=40.0)


def make(
    tmp_path: Path, labels: LabelSource, rules: TileRules = RULES, **options: Any
) -> Any:
    scenes = options.pop("scenes", None) or [write_scene(tmp_path / "scene.tif")]
    stated = options.pop("image_format", FORMAT)
    return make_labelled_set(scenes, stated, labels, rules, tmp_path / "out", **options)


def halves_of(tmp_path: Path) -> LabelSource:
    return LabelSource(write_labels(tmp_path / "a.gpkg", *halves()), "cover")


def mosaic(folder: Path, side: int = 96) -> np.ndarray:
    """Masks of all tiles put back where they lie; 254 where there is none."""
    whole = np.full((side, side), 254, np.uint8)
    for path in folder.glob("*/masks/*.tif"):
        with rasterio.open(path) as file:
            column, row = (file.bounds.left - LEFT) / 10, (TOP - file.bounds.top) / 10
            assert column == int(column)
            assert row == int(row)
            part = whole[int(row) : int(row) + 16, int(column) : int(column) + 16]
            assert (part == 254).all()
            part[:] = file.read(1)
    return whole


def test_masks_line_up_with_polygons_to_the_pixel(tmp_path: Path) -> None:
    # Edges at pixels that are no edges of tiles, and one that crosses their centres.
    shapes = [
        pixel_box(0, 0, 96, 96),
        pixel_box(5, 9, 41, 77),
        # Less than half of the pixels along each edge.
        pixel_box(60, 30, 70, 50).buffer(4.9, join_style="mitre"),
    ]
    path = write_labels(tmp_path / "a.gpkg", ["field", "wood", "lake"], shapes)
    made = make(tmp_path, LabelSource(path, "cover"))
    wanted = np.zeros((96, 96), np.uint8)
    wanted[5:41, 9:77] = 2
    wanted[60:70, 30:50] = 1
    found = mosaic(made.folder)
    seen = found != 254
    # Five tiles fit beside two gaps of four pixels.
    assert seen.sum() == (5 * 16) ** 2
    assert np.array_equal(found[seen], wanted[seen])
    overlapping = 36 * 68 + 10 * 20
    assert made.notes[0] == (
        f"{overlapping} pixels lie in polygons of different classes; they have the "
        "class of the later one."
    )
    # Two tiles hold some of the lake: they cannot be in three splits.
    assert all(" holds no pixel of lake." in note for note in made.notes[1:])


def test_tiles_read_back_as_the_scene_in_the_same_place(tmp_path: Path) -> None:
    made = make(tmp_path, halves_of(tmp_path))
    scene = describe_raster(tmp_path / "scene.tif", SENSOR, Stated(offset=0.0))
    images = sorted(made.folder.glob("*/images/*.tif"))
    assert len(images) == 25
    for path in images:
        row, column = (int(part[1:]) for part in path.stem.split("_")[-2:])
        tile = read_raster(describe_raster(path))
        window = read_raster(scene, window=Window(row, column, 16, 16))
        assert np.array_equal(tile.pixels, window.pixels)
        assert np.array_equal(tile.valid, window.valid)
        assert tile.bands == window.bands
        assert (tile.transform, tile.crs) == (window.transform, window.crs)
        with rasterio.open(path.parent.parent / "masks" / path.name) as mask:
            assert mask.transform == tile.transform
            assert mask.crs.to_string() == tile.crs
            assert mask.tags()["CLASS_1"] == "water"
            assert mask.colormap(1)[1] == (0, 114, 178, 255)


def test_croissant_says_what_is_in_the_folder(tmp_path: Path) -> None:
    """By the specification: https://docs.mlcommons.org/croissant/, version 1.0."""
    made = make(tmp_path, halves_of(tmp_path), licence="CC-BY-4.0")
    table = json.loads((made.folder / "croissant.json").read_text(encoding="utf-8"))
    assert table["@type"] == "sc:Dataset"
    assert table["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert table["@context"]["cr"] == "http://mlcommons.org/croissant/"
    assert (table["name"], table["license"]) == ("out", "CC-BY-4.0")
    assert "25 tiles of 16 x 16 px" in table["description"]
    kinds = {each["@id"]: each["@type"] for each in table["distribution"]}
    assert list(kinds.values()).count("cr:FileSet") == 2
    columns = {}
    for each in table["distribution"]:
        if each["@type"] == "cr:FileObject":
            content = (made.folder / each["contentUrl"]).read_bytes()
            assert each["sha256"] == hashlib.sha256(content).hexdigest()
            assert each["contentSize"] == f"{len(content)} B"
            columns[each["@id"]] = content.decode().splitlines()[0].split(",")
    assert set(columns) == {
        *("classes.csv", "tiles.csv", "labels.yaml", "statistics.json")
    }
    everything = [
        path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*.tif")
    ]
    for part in table["distribution"][-2:]:
        matched = fnmatch.filter(everything, part["includes"])
        assert len(matched) == 25
        assert all(f"/{part['@id']}/" in path for path in matched)
    assert [each["@id"] for each in table["recordSet"]] == ["classes", "tiles"]
    for records in table["recordSet"]:
        fields = {field["@id"]: field for field in records["field"]}
        assert records["key"]["@id"] in fields
        for field in fields.values():
            source = field["source"]
            where = source["fileObject"]["@id"]
            assert source["extract"]["column"] in columns[where]
            assert field["@id"] == f"{records['@id']}/{source['extract']['column']}"
    # Who does not say the licence has none in it.
    unlicensed = make(tmp_path, halves_of(tmp_path), overwrite=True)
    text = (unlicensed.folder / "croissant.json").read_text(encoding="utf-8")
    assert "license" not in json.loads(text)


def test_the_table_of_tiles_has_each_once_with_its_checksums(tmp_path: Path) -> None:
    made = make(tmp_path, halves_of(tmp_path))
    with (made.folder / "tiles.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    dense = read_dense(read_dense_config(made.folder / "labels.yaml"))
    assert sorted((row["split"], row["place"]) for row in rows) == sorted(
        (sample.split, sample.place) for sample in dense.samples
    )
    for part in ("image", "mask"):
        files = sorted(made.folder.glob(f"*/{part}s/*.tif"))
        assert sorted(made.folder / row[part] for row in rows) == files
        for row in rows:
            content = (made.folder / row[part]).read_bytes()
            assert row[f"{part}_sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(("tile_px", "gap_m"), [(8, 0.0), (8, 130.0), (12, 95.0)])
def test_splits_share_no_ground_and_keep_their_gap(
    tmp_path: Path, tile_px: int, gap_m: float
) -> None:
    rules = TileRules(tile_px=tile_px, block_m=2.0 * 10 * tile_px, gap_m=gap_m)
    made = make(tmp_path, halves_of(tmp_path), rules)
    grounds = {}
    for split in ("train", "val", "test"):
        boxes = []
        for path in made.folder.glob(f"{split}/images/*.tif"):
            with rasterio.open(path) as file:
                b = file.bounds
            boxes.append(
                Polygon([(b[0], b[1]), (b[2], b[1]), (b[2], b[3]), (b[0], b[3])])
            )
        grounds[split] = unary_union(boxes)
        assert grounds[split].area == pytest.approx(sum(box.area for box in boxes))
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert grounds[one].intersection(grounds[other]).area == 0
        assert grounds[one].distance(grounds[other]) >= gap_m


def test_the_set_is_read_by_what_fine_tuning_reads(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "a.gpkg", *halves())
    made = make(tmp_path, LabelSource(path, "cover"), licence="CC-BY-4.0")
    dense = read_dense(read_dense_config(made.folder / "labels.yaml"))
    assert dense.class_names == ("trees", "water")
    assert dense.colours == ("#009E73", "#0072B2")
    assert find_faults(dense) == ()
    assert {chip.place for chip in dense.samples} == {f"block{n:04d}" for n in range(9)}
    counts = count_classes(dense)
    with (made.folder / "classes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for split, table in counts.items():
            assert int(row[f"{split}_pixels"]) == table[row["name"]]
    assert sum(float(row["val_share"]) for row in rows) == pytest.approx(1, abs=1e-3)
    statistics = json.loads((made.folder / "statistics.json").read_text())
    low, high = statistics.pop("min"), statistics.pop("max")
    measured = BandStatistics(**statistics)
    for band in BANDS:
        assert 0.1 <= low[band] <= measured.low[band] <= measured.mean[band]
        assert measured.mean[band] <= measured.high[band] <= high[band] < 0.25
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    for text in ("CC-BY-4.0", "EPSG:32632", "--block-m 320.0", "column `cover`"):
        assert text in card
    assert {path.name for path in made.folder.iterdir()} == {
        *("train", "val", "test", "labels.yaml", "classes.csv", "statistics.json"),
        *("README.md", "tiles.csv", "croissant.json"),
    }


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp"])
def test_labels_in_degrees_give_the_same_masks(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, halves_of(tmp_path))
    wanted = mosaic(tmp_path / "out")
    labels = write_labels(tmp_path / f"b.{suffix}", *halves(), crs="EPSG:4326")
    make(tmp_path, LabelSource(labels, "cover"), overwrite=True)
    assert np.array_equal(mosaic(tmp_path / "out"), wanted)


def test_a_raster_of_codes_gives_the_same_masks(tmp_path: Path) -> None:
    make(tmp_path, halves_of(tmp_path))
    wanted = mosaic(tmp_path / "out")
    # Twice as coarse, beginning elsewhere, and with codes of its own.
    codes = np.full((1, 60, 60), 7, np.int16)
    codes[:, 29:] = 3
    path = write_tiff(
        tmp_path / "codes.tif",
        codes,
        res=20.0,
        corner=(LEFT - 100, TOP + 100),
        nodata=-1,
        tags={"CLASS_7": "water", "CLASS_3": "trees"},
    )
    make(tmp_path, LabelSource(path), overwrite=True)
    assert np.array_equal(mosaic(tmp_path / "out"), wanted)


def test_pixels_without_label_are_no_class_unless_one_is_named(tmp_path: Path) -> None:
    shapes = [
        pixel_box(0, 0, 40, 96),
        pixel_box(0, 90, 96, 96),
        pixel_box(30, 0, 35, 50),
    ]
    path = write_labels(tmp_path / "a.gpkg", ["wood", None, "cloud"], shapes)
    labels = LabelSource(path, "cover", ignored=("cloud",))
    rules = TileRules(tile_px=16, block_m=160.0, gap_m=0.0, min_labelled=0.1)
    made = make(tmp_path, labels, rules)
    found = mosaic(made.folder)
    assert (found[:30, :80] == 0).all()
    # What is ignored hides what lies below it.
    assert (found[30:35, :50] == UNLABELLED).all()
    assert (found[40:48, :80] == UNLABELLED).all()
    assert (found[48:] == 254).all()
    assert (found[:40, 90:] == UNLABELLED).all()
    assert made.notes == ("1 shapes name no class: what they cover is no label.",)
    labels = LabelSource(path, "cover", ignored=("cloud",), background="open")
    found = mosaic(make(tmp_path, labels, rules, overwrite=True).folder)
    assert (found[40:, :90] == 1).all()
    assert (found[30:35, :50] == UNLABELLED).all()


def test_tiles_without_valid_pixels_are_left_out(tmp_path: Path) -> None:
    pixels = np.full((4, 96, 96), 1500, np.uint16)
    pixels[:, :20] = 0
    pixels[0, 40:] = 0
    scene = write_tiff(tmp_path / "s.tif", pixels, descriptions=BANDS, nodata=0)
    labels = halves_of(tmp_path)
    rules = TileRules(tile_px=16, block_m=160.0, gap_m=0.0, min_labelled=0.7)
    made = make(tmp_path, labels, rules, scenes=[scene])
    found = mosaic(made.folder)
    assert (found[:16] == 254).all()
    assert (found[16:20] == UNLABELLED).all()
    # One band alone does not take the label away.
    assert (found[40:48] == 1).all()
    assert made.notes == ("6 tiles were left out: too little of them is valid.",)


def test_shapes_that_cross_themselves_are_mended(tmp_path: Path) -> None:
    bow = Polygon(
        [(LEFT, TOP), (LEFT + 960, TOP - 960), (LEFT + 960, TOP), (LEFT, TOP - 960)]
    )
    shapes = [pixel_box(0, 0, 96, 96), bow, Polygon()]
    path = write_labels(tmp_path / "a.geojson", ["a", "b", "a"], shapes)
    made = make(tmp_path, LabelSource(path, "cover"))
    assert "1 shapes crossed themselves and were mended." in made.notes
    found = mosaic(made.folder)
    assert found[48, 2] == found[48, 86] == 1
    assert found[2, 48] == found[86, 48] == 0


def test_bands_of_several_resolutions_share_the_finest_grid(tmp_path: Path) -> None:
    folder = tmp_path / "S2A_MSIL2A_20200813T000000_N0214_R000_T32TPT_20200813T000000"
    for band, res, side in (("B02", 10.0, 96), ("B05", 20.0, 48), ("B01", 60.0, 16)):
        numbers = np.arange(1, side * side + 1, dtype=np.uint16).reshape(1, side, side)
        write_tiff(folder / f"{band}.tif", numbers, res=res)
    made = make(
        tmp_path,
        halves_of(tmp_path),
        TileRules(tile_px=12),
        scenes=[folder],
        image_format=ImageFormat(),
    )
    scene = describe_raster(folder)
    path = next(made.folder.glob("train/images/*.tif"))
    row, column = (int(part[1:]) for part in path.stem.split("_")[-2:])
    tile = read_raster(describe_raster(path))
    window = read_raster(scene, window=Window(row, column, 12, 12))
    assert tile.band_names == ("B01", "B02", "B05")
    assert np.array_equal(tile.pixels, window.pixels)
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "2020-08-13" in card
    # Four pixels of the coarsest band.
    assert "at least 240 m apart" in card


def test_scenes_of_other_pixels_are_kept_apart_on_the_ground(tmp_path: Path) -> None:
    first = write_scene(tmp_path / "a.tif")
    # The same ground again on later pixels, and once more between them.
    again = write_scene(tmp_path / "b.tif", corner=(LEFT + 160, TOP))
    between = write_scene(tmp_path / "c.tif", corner=(LEFT + 5, TOP - 5))
    labels = halves_of(tmp_path)
    rules = TileRules(tile_px=8, block_m=240.0, gap_m=20.0)
    made = make(tmp_path, labels, rules, scenes=[first, again, between])
    assert any("in a scene of other pixels" in note for note in made.notes)
    places: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for path in made.folder.glob("*/images/*.tif"):
        with rasterio.open(path) as file:
            b = file.bounds
        box = Polygon([(b[0], b[1]), (b[2], b[1]), (b[2], b[3]), (b[0], b[3])])
        places[path.parent.parent.name].append(box)
    grounds = {split: unary_union(boxes) for split, boxes in places.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert grounds[one].distance(grounds[other]) >= 20 - 0.01


def test_a_sensor_of_ones_own_travels_with_the_set(tmp_path: Path) -> None:
    sensor = write_sensor(tmp_path)
    mask = np.zeros((96, 96), np.uint8)
    scene = write_tiff(tmp_path / "s.tif", image_of(mask), res=10.0)
    labels = halves_of(tmp_path)
    names = ("violet", "blue", "green", "red", "edge", "near", "far")
    stated = ImageFormat(sensor=sensor, bands=names)
    made = make(tmp_path, labels, scenes=[scene], image_format=stated)
    Path(sensor).unlink()
    dense = read_dense(read_dense_config(made.folder / "labels.yaml"))
    copy = str(made.folder / "camera.yaml")
    windows = DenseDataset(dense.select("train"), contract(copy, image_size=16))
    assert windows[0]["image"].shape == (7, 16, 16)


@pytest.mark.parametrize(
    ("labels", "rules", "error", "message"),
    [
        ({"class_column": "class"}, {}, ConfigError, r"no column 'class'.*: cover\)"),
        ({"class_column": None}, {}, ConfigError, r"which column .*: cover\)"),
        ({"layer": "b"}, {}, ConfigError, "has the layers a: name one"),
        (
            {"labels": Path("no.gpkg")},
            {},
            DatasetNotFoundError,
            "no layer of labels at",
        ),
        ({}, {"tile_px": 97}, DataError, "no scene holds a tile of 97 x 97 px"),
        ({}, {"tile_px": 60}, DataError, "too few for the 3 splits train, val, test"),
        (
            {},
            {"block_m": 960.0, "tile_px": 8},
            DataError,
            r"block_m 960 gives 1 blocks .* block_m \d+ would work, with",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(
    labels: dict[str, Any],
    rules: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    given = write_labels(tmp_path / "a.gpkg", *halves())
    source = LabelSource(**({"labels": given, "class_column": "cover"} | labels))
    scene = write_scene(tmp_path / "scene.tif")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        make(tmp_path, source, TileRules(**({"gap_m": 0.0} | rules)), scenes=[scene])
    assert sorted(tmp_path.iterdir()) == before


def test_the_block_size_that_is_advised_works(tmp_path: Path) -> None:
    labels = halves_of(tmp_path)
    with pytest.raises(DataError) as caught:
        make(tmp_path, labels, TileRules(tile_px=8, block_m=900.0, gap_m=30.0))
    advised = float(str(caught.value).split("block_m ")[2].split()[0])
    made = make(tmp_path, labels, TileRules(tile_px=8, block_m=advised, gap_m=30.0))
    assert set(made.splits) == {"train", "val", "test"}


def test_labels_that_lie_elsewhere_or_nowhere_are_refused(tmp_path: Path) -> None:
    far = [pixel_box(5000, 5000, 5100, 5100)]
    path = write_labels(tmp_path / "far.gpkg", ["a"], far)
    with pytest.raises(DataError, match=r"none of the 1 shapes .* lies on a scene"):
        make(tmp_path, LabelSource(path, "cover"))
    path = write_labels(tmp_path / "nowhere.shp", *halves())
    path.with_suffix(".prj").unlink()
    with pytest.raises(DataError, match="no reference system"):
        make(tmp_path, LabelSource(path, "cover"))
    broken = tmp_path / "broken.gpkg"
    broken.write_bytes((tmp_path / "far.gpkg").read_bytes()[:700])
    with pytest.raises(DataError, match=r"broken\.gpkg cannot be read"):
        make(tmp_path, LabelSource(broken, "cover"))
    codes = np.ones((1, 9, 9), np.uint8)
    elsewhere = write_tiff(tmp_path / "e.tif", codes, corner=(LEFT - 9000, TOP))
    with pytest.raises(DataError, match="has no label on any scene"):
        make(tmp_path, LabelSource(elsewhere))
    with pytest.raises(ConfigError, match="is read as a raster"):
        make(tmp_path, LabelSource(elsewhere, "cover"))


def test_scenes_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    labels = halves_of(tmp_path)
    nowhere = write_scene(tmp_path / "nowhere.tif", crs=None)
    with pytest.raises(RasterError, match="has no georeference"):
        make(tmp_path, labels, scenes=[nowhere])
    with pytest.raises(DatasetNotFoundError, match="no scene at"):
        make(tmp_path, labels, scenes=[tmp_path / "no.tif"])
    two = np.full((2, 96, 96), 1500, np.uint16)
    other = write_tiff(tmp_path / "other.tif", two, descriptions=BANDS[:2])
    scene = write_scene(tmp_path / "scene.tif")
    with pytest.raises(DataError, match="have different bands"):
        make(tmp_path, labels, scenes=[scene, other])


def test_only_a_labelled_set_is_overwritten(tmp_path: Path) -> None:
    labels = halves_of(tmp_path)
    make(tmp_path, labels)
    with pytest.raises(ConfigError, match="replace it with --overwrite"):
        make(tmp_path, labels)
    make(tmp_path, labels, overwrite=True)
    (tmp_path / "out" / "labels.yaml").unlink()
    with pytest.raises(ConfigError, match=r"no labelled set .*replaces it"):
        make(tmp_path, labels, overwrite=True)


def test_a_set_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    labels = halves_of(tmp_path)
    make(tmp_path, labels)
    before = sorted(path for path in tmp_path.rglob("*"))

    def fail(*_: object) -> None:
        raise SpectralGPTError("no picture")

    with pytest.raises(SpectralGPTError, match="no picture"):
        make(tmp_path, labels, overwrite=True, draw=fail)
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "wrong", [{"tile_px": 0}, {"min_labelled": 0.0}, {"block_m": 0.0}, {"gap_m": -1.0}]
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TileRules(**wrong)
