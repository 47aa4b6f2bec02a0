"""A simulated satellite archive on disk: what a sensor sees, and labels for all tasks.

A sensor sees through air and clouds, with its optics, noise and whole numbers. Bands of
coarser ground sampling distance are averaged to their own pixels, get their noise
there, and are brought back to the finest pixels by linear interpolation, as users of
such products do.

`_TASKS` says what lies where below the output folder. Beside it stand dataset.json,
README.md, <task>.yaml to pretrain on its images, and <task>_labels.yaml to fine-tune on
images with masks. Splits hold different regions. Every file says that it is simulated.
"""

import csv
import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from spectralgpt import __version__
from spectralgpt.config import check_range
from spectralgpt.errors import BandError, ConfigError
from spectralgpt.files import appearing
from spectralgpt.rasters import SENSOR_TAG, Grid
from spectralgpt.rasters.write import write_numbers
from spectralgpt.sensors import Band, Sensor, load_sensor
from spectralgpt.simulation.canvas import (
    Canvas,
    Cover,
    Field,
    Region,
    Season,
    block_mean,
)
from spectralgpt.simulation.painters import (
    SCENE_CLASSES,
    draw_changes,
    paint_change,
    paint_scene,
)
from spectralgpt.simulation.reflectance import (
    CLOUD,
    VAPOUR,
    WAVELENGTHS_NM,
    Spectrum,
    to_bands,
)
from spectralgpt.threads import follow_parent

# Cells along one side of a pixel on which shapes are drawn.
_FINE = 3
_MOST_CLOUD = 0.35
# Numbers per unit of reflectance where the sensor has no fixed scale.
_STATED_QUANTIFICATION = 10_000.0
# Full-scale signal to noise of a 30 nm wide band, and noise of the dark signal.
_SIGNAL_TO_NOISE, _REFERENCE_WIDTH_NM, _DARK_NOISE = 170.0, 30.0, 0.0008
# Blur of the optics in pixels: a modulation of some 0.3 at the Nyquist frequency.
_BLUR_PX = 0.35
# What the README says of each task.
_TASKS: Final = {
    "classification": "`classification/<split>/<Class>/`: one scene class an image "
    "(folder layout).",
    "multilabel": "`multilabel/labels.csv` (columns image, labels parted by `;`, "
    "split) and `multilabel/images/`.",
    "segmentation": "`segmentation/<split>/images/` and `masks/` of the same names: "
    "land cover of each pixel, 255 where clouds hide it. `tree_cover/`: percent of a "
    "pixel under trees, likewise. `segmentation_labels.yaml` and "
    "`regression_labels.yaml` describe them for fine-tuning.",
    "change": "`change/<split>/before/`, `after/` and `masks/` of the same names: 1 "
    "where land cover was replaced, 0 elsewhere (season, light and haze differ too and "
    "are no change), 255 where clouds hide it. `change_labels.yaml` describes them for "
    "fine-tuning.",
    "scenes": "`scenes/<split>/`: mixed landscapes without labels, for pretraining.",
}
TASKS: Final = tuple(_TASKS)
_COVERS: Final = [cover.name.lower() for cover in Cover]
_MASK_CLASSES: Final = {"segmentation": _COVERS, "change": ["unchanged", "changed"]}
# For `spectralgpt pretrain`: the training regions only. Each file states its own scale.
_IMAGES_YAML: Final = """# SIMULATED. Paths are relative to the folder of this file.
name: simulated-{task}
sensor: {sensor}
root: {task}
items: "{items}"
exclude: [train/masks/*, train/tree_cover/*]
unit: digital-numbers
place: "(?P<place>region[0-9]+)"
holdout: place
"""
_LABELS_YAML: Final = """# SIMULATED. For spectralgpt.data.dense.read_dense_config.
root: {task}
task: {task}
layout: folders
place: "(?P<place>region[0-9]+)"
split: given
classes:
{classes}
"""
_NUMBERS_YAML: Final = """# SIMULATED. For spectralgpt finetune regression --data.
root: segmentation
task: regression
masks: tree_cover
place: "(?P<place>region[0-9]+)"
split: given
target: {name: tree cover, unit: "%", range: [0, 100]}
"""
_SPLITS: Final = ("train", "val", "test")
# Value of masks under clouds of some opacity, where the ground cannot be seen.
_IGNORED, _OPAQUE = 255, 0.5
_FEWEST, _SPLIT_STREAM, _SNOW_SHARE = 3, 7, 0.3
_COLUMNS, _SPACING, _CHUNK = 100, 1.25, 8


