import numpy as np
import pytest

from spectralgpt.errors import ConfigError
from spectralgpt.sensors import list_sensors, load_sensor
from spectralgpt.simulation.archive import Camera, Picture, render
from spectralgpt.simulation.canvas import Cover, Region
from spectralgpt.simulation.painters import SCENE_CLASSES

CAMERA = Camera(load_sensor("sentinel-2-l2a"), 32)
NAMES = [band.name for band in CAMERA.bands]


def scene(name: str, number: int, **options: float) -> Picture:
    return render(CAMERA, Region.draw(0, number), (0, number), name, **options)[0]


def mean_of(picture: Picture, band: str, where: np.ndarray) -> float:
    return float(picture.reflectance[NAMES.index(band)][where].mean())


@pytest.mark.parametrize("name", SCENE_CLASSES)
def test_every_scene_class_is_valid_and_its_covers_sum_to_1(name: str) -> None:
    picture = scene(name, 1)
    assert picture.covers.sum(axis=0) == pytest.approx(1.0, abs=1e-4)
    assert np.isfinite(picture.reflectance).all()
    assert picture.reflectance.min() > -0.01
    assert picture.reflectance.max() < 1.2
    assert picture.reflectance.std() > 0.01


def test_main_cover_of_a_class_is_what_its_name_says() -> None:
    mains = {
        "Forest": Cover.TREES,
        "AnnualCrop": Cover.CROPLAND,
        "Pasture": Cover.GRASSLAND,
        "PermanentCrop": Cover.PERMANENT_CROPS,
        "SeaLake": Cover.WATER,
        "Industrial": Cover.ARTIFICIAL,
    }
    for name, cover in mains.items():
        shares = [scene(name, n).covers[cover].mean() for n in range(6)]
        assert np.mean(shares) > 0.4, name


def test_masks_align_with_pixels_of_water() -> None:
    for number in range(4):
        picture = scene("River", number)
        water = picture.covers[Cover.WATER] > 0.95
        land = picture.covers[Cover.WATER] < 0.05
        assert water.sum() > 10
        assert mean_of(picture, "B08", water) < 0.6 * mean_of(picture, "B08", land)
        # Moved by a few pixels, the mask no longer fits as well.
        moved = np.roll(water, 5, axis=(0, 1))
        assert mean_of(picture, "B08", moved) > mean_of(picture, "B08", water) + 0.02


def test_forest_in_summer_is_green() -> None:
    pictures = [scene("Forest", number) for number in range(12)]
    picture = next(p for p in pictures if 150 < p.season.plant_day < 250)
    trees = picture.covers[Cover.TREES] > 0.95
    red, infrared = (mean_of(picture, band, trees) for band in ("B04", "B08"))
    assert (infrared - red) / (infrared + red) > 0.5


def test_the_same_key_gives_the_same_picture() -> None:
    assert np.array_equal(scene("River", 2).reflectance, scene("River", 2).reflectance)
    assert not np.array_equal(
        scene("River", 2).reflectance, scene("River", 3).reflectance
    )


def test_unknown_class_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown scene class 'Lake'.*SeaLake"):
        scene("Lake", 0)


@pytest.mark.parametrize("name", list_sensors())
def test_every_sensor_renders(name: str) -> None:
    camera = Camera(load_sensor(name), 16)
    picture = render(camera, Region.draw(0, 0), (0, 0))[0]
    assert picture.reflectance.shape == (len(camera.bands), 16, 16)
    assert np.isfinite(picture.reflectance).all()
    assert 0.02 < picture.reflectance.mean() < 0.6


def test_two_dates_show_one_place_and_differ_where_it_changed() -> None:
    found = 0
    for number in range(8):
        before, after = render(CAMERA, Region.draw(0, number), (1, number), dates=2)
        changed = after.is_changed
        assert not before.is_changed.any()
        assert before.season.day != after.season.day
        # Land cover is the same wherever nothing changed.
        drift = np.abs(before.covers - after.covers).sum(axis=0)
        kept = ~_grown(changed)
        assert drift[kept].max() < 1e-4
        if changed.any():
            found += 1
            assert drift[changed].mean() > 1.0
    assert found >= 3


def _grown(mask: np.ndarray) -> np.ndarray:
    """Include neighbours: a pixel at the edge is partly changed."""
    padded = np.pad(mask, 1)
    size = mask.shape[0]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return np.any([padded[i : i + size, j : j + size] for i, j in shifts], axis=0)


def test_snow_lies_where_a_cold_date_has_it() -> None:
    pictures = [scene("Pasture", number, snow_share=1.0) for number in range(30)]
    snowy = [p for p in pictures if p.covers[Cover.SNOW].mean() > 0.3]
    assert len(snowy) >= 1
    assert all(p.season.snow > 0.0 for p in snowy)
    for picture in snowy:
        white = picture.covers[Cover.SNOW] > 0.8
        if white.any():
            assert mean_of(picture, "B03", white) > 2 * mean_of(picture, "B11", white)


def test_clouds_come_as_often_as_asked_for() -> None:
    def cloudy(share: float) -> list[bool]:
        made = [scene("Pasture", n, cloudy_share=share) for n in range(8)]
        return [bool((picture.cloud > 0.1).any()) for picture in made]

    assert not any(cloudy(0.0))
    assert sum(cloudy(1.0)) >= 7
