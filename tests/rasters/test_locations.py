from pathlib import Path

import pytest

from spectralgpt.errors import RasterError
from spectralgpt.rasters import glob_folder, list_folder, path_below, walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Data in two folders, litter of several programs, and data behind links."""
    inside, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in (
        "a/1.tif",
        "b/2.tif",
        ".ipynb_checkpoints/1-checkpoint.tif",
        "a/.ipynb_checkpoints/1-checkpoint.tif",
        "a/._1.tif",
        "__MACOSX/a/1.tif",
        "b/@eaDir/2.tif",
    ):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).touch()
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "3.tif").touch()
    (inside / "c").symlink_to(elsewhere)
    (elsewhere / "deep" / "again").symlink_to(inside)
    return inside


def names(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths if path.is_file()]


def test_litter_is_no_data_and_links_are_followed_once(root: Path) -> None:
    assert names(root, walk(root)) == ["a/1.tif", "b/2.tif", "c/deep/3.tif"]
    assert [path.name for path in list_folder(root)] == ["a", "b", "c"]
    assert names(root, glob_folder(root, "*/*.tif")) == ["a/1.tif", "b/2.tif"]
    assert "c/deep/3.tif" in names(root, glob_folder(root, "**/*.tif"))
    # What is named is meant.
    assert len(glob_folder(root, ".ipynb_checkpoints/*.tif")) == 1


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="nowhere cannot be read: No such file"):
        list_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    ["../x.tif", "a/../../x.tif", "/etc/passwd", "..", ".", "", "a\0b", "..\\x.tif"],
)
def test_no_written_path_leads_out(root: Path, text: str) -> None:
    assert path_below(root, text) is None


def test_links_and_whole_paths_below_the_folder_stay(root: Path) -> None:
    assert path_below(root, "c/deep/3.tif") == root / "c/deep/3.tif"
    assert path_below(root, f"{root}/a/1.tif") == root / "a/1.tif"
    assert path_below(root, "a/../b/2.tif") == root / "b/2.tif"