@dataclass(frozen=True)
class Camera:
    """A sensor over one image: its finest pixels, aligned to its coarsest ones.

    Args:
        sensor: of the registry; bands outside 400 to 2500 nm are left out.
        image_size: finest pixels along one side of the image.
    """

    sensor: Sensor
    image_size: int

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """Bands that the spectra cover, by wavelength.

        Raises:
            BandError: there is none between 400 and 2500 nm.
        """
        low, high = WAVELENGTHS_NM[0], WAVELENGTHS_NM[-1]
        bands = [b for b in self.sensor.select() if low <= b.wavelength_nm <= high]
        if not bands:
            raise BandError(
                f"sensor '{self.sensor.name}' has no band within {low:g} to {high:g} "
                "nm, which the simulated spectra cover. Choose an optical sensor."
            )
        return tuple(bands)

    @property
    def gsd_m(self) -> float:
        """Side of the finest pixel in metres."""
        return min(band.gsd_m for band in self.bands)

    @property
    def factors(self) -> list[int]:
        """Finest pixels along one side of a pixel of each band."""
        return [max(1, round(band.gsd_m / self.gsd_m)) for band in self.bands]

    @property
    def size(self) -> int:
        """Pixels along one side, with a margin that completes the coarsest pixels."""
        block = math.lcm(*self.factors)
        return math.ceil((self.image_size + 2) / block) * block

    def crop(self, field: NDArray[Any]) -> NDArray[Any]:
        """Cut (..., size, size) to the image."""
        margin = (self.size - self.image_size) // 2
        inside = slice(margin, margin + self.image_size)
        return field[..., inside, inside]

    @property
    def quantification(self) -> float:
        """Numbers per unit of reflectance in simulated files."""
        return self.sensor.quantification or _STATED_QUANTIFICATION

    def to_numbers(self, reflectance: Field) -> NDArray[np.uint16 | np.int16]:
        """Turn reflectance (D, H, W) into the whole numbers of the sensor's product.

        Nothing becomes the number for missing data: what is that dark gets the next
        higher one. Light beyond the range gets that for saturation, or the highest.
        """
        sensor = self.sensor
        nodata = 0.0 if sensor.nodata is None else sensor.nodata
        dtype = np.dtype(np.int16 if nodata < 0 else np.uint16)
        highest_number = float(np.iinfo(dtype).max)
        full = highest_number if sensor.saturated is None else sensor.saturated
        numbers = np.rint(reflectance * self.quantification - sensor.offset)
        is_full = numbers >= highest_number
        return np.where(is_full, full, np.maximum(numbers, nodata + 1)).astype(dtype)


@dataclass(frozen=True)
class Picture:
    """A simulated image.

    Args:
        reflectance: (D, H, W).
        covers: (number of covers, H, W) share of each `Cover`.
        cloud: (H, W) opacity of clouds, 0..1.
        is_changed: (H, W) where land cover was replaced since the date before.
        season: its date and state.
    """

    reflectance: Field
    covers: Field
    cloud: Field
    is_changed: NDArray[np.bool_]
    season: Season


