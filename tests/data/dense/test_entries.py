from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil

from spectralgpt.data.dense import (
    DenseDataConfig,
    DenseDataset,
    count_classes,
    find_faults,
    read_dense,
)
from spectralgpt.data.statistics import sample_statistics
from spectralgpt.errors import (
    BandError,
    ConfigError,
    DataError,
    DatasetNotFoundError,
    RasterError,
)
from tests.dense_files import (
    BANDS,
    blobs,
    contract,
    image_of,
    write_pair,
    write_sensor,
    write_set,
)
from tests.raster_files import LEFT, TOP, write_band_folder, write_tiff

CLASSES: dict[str, int | list[int]] = {"ground": 0, "roof": 1}


def config(root: Path, **options: object) -> DenseDataConfig:
    stated = {
        "sensor": write_sensor(root.parent),
        "bands": BANDS,
        "classes": CLASSES,
        **options,
    }
    return DenseDataConfig(root=str(root), **stated)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = {f"p{number}": (24, 24) for number in range(10)}
    return write_set(tmp_path / "set", names)


def test_images_are_matched_with_masks_by_name(root: Path) -> None:
    dense = read_dense(config(root), divided=False)
    assert [Path(c.item.name).stem for c in dense.samples] == sorted(
        f"p{n}" for n in range(10)
    )
    assert all(Path(c.item.name).stem == c.mask.path.stem for c in dense.samples)
    assert all(c.mask.path.parent.name == "masks" for c in dense.samples)
    assert dense.class_names == ("ground", "roof")
    assert dense.samples[0].item.sensor.title == "A camera of our own"


