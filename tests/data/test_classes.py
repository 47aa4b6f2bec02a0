from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.data.classes import class_colours, to_rgb
from spectralgpt.data.dense import (
    DenseDataConfig,
    count_classes,
    find_positive,
    read_dense,
)
from spectralgpt.errors import ConfigError, DataError
from tests.dense_files import BANDS, image_of, write_sensor
from tests.raster_files import write_tiff

CODES = np.array([[3, 3, 9, 9], [3, 5, 5, 0]] * 4, np.uint8)


def config(root: Path, **options: object) -> DenseDataConfig:
    stated = {"sensor": write_sensor(root), "bands": BANDS, **options}
    return DenseDataConfig(root=str(root), **stated)  # type: ignore[arg-type]


def write(root: Path, mask: np.ndarray = CODES, **options: object) -> Path:
    write_tiff(root / "images" / "a.tif", image_of(np.zeros((8, 4), np.uint8)))
    write_tiff(root / "masks" / "a.tif", mask[None], **options)  # type: ignore[arg-type]
    return root


def test_classes_keep_their_order_and_gather_codes(tmp_path: Path) -> None:
    stated = config(write(tmp_path), classes={"high": 9, "low": [3, 5]}, ignored=(0,))
    dense = read_dense(stated, divided=False)
    assert dense.class_names == ("high", "low")
    assert count_classes(dense)[""] == {"high": 8, "low": 20}


def test_codes_that_occur_are_classes_where_none_are_stated(tmp_path: Path) -> None:
    dense = read_dense(config(write(tmp_path, nodata=0)), divided=False)
    assert dense.class_names == ("class 3", "class 5", "class 9")
    assert count_classes(dense)[""] == {"class 3": 12, "class 5": 8, "class 9": 8}


def test_masks_may_name_their_classes_themselves(tmp_path: Path) -> None:
    tags = {"CLASS_0": "water", "CLASS_3": "crops", "CLASS_5": "trees", "CLASS_9": "x"}
    dense = read_dense(config(write(tmp_path, tags=tags)), divided=False)
    assert dense.class_names == ("water", "crops", "trees", "x")
    assert dense.codes == {0: 0, 3: 1, 5: 2, 9: 3}


def test_nodata_is_no_label_unless_it_is_a_class(tmp_path: Path) -> None:
    write(tmp_path, nodata=9)
    without = read_dense(config(tmp_path, classes={"a": [0, 3], "b": 5}), divided=False)
    assert count_classes(without)[""] == {"a": 16, "b": 8}
    named = read_dense(
        config(tmp_path, classes={"a": [0, 3], "b": 5, "c": 9}), divided=False
    )
    assert count_classes(named)[""]["c"] == 8


def test_float_masks_hold_whole_codes_or_are_refused(tmp_path: Path) -> None:
    codes = CODES.astype(np.float32)
    codes[0, 0] = np.nan
    classes = {"a": 0, "b": [3, 5, 9]}
    dense = read_dense(config(write(tmp_path, codes), classes=classes), divided=False)
    assert count_classes(dense)[""] == {"a": 4, "b": 27}
    codes[0, 0] = 2.5
    dense = read_dense(config(write(tmp_path, codes), classes=classes), divided=False)
    with pytest.raises(OSError, match=r"holds fractions such as 2.5"):
        count_classes(dense)


def test_a_models_classes_are_matched_by_name(tmp_path: Path) -> None:
    stated = config(write(tmp_path), classes={"b": 3, "a": [0, 5, 9]})
    dense = read_dense(stated, class_names=("a", "b", "c"), divided=False)
    assert dense.class_names == ("a", "b", "c")
    assert count_classes(dense)[""] == {"a": 20, "b": 12, "c": 0}
    with pytest.raises(DataError, match="has classes b that are not among a, c"):
        read_dense(stated, class_names=("a", "c"), divided=False)


def test_contradictions_in_the_table_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match="code 3 is b and a"):
        read_dense(config(tmp_path, classes={"a": [3, 5], "b": 3}), divided=False)
    with pytest.raises(ConfigError, match="code 3 is a and ignored"):
        read_dense(config(tmp_path, classes={"a": 3}, ignored=(3,)), divided=False)
    with pytest.raises(ConfigError, match="colours are given for a; the classes are"):
        read_dense(
            config(tmp_path, classes={"b": 3}, colours={"a": "#000000"}), divided=False
        )
    with pytest.raises(ConfigError, match=r"must be like '#1b7837'"):
        config(tmp_path, colours={"a": "green"})


def test_masks_without_any_label_are_refused(tmp_path: Path) -> None:
    write(tmp_path, np.zeros_like(CODES), nodata=0)
    with pytest.raises(DataError, match="hold no label"):
        read_dense(config(tmp_path), divided=False)


