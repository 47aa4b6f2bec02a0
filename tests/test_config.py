"""Plain values become configurations, or one line says what is wrong with them."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from spectralgpt.config import (
    build_config,
    check_keys,
    read_mapping,
    suggest,
    take_number,
)
from spectralgpt.data.labelled import LabelledDataConfig
from spectralgpt.errors import ConfigError
from spectralgpt.training.finetuning import FinetuneConfig


def test_a_setting_without_default_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match=r"start x, data: key 'root' is missing"):
        build_config({"layout": "csv"}, LabelledDataConfig, "start x, data")


def test_an_unknown_setting_lists_each_known_one_once() -> None:
    with pytest.raises(ConfigError, match="unknown key 'rot'") as caught:
        build_config({"rot": "here"}, LabelledDataConfig, "data")
    known = str(caught.value).rpartition("known: ")[2].rstrip(").").split(", ")
    assert "root" in known
    assert len(known) == len(set(known))


def test_a_section_keeps_what_the_configuration_around_it_gives_the_rest() -> None:
    settings = {
        "model": "tiny",
        "data": {"root": "somewhere"},
        "optimizer": {"base_lr": "1e-3"},
        "trainer": {"epochs": 7},
    }
    usual = FinetuneConfig(model="tiny", data=LabelledDataConfig(root="somewhere"))
    assert usual.optimizer.layer_decay == 0.75
    found = build_config(settings, FinetuneConfig, "start x")
    assert found.optimizer == replace(usual.optimizer, base_lr=1e-3)
    assert found.trainer == replace(usual.trainer, epochs=7)


@pytest.mark.parametrize("value", [True, "fast", 10**400, [1.0]])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="'gap_m' must be a number, found"):
        build_config({"root": "x", "gap_m": value}, LabelledDataConfig, "data")


def test_unknown_key_names_file_key_and_nearest_known():
    with pytest.raises(
        ConfigError, match=r"x\.yaml: unknown key 'ofset'; did you mean"
    ):
        check_keys({"ofset": 1}, "x.yaml", optional=("offset", "unit"))


def test_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"x\.yaml: key 'bands' is missing"):
        check_keys({}, "x.yaml", required=("bands",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1\n- 2", "must hold keys with values, found list"),
        ("1: 2", "must hold keys with values"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_content_that_is_no_mapping_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_mapping(path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml does not exist"):
        read_mapping(tmp_path / "gone.yaml")


@pytest.mark.parametrize("value", [True, "12", None, [1]])
def test_a_key_without_a_number_is_refused(value):
    with pytest.raises(ConfigError, match="'width' must be a number, found"):
        take_number({"width": value}, "width", "x.yaml")


def test_suggestion_keeps_the_known_spelling():
    assert suggest("b8a", ["B08", "B8A"]) == "; did you mean 'B8A'?"
    assert suggest("zzz", ["B08"]) == ""


BOMB = "\n".join(
    [
        "a0: &a0 [lol, lol]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)),
    ]
)
CHAIN = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 600))])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "aliases stand for"),
        (BOMB + "\nm: {<<: [*a29, *a29]}", "aliases stand for"),
        (CHAIN, "nested deeper than 50"),
        ("a: &a [*a]", r"\*a stands for itself"),
        ("a: *nothing", r"\*nothing stands for itself or for nothing"),
        ("a: " + "[" * 10_000, "nest"),
        ("a: " + "{b: " * 10_000, "nest"),
        ("- " * 10_000, "nest|not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML.*digits"),
        ("a: 2024-13-45", "not valid YAML.*month"),
        ("a: 0000-01-01", "not valid YAML.*year"),
        ("a: !!int x", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: !!bool x", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("? [b]\n: c", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: " + "x" * 2_000_000, "at most 1,048,576"),
    ],
)
def test_hostile_text_is_one_short_error_at_once(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text, encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=says) as caught:
        read_mapping(path)
    assert time.monotonic() - began < 5
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_aliases_and_merges_of_ordinary_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.yaml"
    path.write_text(
        "base: &base {a: 1, b: [1, 2]}\nfirst: {<<: *base, a: 2}\nsecond: *base\n"
    )
    assert read_mapping(path)["first"] == {"a": 2, "b": [1, 2]}
    assert read_mapping(path)["second"] == {"a": 1, "b": [1, 2]}


def test_byte_order_mark_and_foreign_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffname: x\n".encode())
    assert read_mapping(path) == {"name": "x"}
    path.write_bytes(b"name: \xe9t\xe9\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_mapping(path)