def render(
    camera: Camera,
    region: Region,
    key: tuple[int, ...],
    scene_class: str | None = None,
    *,
    dates: int = 1,
    cloudy_share: float = 0.0,
    snow_share: float = 0.0,
) -> list[Picture]:
    """Simulate one place on one date or two, between which part of it changed.

    Season, wetness, sun, haze and clouds differ between dates as well; they are no
    change.

    Args:
        camera: the sensor.
        region: where the place is.
        key: numbers that fix all randomness.
        scene_class: one of `SCENE_CLASSES`, or None for a mixed landscape.
        dates: 1 or 2.
        cloudy_share: how often there are clouds, 0..1.
        snow_share: how often there is snow on cold dates, 0..1.
    """
    pictures: list[Picture] = []
    zones: list[tuple[str, Field]] = []
    is_changed = np.zeros((camera.size, camera.size), dtype=np.bool_)
    for date in range(dates):
        # Streams of random numbers: one for each date, the others the same on both.
        sky_rng, place, change, relief, choice = (
            np.random.default_rng((*key, stream)) for stream in (4 + date, 0, 1, 2, 3)
        )
        season = Season.draw(region, sky_rng, snow_share)
        step_m = camera.gsd_m / _FINE
        canvas = Canvas(camera.size * _FINE, step_m, region, season, place)
        paint_scene(canvas, scene_class)
        canvas.rng = change
        for kind, zone in zones:
            paint_change(canvas, kind, zone)
            is_changed = is_changed | (block_mean(zone, _FINE) > 0.5)
        canvas.rng = relief
        # Larger stretches of country are higher, not steeper.
        relief_m = region.relief_m * relief.uniform(0.2, 1.2) * canvas.extent_m / 640.0
        shares, covers = canvas.compose(relief_m * canvas.noise(2.6), _FINE)
        spectra = to_bands(np.stack(canvas.spectra), camera.bands)
        surface = np.tensordot(spectra, shares, axes=(0, 0))
        sky = Canvas(camera.size, camera.gsd_m, region, season, sky_rng)
        is_cloudy = sky_rng.random() < cloudy_share
        clouds = _draw_clouds(sky, sky_rng.uniform(0.05, _MOST_CLOUD) * is_cloudy)
        image = _observe(camera, surface, sky, *clouds)
        cover, cloud, changed = map(camera.crop, (covers, clouds[0], is_changed))
        pictures.append(Picture(image, cover, cloud, changed, season))
        if date + 1 < dates:
            canvas.rng = choice
            zones = draw_changes(canvas, covers)
    return pictures


def _draw_clouds(sky: Canvas, share: float) -> tuple[Field, Field]:
    """Draw thin and thick clouds over about a share of the sky: opacity, and shadow.

    The latter is the share of sunlight that they keep from the ground.
    """
    field = sky.noise(1.8)
    steepness, height_m = sky.rng.uniform((0.6, 150.0), (2.0, 600.0))
    above = field - np.quantile(field, 1.0 - share)
    opacity = np.clip(above * steepness, 0.0, 0.97).astype(np.float32)
    shadow = sky.season.shadow_of(opacity, height_m / sky.step_m)
    return opacity, np.float32(0.65) * shadow


def _observe(
    camera: Camera, surface: Field, sky: Canvas, cloud: Field, shadow: Field
) -> Field:
    """Simulate the reflectance (D, image_size, image_size) in the product of a sensor.

    `surface` is (D, size, size); of its size are opacity and shadow of clouds, 0..1.
    """
    is_corrected = camera.sensor.name.endswith(("l2", "l2a"))
    path, through, bright = (
        to_bands(spectrum, camera.bands)[:, None, None]
        for spectrum in (*_air(sky.season, is_corrected=is_corrected), CLOUD)
    )
    if not is_corrected:
        bright = bright * np.sqrt(through)
    seen = path + through * surface * np.float32(sky.season.gain) * (1.0 - shadow)
    return _detect(camera, seen + cloud * (bright - seen), sky.rng)


def _air(season: Season, *, is_corrected: bool) -> tuple[Spectrum, Spectrum]:
    """Reflectance and two-way transmittance of the air.

    Source: Rayleigh after Hansen and Travis 1974, aerosol after Angstrom 1929, gas
        absorption as Gaussians. Surface products keep part of the aerosol, which
        correction estimates with error.
    """
    relative = WAVELENGTHS_NM / 550.0
    aerosol = season.haze * relative**-1.2
    if is_corrected:
        return aerosol, 1.0 - 0.9 * aerosol
    slant = 1.0 / math.sin(math.radians(season.sun_elevation_deg))
    rayleigh = 0.0975 * relative**-4.08
    gases = np.exp(-(1.0 + slant) / 2.0 * VAPOUR)
    path = 0.38 * rayleigh * (0.6 + 0.4 * slant) + aerosol
    through = np.exp(-(1.0 + slant) * 0.55 * rayleigh) * (1.0 - aerosol)
    return path * gases, gases * through


