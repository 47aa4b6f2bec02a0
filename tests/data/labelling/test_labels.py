import colorsys
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.data.bigearthnet import _CORINE_CODES
from spectralgpt.data.classes import class_colours, to_rgb
from spectralgpt.data.dense.entries import _SEGMUNICH_CLASSES
from spectralgpt.data.labelling import UNLABELLED, LabelSource, labels
from spectralgpt.errors import ConfigError, DataError

FOUND = {"water": 3, "pine": 1, "oak": 2, "cloud": 1, "": 1}


def stated(tmp_path: Path, text: str, **options: object) -> LabelSource:
    path = tmp_path / "classes.yaml"
    path.write_text(text, encoding="utf-8")
    return LabelSource(Path("labels.gpkg"), "cover", path, **options)  # type: ignore


def test_each_value_is_a_class_unless_a_file_says_otherwise() -> None:
    classes = labels._number_classes(
        FOUND, LabelSource(Path("a"), ignored=("cloud",)), {}
    )
    assert classes.names == ("oak", "pine", "water")
    assert classes.code_of["water"] == 2
    assert classes.code_of["cloud"] == classes.code_of[""] == UNLABELLED
    assert classes.fill == UNLABELLED


def test_numbers_are_sorted_by_size_and_named() -> None:
    found = {"10": 1, "9": 1, "-1": 1}
    classes = labels._number_classes(
        found, LabelSource(Path("a")), {"9": "lake", "10": "lake"}
    )
    assert classes.names == ("class -1", "lake")
    assert classes.code_of["9"] == classes.code_of["10"] == 1


def test_a_file_puts_values_together_and_a_background_comes_last(
    tmp_path: Path,
) -> None:
    text = "water: water\nforest: [pine, oak]\nice: 7\n"
    source = stated(tmp_path, text, ignored=("cloud",), background="other")
    classes = labels._number_classes(FOUND, source, {})
    assert classes.names == ("water", "forest", "ice", "other")
    assert classes.code_of["pine"] == classes.code_of["oak"] == 1
    assert classes.fill == 3
    assert classes.unseen == ("ice",)
    json = stated(tmp_path, '{"wet": ["water"], "dry": ["pine", "oak", "cloud"]}')
    assert labels._number_classes(FOUND, json, {}).names == ("wet", "dry")
    same = stated(tmp_path, "a: [water, pine, oak, cloud]", background="a")
    assert labels._number_classes(FOUND, same, {}).fill == 0


