import pytest

from spectralgpt.data.listings import Index, Selection, list_candidates
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.sensors import load_sensor
from tests.raster_files import constant, write_tiff

SENSOR = load_sensor("sentinel-2-l2a")


def names(root, items="*.tif", index=None, exclude=(), keep=None, pattern=None):
    found = list_candidates(root, SENSOR, items, index, exclude, keep, pattern)
    return [candidate.name for candidate in found]


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def test_glob_is_sorted_and_exclusions_leave(tmp_path):
    touch(tmp_path, "b.tif", "a.tif", "c_mask.tif")
    assert names(tmp_path, exclude=["*_mask.tif"]) == ["a.tif", "b.tif"]


@pytest.mark.parametrize("items", ["../*.tif", "/etc/*"])
def test_glob_stays_under_the_root(tmp_path, items):
    with pytest.raises(ConfigError, match="must be a glob under"):
        names(tmp_path, items)


def test_training_places_are_those_with_a_training_mask(tmp_path):
    touch(tmp_path, "2019/geo_1.tif", "2020/geo_1.tif", "2020/geo_11.tif")
    touch(tmp_path, "masks/train/mask_1.tif", "masks/test/mask_11.tif")
    keep = Selection(
        item=r"geo_(?P<id>\d+)", files="masks/train/*", id=r"mask_(?P<id>\d+)"
    )
    assert names(tmp_path, "20*/*.tif", keep=keep) == [
        "2019/geo_1.tif",
        "2020/geo_1.tif",
    ]


@pytest.mark.parametrize(
    ("file", "text", "column"),
    [("ids.txt", "a\n\nc\n", None), ("ids.csv", "id,n\na,1\nc,2\n", "id")],
)
def test_ids_come_from_text_or_a_column(tmp_path, file, text, column):
    touch(tmp_path, "a.tif", "b.tif", "c.tif")
    (tmp_path / file).write_text(text)
    keep = Selection(item=r"^(?P<id>\w+)\.tif", list=file, column=column)
    assert names(tmp_path, keep=keep) == ["a.tif", "c.tif"]


def test_empty_list_of_ids_is_refused(tmp_path):
    keep = Selection(item="(?P<id>.)", files="masks/*")
    with pytest.raises(DataError, match=r"no id to keep in .*masks"):
        names(tmp_path, keep=keep)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_index_lists_paths_under_the_root(tmp_path, suffix):
    import pandas

    table = pandas.DataFrame({"path": ["b/2.tif", "a/1.tif"], "label": [1, 2]})
    index = tmp_path / f"index.{suffix}"
    table.to_csv(index) if suffix == "csv" else table.to_parquet(index)
    assert names(tmp_path, index=Index(index.name)) == ["a/1.tif", "b/2.tif"]


@pytest.mark.parametrize(
    "path",
    [
        "../outside.tif",
        "a/../../outside.tif",
        "/vsicurl/http://127.0.0.1/x.tif",
        "/etc/hostname",
        "https://example.org/x.tif",
        "..\\outside.tif",
    ],
)
def test_index_cannot_lead_out_of_the_root(tmp_path, path):
    (tmp_path / "index.csv").write_text(f"path\n{path}\n")
    with pytest.raises(DataError, match=r"index\.csv names"):
        names(tmp_path, index=Index("index.csv"))


def test_absolute_paths_need_permission_and_a_real_file(tmp_path):
    real = write_tiff(tmp_path / "far" / "a.tif", constant([1]))
    (tmp_path / "index.csv").write_text(f"path\n{real}\n")
    index = Index("index.csv", allow_absolute=True)
    (found,) = list_candidates(tmp_path, SENSOR, index=index)
    assert found.path == real
    (tmp_path / "index.csv").write_text("path\n/vsicurl/http://127.0.0.1/x.tif\n")
    with pytest.raises(DataError, match="absolute path '/vsicurl"):
        names(tmp_path, index=index)


def test_missing_column_names_the_nearest(tmp_path):
    (tmp_path / "index.csv").write_text("paths,b\n1,2\n")
    with pytest.raises(DataError, match=r"no column 'path'; did you mean 'paths'\?"):
        names(tmp_path, index=Index("index.csv"))


def test_broken_index_is_one_line(tmp_path):
    (tmp_path / "index.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as Parquet") as caught:
        names(tmp_path, index=Index("index.parquet"))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        names(tmp_path, index=Index("gone.csv"))


def test_pattern_groups_files_of_one_folder_into_images(tmp_path):
    touch(tmp_path, "x/one_B02.tif", "x/one_B03.tif", "x/two_B02.tif", "x/odd.tif")
    pattern = r"(?P<item>\w+)_(?P<band>B\d\d)\.tif"
    found = list_candidates(tmp_path, SENSOR, "*/*.tif", pattern=pattern)
    assert {c.name: [m.name for m in c.members] for c in found} == {
        "x/one": ["one_B02.tif", "one_B03.tif"],
        "x/two": ["two_B02.tif"],
    }
