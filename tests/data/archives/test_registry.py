from pathlib import Path

import pytest

from spectralgpt.data.archives.registry import list_archives, load_archive
from spectralgpt.data.labelled import LabelledDataConfig
from spectralgpt.data.sources import find_root, read_source
from spectralgpt.errors import ConfigError, DatasetNotFoundError
from spectralgpt.sensors import load_sensor

PAPER = {"fmow-sentinel2", "bigearthnet-v1", "eurosat-ms", "segmunich", "oscd"}
OTHERS = {"bigearthnet-v2", "ssl4eo-s12", "major-tom", "hyspecnet-11k"}
OWN = {"folder", "csv", "masks", "images"}


def test_registry_has_the_archives_and_layouts() -> None:
    assert set(list_archives()) >= PAPER | OTHERS | OWN
    assert {n for n in list_archives() if load_archive(n).is_own} == OWN


@pytest.mark.parametrize("name", list_archives())
def test_entries_fit_what_reads_them(name: str) -> None:
    archive = load_archive(name)
    source = read_source(f"archive:{name}")
    if not archive.is_own:
        assert source.sensor is not None
        sensor = load_sensor(source.sensor)
        if source.bands and source.bands != ("sensor-order",):
            assert len({sensor.band(band) for band in source.bands}) == len(
                source.bands
            )
    known = {"pretraining", "single-label", "multi-label", "segmentation", "change"}
    assert archive.tasks
    assert set(archive.tasks) <= known
    if {"single-label", "multi-label"} & set(archive.tasks):
        LabelledDataConfig("somewhere", **archive.labels)


def test_unknown_archive_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'eurosat-ms'"):
        read_source("archive:eurosat")


def test_an_archive_lies_in_a_folder_of_its_name_or_is_the_folder(
    tmp_path: Path,
) -> None:
    source = read_source("archive:bigearthnet-v1")
    assert find_root(source, tmp_path) == tmp_path
    (tmp_path / "BigEarthNet-v1.0").mkdir()
    assert find_root(source, tmp_path) == tmp_path / "BigEarthNet-v1.0"
    (tmp_path / "bigearthnet-v1").mkdir()
    assert find_root(source, tmp_path) == tmp_path / "bigearthnet-v1"
    with pytest.raises(DatasetNotFoundError, match="BigEarthNet-S2 does not exist"):
        find_root(read_source("archive:bigearthnet-v2"), tmp_path)