def test_another_layer_of_the_mask_may_hold_the_codes(tmp_path: Path) -> None:
    write(tmp_path)
    two = np.stack([np.full_like(CODES, 77), CODES])
    write_tiff(tmp_path / "masks" / "a.tif", two)
    stated = config(tmp_path, classes={"a": [0, 3], "b": [5, 9]}, mask_index=2)
    assert count_classes(read_dense(stated, divided=False))[""] == {"a": 16, "b": 16}
    with pytest.raises(OSError, match="has 2 layers, number 3 was asked for"):
        read_dense(config(tmp_path, classes={"a": 0}, mask_index=3), divided=False)


@pytest.mark.parametrize(
    "pair",
    [
        ("changed", "unchanged"),
        ("road", "Background"),
        ("water", "no water"),
        ("burnt", "unburnt"),
        ("damage", "No_Change"),
        ("cloud", "non-cloud"),
        ("building", "other"),
    ],
)
def test_scores_are_about_a_class_by_its_name_and_never_by_order(
    pair: tuple[str, str],
) -> None:
    for names in (pair, pair[::-1]):
        for task in ("segmentation", "change"):
            assert find_positive(names, task) == pair[0]
        # What is stated goes first.
        assert find_positive(names, "segmentation", pair[1]) == pair[1]
        assert find_positive(names, "segmentation", "all") is None


@pytest.mark.parametrize(
    "names",
    [("land", "water"), ("unchanged", "no change"), ("class 0", "class 1")],
)
def test_names_that_do_not_tell_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"cannot be told.*data\.positive"):
        find_positive(names, "segmentation")
    with pytest.raises(ConfigError, match=r"data\.positive is 'sea'"):
        find_positive(names, "segmentation", "sea")


def test_more_than_two_classes_count_alike_unless_one_is_stated() -> None:
    names = ("water", "forest", "other")
    assert find_positive(names, "segmentation") is None
    assert find_positive(names, "segmentation", "forest") == "forest"
    assert find_positive(("no change", "changed", "same"), "change") == "changed"
    assert find_positive(("built", "felled", "unchanged"), "change") is None


def test_colours_are_stated_or_the_masks_or_follow_the_names(tmp_path: Path) -> None:
    classes = {"water": 0, "land": 3, "mud": [5, 9]}
    dense = read_dense(config(write(tmp_path), classes=classes), divided=False)
    by_name = tuple(class_colours(tuple(classes)).values())
    assert dense.colours == by_name
    some = config(tmp_path, classes=classes, colours={"land": "#123456"})
    assert read_dense(some, divided=False).colours == tuple(
        class_colours(tuple(classes), {"land": "#123456"}).values()
    )
    with rasterio.open(tmp_path / "masks" / "a.tif", "r+") as mask:
        mask.write_colormap(1, {0: (1, 2, 3, 255), 3: (250, 0, 1, 255)})
    found = read_dense(config(tmp_path, classes=classes), divided=False).colours
    assert found is not None
    assert found[:2] == ("#010203", "#fa0001")


# Linear RGB to what people without one kind of cone see.
# Source: Machado, Oliveira & Fernandes 2009, severity 1.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def lab(colours: Sequence[str], seen: np.ndarray) -> np.ndarray:
    rgb = np.array([to_rgb(colour) for colour in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.transpose(seen), 0, 1) @ np.transpose(XYZ)
    share = xyz / [0.9505, 1.0, 1.089]
    f = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_twenty_classes_are_told_apart_by_everyone(blindness: str) -> None:
    colours = list(class_colours([f"class {i}" for i in range(20)]).values())
    seen = lab(colours, np.asarray(BLINDNESS[blindness]))
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)
    np.fill_diagonal(apart, np.inf)
    # No closer than the closest of the eight that Okabe and Ito chose.
    assert apart.min() > 15.0


COVERS = (
    *("open water", "lake", "river", "wetland", "snow", "cloud", "shadow", "building"),
    *("road", "bridge", "rock", "barren", "lawn", "meadow", "forest", "orchard"),
    *("vineyard", "wheat", "maize", "a"),
)


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("count", [8, 20])
def test_colours_that_fit_the_names_are_told_apart_too(
    count: int, blindness: str
) -> None:
    names = COVERS[:: 20 // count][:count]
    colours = list(class_colours(names).values())
    seen = lab(colours, np.asarray(BLINDNESS[blindness]))
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 6.0


def test_a_hundred_classes_have_a_hundred_colours() -> None:
    assert len(set(class_colours([f"class {i}" for i in range(100)]).values())) == 100
