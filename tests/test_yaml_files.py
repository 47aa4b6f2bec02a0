import pytest

from spectralgpt.errors import ConfigError
from spectralgpt.yaml_files import check_keys, read_mapping, suggest, take_number


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
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ConfigError, match="'width' must be a number, found"):
        take_number({"width": value}, "width", "x.yaml")


def test_suggestion_keeps_the_known_spelling():
    assert suggest("b8a", ["B08", "B8A"]) == "; did you mean 'B8A'?"
    assert suggest("zzz", ["B08"]) == ""