def _detect(camera: Camera, seen: Field, rng: np.random.Generator) -> Field:
    """Blur, average to native pixels, add noise, and return to the finest pixels."""
    side = camera.image_size
    image = np.empty((len(camera.bands), side, side), dtype=np.float32)
    widths = np.array([band.width_nm for band in camera.bands], dtype=np.float32)
    quality = _SIGNAL_TO_NOISE * np.sqrt(np.minimum(widths / _REFERENCE_WIDTH_NM, 2.0))
    for factor in sorted(set(camera.factors)):
        chosen = np.array(camera.factors) == factor
        native = block_mean(seen[chosen], factor)
        native = scipy.ndimage.gaussian_filter(native, (0.0, _BLUR_PX, _BLUR_PX))
        # Coarser pixels collect more light.
        gain = quality[chosen, None, None] * np.sqrt(np.float32(factor))
        noise = rng.standard_normal(native.shape, dtype=np.float32)
        native += noise * np.sqrt(_DARK_NOISE**2 + native * 0.2 / gain**2)
        weights = _finer(native.shape[-1], factor)
        image[chosen] = camera.crop(weights @ native @ weights.T)
    return image


@lru_cache(maxsize=16)
def _finer(size: int, factor: int) -> Field:
    """Matrix of linear interpolation from coarse pixels to fine ones."""
    coarse = np.eye(size, dtype=np.float32)
    fine: Field = scipy.ndimage.zoom(
        coarse, (factor, 1), order=1, mode="nearest", grid_mode=True
    )
    return fine


