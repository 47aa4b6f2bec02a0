import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectralgpt.data.sources import find_items, read_source
from spectralgpt.errors import ConfigError
from spectralgpt.rasters import describe_raster, read_raster
from spectralgpt.simulation import SimulationConfig, simulate_archive
from spectralgpt.simulation.canvas import Cover

SPLITS = ("train", "val", "test")
ALL = ("multilabel", "segmentation", "change", "scenes")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SimulationConfig(tasks=ALL, images=6, image_size=24, cloudy_share=0.5)
    return simulate_archive(tmp_path_factory.mktemp("made") / "archive", config)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def region_of(path: Path) -> str:
    with rasterio.open(path) as dataset:
        return dataset.tags()["REGION"]


def test_regions_are_disjoint_between_splits(archive: Path) -> None:
    for task in ("segmentation/{}/images", "change/{}/before", "scenes/{}"):
        regions = [
            {region_of(p) for p in (archive / task.format(split)).glob("*.tif")}
            for split in SPLITS
        ]
        assert all(regions)
        assert not regions[0] & regions[1]
        assert not regions[0] & regions[2]
        assert not regions[1] & regions[2]


@pytest.mark.parametrize("regions", [3, 4, 10, 41])
def test_every_region_is_in_one_split(regions: int) -> None:
    config = SimulationConfig(regions=regions)
    numbers = [n for split in SPLITS for n in config.regions_of(split)]
    assert sorted(numbers) == list(range(regions))


@pytest.mark.parametrize("images", [30, 100, 1000])
def test_classes_are_balanced_in_every_split(images: int) -> None:
    config = SimulationConfig(images=images)
    for split in SPLITS:
        members = [
            n % 10
            for n in range(images)
            if config.split_of("classification", n) == split
        ]
        assert len(set(np.bincount(members, minlength=10))) == 1
        assert members


def test_files_say_that_they_are_simulated(archive: Path) -> None:
    for path in archive.rglob("*.tif"):
        with rasterio.open(path) as dataset:
            assert dataset.tags()["SIMULATED"] == "yes"
            assert dataset.crs.is_projected
            assert dataset.res == (10.0, 10.0)
    assert "SIMULATED" in (archive / "README.md").read_text()
    assert json.loads((archive / "dataset.json").read_text())["simulated"] is True


def test_the_reader_gives_reflectance_back_without_help(archive: Path) -> None:
    path = next((archive / "scenes" / "train").glob("*.tif"))
    raster = read_raster(describe_raster(path))
    assert len(raster.bands) == 12
    assert raster.pixels == pytest.approx(read(path) / 10_000, abs=1e-5)
    assert raster.valid.all()


def test_landsat_numbers_carry_their_own_offset(tmp_path: Path) -> None:
    config = SimulationConfig(
        tasks=("scenes",), sensor="landsat-8-9-l2", images=3, image_size=16
    )
    made = simulate_archive(tmp_path / "landsat", config)
    path = next((made / "scenes" / "train").glob("*.tif"))
    raster = read_raster(describe_raster(path))
    assert raster.pixels == pytest.approx(read(path) * 2.75e-5 - 0.2, abs=1e-4)


def test_the_description_finds_the_training_images_only(archive: Path) -> None:
    for task, expected in (("scenes", 4), ("segmentation", 4), ("change", 8)):
        items = find_items([read_source(archive / f"{task}.yaml")], archive)
        assert len(items) == expected
        assert all("train" in item.name for item in items)


def test_masks_lie_on_their_images(archive: Path) -> None:
    for image in archive.glob("segmentation/*/images/*.tif"):
        mask = image.parent.parent / "masks" / image.name
        with rasterio.open(image) as one, rasterio.open(mask) as two:
            assert one.transform == two.transform
            assert one.crs == two.crs
            assert set(np.unique(two.read())) <= {*map(int, Cover), 255}
            assert two.tags()["CLASS_0"] == "water"
        # Pixels of which trees cover most are trees, and those without any are not.
        (classes,), (cover,) = (
            read(image.parent.parent / "masks" / image.name),
            read(image.parent.parent / "tree_cover" / image.name),
        )
        assert (cover == 255).sum() == (classes == 255).sum()
        assert cover[cover != 255].max(initial=0) <= 100
        assert (cover[classes == Cover.TREES] > 0).all()
        assert (classes[(cover > 50) & (cover <= 100)] == Cover.TREES).all()
    for mask in archive.glob("change/*/masks/*.tif"):
        assert set(np.unique(read(mask))) <= {0, 1, 255}
        before = mask.parent.parent / "before" / mask.name
        after = mask.parent.parent / "after" / mask.name
        with rasterio.open(before) as one, rasterio.open(after) as two:
            assert one.tags()["ACQUISITION"] != two.tags()["ACQUISITION"]
            assert one.transform == two.transform