def test_split_folders_are_kept_and_may_repeat_names(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_set(tmp_path / "set" / split, {"a": (16, 16), "b": (16, 16)})
    dense = read_dense(config(tmp_path / "set"))
    assert len(dense.samples) == 6
    assert {Path(c.item.name).parts[-3] for c in dense.select("val").samples} == {"val"}
    assert {c.mask.path.parts[-3] for c in dense.select("val").samples} == {"val"}


def test_splits_may_lie_below_images_and_masks(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_pair(
            tmp_path / "set",
            split,
            blobs(16, 16, 0),
            images=f"images/{split}",
            masks=f"masks/{split}",
        )
    dense = read_dense(config(tmp_path / "set"), divided=False)
    assert [(c.place, c.split) for c in dense.samples] == [
        ("test", "test"),
        ("train", "train"),
    ]


def test_a_split_table_gives_splits_by_place(root: Path) -> None:
    rows = [
        f"p{n},{'test' if n > 7 else 'val' if n > 5 else 'train'}" for n in range(10)
    ]
    (root / "splits.csv").write_text(
        "place,split\n" + "\n".join(rows), encoding="utf-8"
    )
    dense = read_dense(config(root, split_table="splits.csv"))
    assert dense.select("test").places == ("p8", "p9")
    (root / "splits.csv").write_text("place,split\np1,train\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"9 images have no row \(p0, p2"):
        read_dense(config(root, split_table="splits.csv"))


def test_patterns_find_place_split_and_date(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("one", "two"):
        mask = blobs(16, 16, 1)
        for year in (2020, 2019):
            path = root / f"s2 {year}" / f"img_{name}.tif"
            write_tiff(path, image_of(mask + (year == 2019)))
        split = "train" if name == "one" else "test"
        write_tiff(root / "cm" / split / f"{name}_mask.tif", mask[None])
    dense = read_dense(
        config(
            root,
            task="change",
            images=r"s2 (?P<date>\d+)/img_(?P<place>\w+)\.tif",
            masks=r"cm/(?P<split>\w+)/(?P<place>\w+)_mask\.tif",
        ),
        divided=False,
    )
    assert [(c.place, c.split) for c in dense.samples] == [
        ("one", "train"),
        ("two", "test"),
    ]
    before, after = dense.samples[0].items
    assert "2019" in before.name
    assert "2020" in after.name


def test_three_dates_of_a_place_are_refused_with_the_dates(tmp_path: Path) -> None:
    for year in (2018, 2019, 2020):
        write_tiff(tmp_path / f"{year}" / "a.tif", image_of(blobs(8, 8, 0)))
    write_tiff(tmp_path / "masks" / "a.tif", blobs(8, 8, 0)[None])
    images = r"(?P<date>\d+)/(?P<place>\w+)\.tif"
    with pytest.raises(DataError, match=r"a \(2018, 2019, 2020\).*Narrow the pattern"):
        read_dense(config(tmp_path, task="change", images=images), divided=False)


def test_dates_of_a_place_share_its_mask_and_its_split(tmp_path: Path) -> None:
    for place in ("a", "b", "c"):
        for year in (2018, 2019):
            write_tiff(tmp_path / f"{year}" / f"{place}.tif", image_of(blobs(8, 8, 0)))
        write_tiff(tmp_path / "masks" / f"{place}.tif", blobs(8, 8, 0)[None])
    dense = read_dense(
        config(
            tmp_path,
            images=r"(?P<date>\d+)/(?P<place>\w+)\.tif",
            masks=r"masks/(?P<place>\w+)\.tif",
        )
    )
    assert len(dense.samples) == 6
    splits = {place: set() for place in "abc"}
    for chip in dense.samples:
        splits[chip.place].add(chip.split)
        assert chip.mask.path.stem == chip.place
    assert sorted(map(len, splits.values())) == [1, 1, 1]


def test_a_folder_of_band_files_is_one_image(tmp_path: Path) -> None:
    for name in ("a", "b.c"):
        values = {band: 1000 + 10 * i for i, band in enumerate(BANDS)}
        write_band_folder(tmp_path / "images" / name, values, name="x_{band}.tif")
        write_tiff(tmp_path / "masks" / f"{name}.tif", blobs(16, 16, 0)[None])
    dense = read_dense(config(tmp_path, bands=None), divided=False)
    assert [c.place for c in dense.samples] == ["a", "b.c"]
    assert len(dense.samples[0].item.bands) == 7


def test_pictures_serve_as_masks(tmp_path: Path) -> None:
    mask = blobs(16, 16, 0) * np.uint8(255)
    write_tiff(tmp_path / "images" / "a.tif", image_of(mask // 255))
    source = write_tiff(tmp_path / "a.tif", mask[None])
    (tmp_path / "masks").mkdir()
    for driver, suffix in (("PNG", "png"), ("BMP", "bmp")):
        path = tmp_path / "masks" / f"a.{suffix}"
        rasterio.shutil.copy(source, path, driver=driver)
        (tmp_path / "masks" / f"a.{suffix}.aux.xml").unlink(missing_ok=True)
        stated = config(tmp_path, classes={"no": 0, "yes": 255})
        counts = count_classes(read_dense(stated, divided=False))[""]
        assert counts == {"no": int((mask == 0).sum()), "yes": int((mask > 0).sum())}
        path.unlink()


def test_each_class_may_have_a_mask_of_its_own(tmp_path: Path) -> None:
    water = np.zeros((16, 16), np.uint8)
    water[:4], forest = 255, np.zeros((16, 16), np.uint8)
    forest[8:] = 1
    write_tiff(tmp_path / "images" / "a.tif", image_of(water // 255))
    write_tiff(tmp_path / "m" / "a_water.tif", water[None])
    write_tiff(tmp_path / "m" / "a_forest.tif", forest[None])
    patterns = {
        "water": r"m/(?P<place>\w)_water\.tif",
        "forest": r"m/(?P<place>\w)_forest\.tif",
    }
    images = r"images/(?P<place>\w)\.tif"
    stated = config(tmp_path, images=images, class_masks=patterns, classes=None)
    assert count_classes(read_dense(stated, divided=False))[""] == {
        "water": 64,
        "forest": 128,
    }
    forest[3] = 1
    write_tiff(tmp_path / "m" / "a_forest.tif", forest[None])
    with pytest.raises(DataError, match="16 pixels belong to another class too"):
        count_classes(read_dense(stated, divided=False))


# Faults.


def test_an_image_without_a_mask_is_named_or_left_out(root: Path) -> None:
    (root / "masks" / "p3.tif").unlink()
    with pytest.raises(DataError, match=r"1 with image but no mask \(p3\)"):
        read_dense(config(root), divided=False)
    assert (
        "p3"
        not in read_dense(config(root, allow_unlabelled=True), divided=False).places
    )


def test_a_mask_without_an_image_is_named(root: Path) -> None:
    (root / "images" / "p3.tif").unlink()
    for allow in (False, True):
        with pytest.raises(DataError, match=r"1 with mask but no image \(p3\)"):
            read_dense(config(root, allow_unlabelled=allow), divided=False)


def test_an_image_without_its_second_date_is_named(tmp_path: Path) -> None:
    for folder in ("before", "after"):
        write_set(tmp_path / folder, {"a": (8, 8), "b": (8, 8)})
    (tmp_path / "after" / "images" / "b.tif").unlink()
    stated = config(
        tmp_path,
        task="change",
        before="before/images",
        after="after/images",
        masks="after/masks",
    )
    with pytest.raises(
        DataError, match=r"1 with image before but no image after \(b\)"
    ):
        read_dense(stated, divided=False)


def test_a_mask_of_another_size_is_refused(root: Path) -> None:
    write_tiff(root / "masks" / "p3.tif", blobs(23, 24, 0)[None], crs=None, res=1)
    with pytest.raises(RasterError, match=r"p3.tif.*24 x 24 px, the mask 23 x 24"):
        read_dense(config(root), divided=False)


def test_a_mask_of_another_place_is_refused(root: Path) -> None:
    write_tiff(
        root / "masks" / "p3.tif", blobs(24, 24, 0)[None], corner=(LEFT, TOP), res=5.0
    )
    with pytest.raises(RasterError, match=r"p3.tif does not fit.*the mask ends"):
        read_dense(config(root), divided=False)
    assert read_dense(config(root, align="shape"), divided=False).samples


def test_dates_on_other_grids_are_refused(tmp_path: Path) -> None:
    mask = blobs(16, 16, 0)
    write_tiff(tmp_path / "before" / "a.tif", image_of(mask), res=10.0)
    write_tiff(tmp_path / "after" / "a.tif", image_of(blobs(32, 32, 0)), res=5.0)
    write_tiff(tmp_path / "masks" / "a.tif", mask[None], res=10.0)
    with pytest.raises(RasterError, match="differ in size: 16 x 16 px against"):
        read_dense(config(tmp_path, task="change"), divided=False)


def test_a_missing_band_is_refused_by_name(tmp_path: Path) -> None:
    values = {band: 1000 for band in BANDS if band != "edge"}
    write_band_folder(tmp_path / "images" / "a", values)
    write_tiff(tmp_path / "masks" / "a.tif", blobs(16, 16, 0)[None])
    with pytest.raises(BandError, match="no file named after band edge"):
        read_dense(config(tmp_path), divided=False)
    six = image_of(blobs(16, 16, 0), bands=6)
    write_tiff(tmp_path / "set" / "images" / "a.tif", six)
    write_tiff(tmp_path / "set" / "masks" / "a.tif", blobs(16, 16, 0)[None])
    with pytest.raises(BandError, match="has 6 layers, 7 bands were stated"):
        read_dense(config(tmp_path / "set"), divided=False)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_truncated_file_is_found(root: Path, part: str) -> None:
    path = root / part / "p3.tif"
    # A copy begins with its header, so that what is cut off are pixels.
    rasterio.shutil.copy(path, root / "copy.tif", driver="COG", compress="none")
    content = (root / "copy.tif").read_bytes()
    path.write_bytes(content[:-200])
    (root / "copy.tif").unlink()
    faults = find_faults(read_dense(config(root), divided=False))
    assert len(faults) == 1
    assert f"{part}/p3.tif cannot be read as a raster" in faults[0]


def test_a_file_that_is_no_raster_is_refused(root: Path) -> None:
    (root / "masks" / "p3.tif").write_text("not a raster", encoding="utf-8")
    with pytest.raises(RasterError, match=r"p3.tif cannot be read as a raster"):
        read_dense(config(root), divided=False)


def test_an_unknown_code_is_refused_by_name_unless_ignored(root: Path) -> None:
    mask = blobs(24, 24, 3)
    mask[0, :5] = 7
    write_pair(root, "p3", mask)
    with pytest.raises(
        DataError, match=r"p3.tif holds unknown class codes 7 \(5 px\); known: 0 ground"
    ):
        count_classes(read_dense(config(root), divided=False))
    counts = count_classes(read_dense(config(root, ignored=(7,)), divided=False))[""]
    assert sum(counts.values()) == 10 * 24 * 24 - 5


def test_folders_that_are_not_there_are_named(root: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"no folder .*labels \(data.masks\)"
    ):
        read_dense(config(root, masks="labels"), divided=False)
    with pytest.raises(DatasetNotFoundError, match=r"There is no folder .*nowhere"):
        read_dense(config(root.parent / "nowhere"), divided=False)
    with pytest.raises(ConfigError, match="must be a folder under root"):
        read_dense(config(root, masks="../masks"), divided=False)
    with pytest.raises(ConfigError, match="needs a group"):
        read_dense(config(root, images=r"images/(?P<name>\w+)\.tif"), divided=False)


def test_two_files_for_one_place_are_refused(root: Path) -> None:
    write_tiff(root / "masks" / "p3.jp2.tif", blobs(24, 24, 0)[None])
    (root / "masks" / "p3.jp2.tif").rename(root / "masks" / "p3.tiff")
    with pytest.raises(DataError, match="two files are the mask of 'p3'"):
        read_dense(config(root), divided=False)


def test_splits_go_by_any_of_their_names_and_litter_by_none(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number, split in enumerate(("training", "validation", "Test")):
        write_pair(root / split, f"p{number}", blobs(8, 8, number))
    for litter in ("training/images/.ipynb_checkpoints", "training/masks/__MACOSX"):
        (root / litter).mkdir()
    (root / "training/images/._p0.tif").write_bytes(b"\0\5\26\7")
    (root / "training/masks/._p0.tif").write_bytes(b"\0\5\26\7")
    dense = read_dense(config(root))
    assert [len(dense.select(s).samples) for s in ("train", "val", "test")] == [1] * 3
    stated = config(
        root,
        images=r"(?P<split>\w+)/images/(?P<place>.+)\.tif",
        masks=r"(?P<split>\w+)/masks/(?P<place>.+)\.tif",
    )
    assert len(read_dense(stated).select("val").samples) == 1


def write_shifted(root: Path, shifts: dict[str, tuple[float, float]]) -> Path:
    """Pairs of which the second date lies (rows, columns) of its pixels lower, right.

    Both dates show one ground, whose first band tells the mask.
    """
    for number, (name, (rows, columns)) in enumerate(shifts.items()):
        ground = blobs(40, 40, number)
        corner = (LEFT + 2000.0 * number, TOP)
        top, left = int(rows), int(columns)
        seen = ground[top : top + 24, left : left + 24]
        after = (corner[0] + 5.0 * columns, corner[1] - 5.0 * rows)
        for folder, mask, at in (("before", ground[:24, :24], corner),
                                 ("after", seen, after)):  # fmt: skip
            write_tiff(
                root / folder / f"{name}.tif", image_of(mask), corner=at, res=5.0
            )
        path = root / "masks" / f"{name}.tif"
        write_tiff(path, ground[None], corner=corner, res=5.0)
    return root


def test_dates_that_lie_whole_pixels_apart_are_read_where_both_show_ground(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shifts = {"a": (0, 0), "b": (3, 0), "c": (2, 5), "d": (0, 7)}
    root = write_shifted(tmp_path / "set", shifts)
    dense = read_dense(config(root, task="change"), divided=False)
    assert [c.item.shape() for c in dense.samples] == [
        (24, 24), (21, 24), (22, 19), (24, 17)
    ]  # fmt: skip
    assert "the dates of 3 places lie whole pixels apart" in caplog.text
    dataset = DenseDataset(dense, contract(write_sensor(tmp_path)))
    for number in range(4):
        patch = dataset.patch(number)
        before, after = (raster.pixels[0] for raster in patch.rasters)
        np.testing.assert_array_equal(before, after)
        np.testing.assert_allclose(before, (patch.target + 1) / 10, rtol=1e-5)
    band = dataset.preprocessing.bands[0]
    assert sample_statistics(dense, [band]).mean["violet"] < 0.21
    assert find_faults(dense) == ()


def test_dates_that_lie_parts_of_a_pixel_apart_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_shifted(tmp_path / "set", {"a": (0, 0), "b": (0, 0.3)})
    dense = read_dense(config(root, task="change"), divided=False)
    assert [c.item.shape() for c in dense.samples] == [(24, 24)] * 2
    assert "the dates of 1 places lie parts of a pixel apart" in caplog.text


def test_every_pair_that_does_not_fit_is_named(tmp_path: Path) -> None:
    shifts = {"a": (0, 0), "b": (3.7, 0), "c": (0, 0), "d": (0, 4.6), "e": (1, 1)}
    root = write_shifted(tmp_path / "set", shifts)
    with pytest.raises(DataError, match=r"2 of 5 places are bad \(b, d\), the first: "):
        read_dense(config(root, task="change"), divided=False)