def test_corine_has_the_classes_of_segmunich() -> None:
    corine = LabelSource(Path("clc.gpkg"), "Code_18", Path("corine"))
    found = {"111": 3, "211": 2, "243": 1, "312": 1, "423": 1, "523": 1}
    classes = labels._number_classes(found, corine, {})
    assert classes.names == tuple(_SEGMUNICH_CLASSES)
    assert [classes.code_of[value] for value in found] == [11, 1, 0, 4, 8, 5]
    levels = {value for value in classes.code_of if value and value != "999"}
    assert levels == {str(code) for code in _CORINE_CODES - {0, 999}}
    # Second-level codes of the published masks go where their third level does.
    for name, codes in _SEGMUNICH_CLASSES.items():
        for code in codes[1:] if isinstance(codes, list) else ():
            below = {value for value in levels if value.startswith(str(code))}
            assert {classes.names[classes.code_of[value]] for value in below} == {name}
    # The map of grid codes, 1 to 44, is another thing.
    with pytest.raises(DataError, match="2 values are in no class of corine"):
        labels._number_classes({"12": 1, "23": 1}, corine, {})
    wrong = LabelSource(Path("clc.gpkg"), "Code_18", Path("corin"))
    with pytest.raises(ConfigError, match="Did you mean 'corine'"):
        labels._number_classes(found, wrong, {})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "forest: [oak]",
            DataError,
            r"3 values .*: cloud \(1\), pine \(1\), water \(3",
        ),
        ("a: [oak]\nb: [oak, pine]", ConfigError, "value 'oak' is b and a"),
        ("a: {b: c}", ConfigError, "class 'a' needs a value or a list"),
        ("3: water", ConfigError, "must hold keys with values"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        labels._number_classes(FOUND, stated(tmp_path, text), {})


def test_too_many_classes_are_refused() -> None:
    found = {str(number): 1 for number in range(256)}
    with pytest.raises(DataError, match="gives 256 classes: masks hold 1 to 255"):
        labels._number_classes(found, LabelSource(Path("a")), {})
    with pytest.raises(DataError, match="gives 0 classes"):
        labels._number_classes({"": 3}, LabelSource(Path("a")), {})


def test_values_are_texts_and_whole_numbers_are_alike() -> None:
    assert (
        labels._value_text(3.0)
        == labels._value_text(3)
        == labels._value_text(" 3")
        == "3"
    )
    assert labels._value_text(None) == labels._value_text(float("nan")) == ""
    assert labels._value_text(2.5) == "2.5"


def test_colours_differ() -> None:
    for count in (1, 8, 9, 60):
        colours = class_colours([f"class {number}" for number in range(count)])
        assert len(set(colours.values())) == count
        assert all(0 <= part <= 255 for c in colours.values() for part in to_rgb(c))
    assert to_rgb("#0072B2") == (0, 114, 178)


def hue(colour: str) -> str:
    """What a reader calls a colour."""
    parts = [part / 255 for part in to_rgb(colour)]
    turn, lightness, saturation = colorsys.rgb_to_hls(*parts)
    if lightness < 0.2:
        return "dark"
    if lightness > 0.9 or saturation < 0.15:
        return "white" if lightness > 0.9 else "grey"
    names = ("red", "brown", "yellow", "green", "blue", "red")
    ends = (0.05, 0.115, 0.17, 0.47, 0.72, 1.0)
    return next(name for name, end in zip(names, ends, strict=True) if turn <= end)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Forest", "green"),
        ("broad-leaved trees", "green"),
        ("deep water", "blue"),
        ("SeaLake", "blue"),
        ("sea ice", "white"),
        ("snow", "white"),
        ("built-up", "red"),
        ("Urban fabric", "red"),
        ("AnnualCrop", "yellow"),
        ("rice paddy", "yellow"),
        ("bare soil", "brown"),
        ("land", "brown"),
        ("burnt", "dark"),
        ("unburnt", "grey"),
        ("no water", "grey"),
        ("background", "grey"),
        ("cloud", "grey"),
    ],
)
def test_covers_get_the_colours_that_readers_expect(name: str, wanted: str) -> None:
    for names in ([name], ["something", name, "else"], [name, "class 1", "class 2"]):
        assert hue(class_colours(names)[name]) == wanted


@pytest.mark.parametrize("word", ["police", "broad", "season", "thousand"])
def test_words_inside_of_others_are_no_covers(word: str) -> None:
    assert class_colours([word])[word] == class_colours(["something"])["something"]


def test_colours_of_a_set_are_told_apart() -> None:
    sets = [
        ["Forest", "deep water", "water", "other"],
        ["tree", "shrub", "grass", "crop", "built", "bare", "snow", "water", "wetland",
         "mangrove", "moss"],
        ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
         "Pasture", "PermanentCrop", "Residential", "River", "SeaLake"],
    ]  # fmt: skip
    for names in sets:
        colours = class_colours(names)
        assert list(colours) == names
        rgb = np.array([to_rgb(colour) for colour in colours.values()], float)
        apart = np.abs(rgb[:, None] - rgb).sum(axis=-1)
        assert apart[~np.eye(len(names), dtype=bool)].min() > 50


def test_stated_colours_stay_and_others_keep_away() -> None:
    colours = class_colours(["water", "land"], {"land": "#0072B2"})
    assert colours["land"] == "#0072B2"
    assert hue(colours["water"]) == "blue"
    assert colours["water"] != colours["land"]