def test_label_table_lists_every_image_once(archive: Path) -> None:
    with (archive / "multilabel" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = sorted(p.name for p in (archive / "multilabel" / "images").iterdir())
    assert sorted(Path(row["image"]).name for row in rows) == images
    assert {row["split"] for row in rows} == set(SPLITS)
    known = {cover.name.lower() for cover in Cover}
    for row in rows:
        assert row["labels"]
        assert set(row["labels"].split(";")) <= known


def test_places_do_not_overlap(archive: Path) -> None:
    boxes = []
    for path in archive.rglob("*.tif"):
        if path.parent.name in ("masks", "tree_cover", "after"):
            continue
        with rasterio.open(path) as dataset:
            boxes.append((dataset.crs.to_epsg(), *dataset.bounds))
    for i, (crs, west, south, east, north) in enumerate(boxes):
        for other, w, s, e, n in boxes[:i]:
            apart = east <= w or e <= west or north <= s or n <= south
            assert crs != other or apart


@pytest.mark.parametrize("workers", [1, 2])
def test_an_archive_is_the_same_for_the_same_seed(tmp_path: Path, workers: int) -> None:
    def numbers(name: str, seed: int, workers: int = 1) -> list[np.ndarray]:
        config = SimulationConfig(
            tasks=("scenes",), images=3, image_size=16, seed=seed, workers=workers
        )
        made = simulate_archive(tmp_path / name, config)
        return [read(path) for path in sorted(made.rglob("*.tif"))]

    first = numbers("first", 1)
    again = numbers("again", 1, workers)
    other = numbers("other", 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_nothing_but_a_simulated_archive_is_replaced(tmp_path: Path) -> None:
    config = SimulationConfig(tasks=("scenes",), images=3, image_size=8)
    made = simulate_archive(tmp_path / "archive", config)
    with pytest.raises(ConfigError, match=r"exists.*overwrite"):
        simulate_archive(made, config)
    assert simulate_archive(made, config, overwrite=True) == made
    precious = tmp_path / "mine"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"no simulated archive .*thesis\.txt"):
        simulate_archive(precious, config, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("detection",)}, r"tasks must be some of .* \(found: detection\)"),
        ({"tasks": ()}, "found: none"),
        ({"tasks": ("scenes", "scenes")}, "each once"),
        ({"images": 29}, "images is 29; it must be at least 30"),
        ({"regions": 2}, "regions is 2; it must be at least 3"),
        (
            {"cloudy_share": 1.5},
            "cloudy_share is 1.5; it must be at least 0 and at most 1",
        ),
        ({"train_share": 0.9, "val_share": 0.2}, "sum to 1 at most"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulationConfig(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_mean_band_values_are_neither_enough_nor_useless(tmp_path: Path) -> None:
    """Nearest class centroid of per-band means, on regions that were not seen."""
    made = simulate_archive(tmp_path / "archive", SimulationConfig(images=400))

    def means(split: str) -> tuple[np.ndarray, list[str]]:
        paths = sorted((made / "classification" / split).rglob("*.tif"))
        values = np.array([read(p).mean(axis=(1, 2)) for p in paths])
        return values, [p.parent.name for p in paths]

    values, names = means("train")
    tests, truth = means("test")
    center, spread = values.mean(axis=0), values.std(axis=0)
    classes = sorted(set(names))
    is_class = [np.array(names) == name for name in classes]
    centroids = np.array(
        [((values[k] - center) / spread).mean(axis=0) for k in is_class]
    )
    distance = np.linalg.norm(
        ((tests - center) / spread)[:, None] - centroids[None], axis=-1
    )
    found = [classes[i] for i in distance.argmin(axis=1)]
    accuracy = np.mean([a == b for a, b in zip(found, truth, strict=True)])
    assert 0.25 < accuracy < 0.7