@dataclass(frozen=True)
class SimulationConfig:
    """What to simulate.

    Args:
        tasks: any of classification, multilabel, segmentation, change and scenes
            (unlabelled, for pretraining).
        sensor: name of a sensor in the registry.
        images: images of each task, over all splits (pairs for change).
        image_size: side of an image in pixels of the sensor's finest band.
        seed: fixes every number of the archive.
        regions: number of simulated regions, each in one split only.
        train_share: share of images and regions for training, 0..1.
        val_share: the same for validation; the rest is for testing.
        cloudy_share: share of images with clouds, 0..1.
        label_share: least share of an image for a cover to be a label, 0..1.
        workers: processes to use.
    """

    tasks: tuple[str, ...] = ("classification",)
    sensor: str = "sentinel-2-l2a"
    images: int = 1000
    image_size: int = 64
    seed: int = 0
    regions: int = 40
    train_share: float = 0.6
    val_share: float = 0.2
    cloudy_share: float = 0.1
    label_share: float = 0.1
    workers: int = 1

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(
                f"tasks must be some of {', '.join(TASKS)}, each once (found: "
                f"{', '.join(self.tasks) or 'none'})."
            )
        counts = {"image_size": 8, "seed": 0, "regions": _FEWEST, "workers": 1}
        counts["images"] = _FEWEST * max(map(_num_kinds, self.tasks))
        for name, least in counts.items():
            check_range(f"at least {least}", self, name)
        shares = ("train_share", "val_share", "cloudy_share", "label_share")
        check_range("at least 0 and at most 1", self, *shares)
        if self.train_share <= 0.0 or self.train_share + self.val_share > 1.0:
            raise ConfigError(
                f"train_share {self.train_share} must be above 0, and with val_share "
                f"{self.val_share} sum to 1 at most."
            )

    @property
    def camera(self) -> Camera:
        """The sensor over one image."""
        return Camera(load_sensor(self.sensor), self.image_size)

    def regions_of(self, split: str) -> list[int]:
        """Numbers of the regions of a split; splits share none."""
        rng = np.random.default_rng((self.seed, _SPLIT_STREAM))
        parts = np.split(rng.permutation(self.regions), self._cuts(self.regions))
        return [int(number) for number in parts[_SPLITS.index(split)]]

    def split_of(self, task: str, number: int) -> str:
        """Split of an image; each scene class is split in the same shares."""
        kinds = _num_kinds(task)
        cuts = self._cuts(self.images // kinds)
        return _SPLITS[int(np.searchsorted(cuts, number // kinds, side="right"))]

    def _cuts(self, count: int) -> tuple[int, int]:
        """Where validation and testing begin; each split gets one at least."""
        first = min(max(1, round(self.train_share * count)), count - 2)
        second = first + max(1, round(self.val_share * count))
        return first, min(second, count - 1)


def simulate_archive(
    output: Path, config: SimulationConfig | None = None, *, overwrite: bool = False
) -> Path:
    """Simulate an archive; the same configuration gives the same pixels.

    Args:
        output: folder to make. It appears whole or not at all.
        config: what to simulate; the defaults if None.
        overwrite: replace a folder that `simulate_archive` made before.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder exists, and may not be replaced.
        BandError: the sensor has no optical band.
    """
    config = config or SimulationConfig()
    with (
        appearing(
            output, "simulated archive", ["dataset.json"], overwrite=overwrite
        ) as building,
        ProcessPoolExecutor(config.workers, initializer=follow_parent) as pool,
    ):
        several = partial(pool.map, chunksize=_CHUNK)
        for task in config.tasks:
            simulate = partial(_simulate, config, building, task)
            one_by_one = map if config.workers == 1 else several
            rows = list(one_by_one(simulate, range(config.images)))
            if task == "multilabel":
                table = building / task / "labels.csv"
                with table.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows([("image", "labels", "split"), *rows])
        _write_cards(building, config)
    return output


def _num_kinds(task: str) -> int:
    """Scene classes that the images of a task take turns in."""
    return len(SCENE_CLASSES) if task == "classification" else 1


def _simulate(
    config: SimulationConfig, output: Path, task: str, number: int
) -> tuple[str, str, str]:
    """Simulate and write one image; returns its row in the table of labels."""
    camera, split = config.camera, config.split_of(task, number)
    turn, kind = divmod(number, _num_kinds(task))
    regions = config.regions_of(split)
    region = Region.draw(config.seed, regions[turn % len(regions)])
    folder, name = output / task / split, f"{region.name}_{number:06d}.tif"
    folders, scene_class = [folder], None
    if task == "classification":
        scene_class = SCENE_CLASSES[kind]
        folders, name = [folder / scene_class], f"{scene_class}_{name}"
    elif task == "change":
        folders = [folder / "before", folder / "after"]
    elif task != "scenes":
        folders = [(folder if task == "segmentation" else folder.parent) / "images"]
    pictures = render(
        camera,
        region,
        (config.seed, TASKS.index(task), number),
        scene_class,
        dates=len(folders),
        cloudy_share=config.cloudy_share,
        snow_share=0.0 if task == "change" else _SNOW_SHARE,
    )
    # Each image has a place of its own in its region; tasks take turns going south.
    row, column = divmod(number, _COLUMNS)
    spacing_m = _SPACING * config.image_size * camera.gsd_m
    west_m = region.easting_m + column * spacing_m
    north_m = region.northing_m - (row * len(TASKS) + TASKS.index(task)) * spacing_m
    side, gsd_m = config.image_size, camera.gsd_m
    numbers = (gsd_m, 0.0, west_m, 0.0, -gsd_m, north_m)
    grid = Grid.at(side, side, numbers, f"EPSG:{region.epsg}")
    tags = {
        "SIMULATED": "yes",
        "GENERATOR": f"spectralgpt {__version__} simulate",
        "REGION": region.name,
        "SEED": str(config.seed),
    }
    for path, picture in zip(folders, pictures, strict=True):
        _write_image(path / name, picture, camera, grid, tags)
    if task in _MASK_CLASSES:
        _write_mask(folder / "masks" / name, task, pictures, grid, tags)
    # Covers that hold a share of the image, the largest one in any case.
    shares = pictures[0].covers.mean(axis=(1, 2))
    is_label = shares >= min(config.label_share, float(shares.max()))
    labels = [_COVERS[cover] for cover in np.flatnonzero(is_label)]
    return f"images/{name}", ";".join(labels), split


def _write_image(
    path: Path, picture: Picture, camera: Camera, grid: Grid, tags: dict[str, str]
) -> None:
    # Files state their own scale and offset, so that readers need no rule.
    season, scale = picture.season, camera.quantification
    write_numbers(
        path,
        camera.to_numbers(picture.reflectance),
        grid,
        [band.name for band in camera.bands],
        nodata=camera.sensor.nodata,
        scale=(1.0 / scale, camera.sensor.offset / scale),
        tags=tags
        | {
            SENSOR_TAG: camera.sensor.name,
            "ACQUISITION": season.day.isoformat(),
            "SUN_ELEVATION_DEG": f"{season.sun_elevation_deg:.2f}",
        },
    )


def _write_mask(
    path: Path, task: str, pictures: list[Picture], grid: Grid, tags: dict[str, str]
) -> None:
    last = pictures[-1]
    classes = last.is_changed if task == "change" else last.covers.argmax(axis=0)
    is_hidden = np.max([picture.cloud for picture in pictures], axis=0) > _OPAQUE
    numbers = np.where(is_hidden, _IGNORED, classes)[None].astype(np.uint8)
    names = {f"CLASS_{i}": name for i, name in enumerate(_MASK_CLASSES[task])}
    write_numbers(path, numbers, grid, ["class"], nodata=_IGNORED, tags=tags | names)
    if task == "segmentation":
        percent = np.rint(100 * last.covers[Cover.TREES])
        trees = np.where(is_hidden, _IGNORED, percent)[None].astype(np.uint8)
        path = path.parent.with_name("tree_cover") / path.name
        write_numbers(path, trees, grid, ["tree cover"], nodata=_IGNORED, tags=tags)


def _write_cards(folder: Path, config: SimulationConfig) -> None:
    """Write dataset.json, README.md and the descriptions of each task."""
    camera, sensor = config.camera, config.camera.sensor
    facts = {
        "simulated": True,
        "generator": f"spectralgpt {__version__} simulate",
        "config": asdict(config),
        "sensor": sensor.name,
        "bands": {band.name: band.wavelength_nm for band in camera.bands},
        "gsd_m": camera.gsd_m,
        "quantification": camera.quantification,
        "quantification_is_stated": sensor.quantification is None,
        "offset": sensor.offset,
        "scene_classes": SCENE_CLASSES,
        "covers": _COVERS,
    }
    facts["regions"] = {
        split: [asdict(Region.draw(config.seed, n)) for n in config.regions_of(split)]
        for split in _SPLITS
    }
    files = {
        "dataset.json": json.dumps(facts, indent=2) + "\n",
        "README.md": _readme(config),
    }
    for task in config.tasks:
        items = "train/*.tif" if task == "scenes" else "train/*/*.tif"
        names = _MASK_CLASSES.get(task, [])
        rows = "\n".join(f"  {name}: {i}" for i, name in enumerate(names))
        # The images of `multilabel` lie in one folder: no glob keeps its test set out.
        if task != "multilabel":
            text = _IMAGES_YAML.format(task=task, sensor=sensor.name, items=items)
            files[f"{task}.yaml"] = text
        if names:
            text = _LABELS_YAML.format(task=task, classes=rows)
            files[f"{task}_labels.yaml"] = text
        if task == "segmentation":
            files["regression_labels.yaml"] = _NUMBERS_YAML
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _readme(config: SimulationConfig) -> str:
    camera, sensor = config.camera, config.camera.sensor
    tasks = "\n".join(f"- {_TASKS[task]}" for task in config.tasks)
    covers = ", ".join(f"{i} {name}" for i, name in enumerate(_COVERS))
    scale = f"{camera.quantification:g}"
    chosen = " (chosen here: products have none)" if not sensor.quantification else ""
    return f"""# SIMULATED imagery of {sensor.title}

No satellite took these images. They were computed by spectralgpt {__version__}
(`spectralgpt simulate`, seed {config.seed}) from formulas of reflectance, drawn
landscapes and a model of air and sensor. Say so wherever they or results on them are
shown.

- Sensor: {sensor.name}; {len(camera.bands)} bands in the order of
  wavelength, named in each file, on pixels of {camera.gsd_m:g} m.
- Reflectance = (digital number + {sensor.offset:g}) / {scale}{chosen}, which
  each file states as its scale and offset. State no offset of your own when reading.
- Splits hold different regions, each with soils, crops, roofs, waters, haze and growing
  season of its own. `dataset.json` lists them.
- Rows of permanent crops are spaced as wide plantings, so that they show at 10 m.

{tasks}

Covers: {covers}.
"""
