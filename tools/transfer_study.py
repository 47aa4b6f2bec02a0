"""How far do frozen weights of one sensor carry over to the bands of others?

An encoder pretrained on 12 Sentinel-2 bands reads other bands in several ways ("arms"),
its weights frozen; logistic regression on its features tells how much they hold:

    today       positions interpolated over wavelength, clamped at the ends
    random      the same with random weights
    resample    images brought into the model's own bands; tokens of absent ones hidden
    imagery     the same, estimates learned from the imagery of pretraining (the part of
                it that is surface reflectance, as all data are) in place of the library
    positions   positions that go on beyond the ends, plain tokeniser
    spectral    the spectral tokeniser, from the same weights, trained on with bands
                withheld at random
    continued   the plain tokeniser, trained on in the same way
    logistic    logistic regression on mean and standard deviation of the bands
    forest      a random forest on the same

Data: EnMAP tiles (leave tiles out), simulated Landsat 8/9 and Gaofen-2 (five archives,
each with its own regions for testing), bark-beetle places with bands withheld. Each
score is a file in OUTPUT with its predictions beside it, and is not computed again;
tools/transfer_tables.py makes the tables. Archives:
`spectralgpt simulate --output ARCHIVES/SENSOR-SEED --sensor SENSOR --seed SEED
--tasks classification --images 1000`, seeds 0 to 4.

    python tools/transfer_study.py --model runs/s2 --data ../shared/data \
        --archives archives --output runs/transfer
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spectralgpt import Preprocessing, SpectralEncoder, load_model
from spectralgpt.building import build_encoder
from spectralgpt.data.sources import find_items, read_source
from spectralgpt.models.tokens import (
    group_wavelengths,
    patchify,
    resize_spatial,
    resize_spectral,
)
from spectralgpt.preprocessing import BandStatistics
from spectralgpt.rasters import Raster, Stated, describe_raster, read_raster
from spectralgpt.resampling import Imagery, fit_resampling
from spectralgpt.scenes.synthesis import draw_imagery
from spectralgpt.sensors import Band, load_sensor

Array = NDArray[Any]
MODELS = ("spectral", "continued")  # arms with weights of their own
STATISTICS_ARMS = ("logistic", "forest")
RESAMPLING_ARMS = ("resample", "imagery")
ARMS = ("today", "random", *RESAMPLING_ARMS, "positions", *MODELS, *STATISTICS_ARMS)
SEEDS = range(5)
CELL = 8  # px, the model's patch
CROP = 32  # px, as in pretraining
ZOOM = 4  # EnMAP: 7.5 m a pixel, so that a patch holds 2 x 2 of its own
ENMAP_FOLDS = 6
NO_WATER_VAPOUR = [f"B{n}" for n in (*range(127, 142), *range(161, 168))]
STRENGTHS = tuple(float(c) for c in np.logspace(-4, 0, 5))
INNER_FOLDS = 3
S2_LAYERS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09")
S2_LAYERS += ("B11", "B12")
WITHHELD = {"rgbn": ("B02", "B03", "B04", "B08")}
WITHHELD["20m"] = ("B05", "B06", "B07", "B8A", "B11", "B12")


@dataclass(frozen=True)
class Place:
    """A tile, image or place.

    Args:
        raster: reflectance (C, H, W).
        labels: (cells,) class of each cell of 8 px, or (1,) of an image; -1: none.
        group: what is held out together.
        is_test: in a split that is given.
    """

    raster: Raster
    labels: Array
    group: str
    is_test: bool = False


@dataclass(frozen=True)
class DataSet:
    """Labelled places in the same bands, and how they are split.

    Args:
        name: such as enmap or landsat-8-9-l2-3.
        sensor: of the images.
        bands: at hand, by wavelength.
        places: all.
        splits: (train, test) indices of places; test predictions are joined.
        metric: ap (of class 1) or balanced accuracy.
        seed: of random weights and forests.
    """

    name: str
    sensor: str
    bands: tuple[Band, ...]
    places: list[Place]
    splits: list[tuple[Array, Array]]
    metric: str
    seed: int = 0

    @property
    def is_by_cell(self) -> bool:
        """Whether cells are labelled, and not whole images."""
        return self.metric == "ap" or self.name == "enmap"

    @property
    def is_one_of_five(self) -> bool:
        """Whether it is an archive, or a draw of places, of a seed."""
        return self.name[-2] == "-"


# Data


def enmap(root: Path) -> Iterator[DataSet]:
    """18 tiles, most common class of each 2 x 2 px; six folds of three tiles."""
    bands = load_sensor("enmap-l2a").select(None, NO_WATER_VAPOUR)
    places = []
    stated = Stated(sensor="enmap-l2a", unit="digital-numbers")
    for path in sorted((root / "enmap_potsdam" / "images").glob("*.tif")):
        raster = read_raster(describe_raster(path, stated=stated), bands)
        pixels = torch.from_numpy(raster.pixels)[None]
        zoomed = F.interpolate(pixels, scale_factor=ZOOM, mode="bilinear")[0].numpy()
        valid = raster.valid.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2)
        labels = _read_layer(root / "enmap_potsdam" / "labels" / path.name)
        cells = _cells(labels, CELL // ZOOM)
        counts = np.stack([(cells == c).sum(axis=1) for c in range(1, 7)], axis=1)
        is_known = counts.sum(axis=1) * 2 >= cells.shape[1]
        classes = np.where(is_known, counts.argmax(axis=1), -1)
        zoomed_raster = replace(raster, pixels=zoomed, valid=valid)
        places.append(Place(zoomed_raster, classes, path.stem))
    order = np.random.default_rng(0).permutation(len(places))
    folds = np.array_split(order, ENMAP_FOLDS)
    splits = [(np.setdiff1d(order, fold), fold) for fold in folds]
    yield DataSet("enmap", "enmap-l2a", bands, places, splits, "balanced accuracy")


def simulated(archives: Path, sensor: str) -> Iterator[DataSet]:
    """Images of ten classes; training and validation regions to learn from."""
    for seed in SEEDS:
        folder = archives / f"{sensor}-{seed}" / "classification"
        names = sorted(path.name for path in (folder / "train").iterdir())
        places = []
        for path in sorted(folder.glob("*/*/*.tif")):
            raster = read_raster(describe_raster(path))
            label = np.array([names.index(path.parent.name)])
            region = path.stem.split("_")[1]
            is_test = path.parent.parent.name == "test"
            places.append(Place(raster, label, region, is_test))
        bands = places[0].raster.bands
        splits = [_given_split(places)]
        metric = "balanced accuracy"
        yield DataSet(f"{sensor}-{seed}", sensor, bands, places, splits, metric, seed)


def barkbeetle(root: Path, withheld: str) -> Iterator[DataSet]:
    """Cells of 8 px of 2020, damaged where half is; all places, then tenths of them."""
    folder = root / "barkbeetle_s2"
    bands = load_sensor("sentinel-2-l2a").select(WITHHELD[withheld])
    places = []
    for mask in sorted(folder.glob("masks/*/mask_*.tif")):
        number = mask.stem.removeprefix("mask_")
        raster = read_month(folder, mask, bands)
        rows, columns = (side // CELL * CELL for side in raster.pixels.shape[1:])
        raster = replace(
            raster,
            pixels=raster.pixels[:, :rows, :columns],
            valid=raster.valid[:, :rows, :columns],
        )
        damaged = _cells(_read_layer(mask)[:rows, :columns], CELL).mean(axis=1) >= 0.5
        is_test = mask.parent.name == "test"
        places.append(Place(raster, damaged.astype(int), number, is_test))
    train, test = _given_split(places)
    name = f"barkbeetle-{withheld}"
    sensor = "sentinel-2-l2a"
    yield DataSet(name, sensor, bands, places, [(train, test)], "ap")
    for seed in SEEDS:
        few = np.random.default_rng(seed).permutation(train)[: len(train) // 10]
        draw = f"{name}-tenth-{seed}"
        yield DataSet(draw, sensor, bands, places, [(few, test)], "ap", seed)


def read_month(folder: Path, mask: Path, bands: Sequence[Band]) -> Raster:
    """Read the bark-beetle place of a mask in September 2020."""
    stated = Stated(sensor="sentinel-2-l2a", bands=S2_LAYERS, offset=0)
    name = f"geojson_{mask.stem.removeprefix('mask_')}.tif"
    path = folder / "2020-09-01 - 2020-09-30" / "sentinel_2" / name
    return read_raster(describe_raster(path, stated=stated), bands)


def _given_split(places: Sequence[Place]) -> tuple[Array, Array]:
    is_test = np.array([place.is_test for place in places])
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _read_layer(path: Path) -> Array:
    """Read one layer of class numbers, which are no reflectance."""
    import rasterio

    with rasterio.open(path) as file:
        layer: Array = file.read(1)
    return layer


def _cells(layer: Array, side: int) -> Array:
    """Cut (H, W) into cells: (cells, side * side)."""
    rows, columns = (length // side for length in layer.shape)
    cut = layer.reshape(rows, side, columns, side).transpose(0, 2, 1, 3)
    return cut.reshape(rows * columns, side * side)


# Features


def encode_today(
    encoder: SpectralEncoder, images: Tensor, wavelengths_nm: Sequence[float]
) -> Tensor:
    """Encode images (B, C, H, W) with clamped positions: (B, G, Hp, Wp, D)."""
    grid, positions = encoder.grid_of(images), encoder.positions
    own, size = ((each.rows, each.columns) for each in (positions.grid, grid))
    spatial = resize_spatial(positions.spatial, own, size)
    assert encoder.wavelengths_nm is not None
    known, wanted = (
        group_wavelengths(nm, encoder.bands_per_token)
        for nm in (encoder.wavelengths_nm, wavelengths_nm)
    )
    spectral = resize_spectral(positions.spectral[0], known, wanted)
    x = encoder.embedding(patchify(images, grid))
    x = x + (spectral[:, None] + spatial).flatten(0, 1)
    return encoder.norm(encoder.transform(x)).unflatten(1, grid.token_shape)


@dataclass(frozen=True)
class Reader:
    """An arm: how images in some bands become tokens.

    Args:
        bands: that `encode` takes, by wavelength.
        encode: scaled images (B, C, H, W) to tokens (B, G, Hp, Wp, D).
        centres_nm: wavelength of each group of tokens.
        absent: groups of tokens that images lack.
        bring: a raster at hand into `bands`.
    """

    bands: tuple[Band, ...]
    encode: Callable[[Tensor], Tensor]
    centres_nm: tuple[float, ...]
    absent: tuple[int, ...] = ()
    bring: Callable[[Raster], Raster] = lambda raster: raster


def draw_pretraining(sources: Sequence[Path], root: Path, level: str) -> Imagery:
    """Draw pixels of those data sets of pretraining that are of a sensor's level."""
    found = [source for source in map(read_source, sources) if source.sensor == level]
    bands = load_sensor(level).select(S2_LAYERS)
    return draw_imagery(find_items(found, root), bands)


def make_reader(
    arm: str, model: Path, data: DataSet, seed: int, imagery: Imagery | None
) -> Reader:
    """Build an arm for the images of a data set."""
    loaded, bands = load_model(model), data.bands
    encoder = loaded.encoder
    assert loaded.preprocessing is not None
    if arm == "random":
        torch.manual_seed(seed)
        encoder = build_encoder("tiny", **_sizes(encoder))
    encoder.eval()
    rows = [band.row for band in bands]
    centres_nm = group_wavelengths(rows, encoder.bands_per_token)
    if arm in RESAMPLING_ARMS:
        like = imagery if arm == "imagery" else None
        return _resampling_reader(encoder, loaded.preprocessing, data, like)
    if arm in ("today", "random"):
        wavelengths_nm = [band.wavelength_nm for band in bands]
        return Reader(
            bands, lambda x: encode_today(encoder, x, wavelengths_nm), centres_nm
        )
    return Reader(bands, lambda x: encoder(x, rows), centres_nm)


def _resampling_reader(
    encoder: SpectralEncoder,
    contract: Preprocessing,
    data: DataSet,
    like: Imagery | None,
) -> Reader:
    """Bring images into the model's bands; groups that lack one are not shown."""
    resampling = fit_resampling(
        data.bands,
        contract.bands,
        sensor=load_sensor(data.sensor),
        wanted_sensor=load_sensor(contract.sensor),
        like=like,
        # With the library, whose errors are too small, groups that lack a band are
        # hidden; with imagery what is absent is told well enough to show them.
        bands_per_token=1 if like is None else contract.bands_per_token,
    )
    print("\n".join(map(str, resampling.sources)), flush=True)
    absent = set(resampling.positions("absent"))
    S = encoder.bands_per_token
    groups = [range(at, at + S) for at in range(0, encoder.num_bands, S)]
    encoder.absent_groups = tuple(
        number for number, group in enumerate(groups) if absent & set(group)
    )

    def bring(raster: Raster) -> Raster:
        pixels, valid = resampling.apply(raster.pixels, raster.valid)
        return replace(raster, pixels=pixels, valid=valid, bands=contract.bands)

    centres_nm = group_wavelengths(contract.wavelengths_nm, S)
    return Reader(contract.bands, encoder, centres_nm, encoder.absent_groups, bring)


def _sizes(encoder: SpectralEncoder) -> dict[str, Any]:
    """Settings of an encoder beside its size."""
    names = ("image_size", "num_bands", "patch_size", "bands_per_token")
    return {name: encoder.config[name] for name in (*names, "wavelengths_nm")}


def contract_of(
    contract: Preprocessing, bands: tuple[Band, ...], scaling: str, seen: list[Raster]
) -> Preprocessing:
    """Scale bands by z-score.

    With `own` statistics are those of pretraining, interpolated over wavelength; with
    `target` they are measured on images of the data set.
    """
    assert contract.statistics is not None
    if scaling == "own":
        tables = {}
        for name in ("mean", "std"):
            known = contract.statistics.column(name, contract.bands).ravel()
            centres = [band.wavelength_nm for band in contract.bands]
            wanted = [band.wavelength_nm for band in bands]
            tables[name] = np.interp(wanted, centres, known)
    else:
        pixels = np.concatenate(
            [each.pixels[:, ::3, ::3].reshape(len(bands), -1) for each in seen], axis=1
        )
        tables = {"mean": pixels.mean(axis=1), "std": pixels.std(axis=1)}
    by_band = {
        name: {b.name: float(v) for b, v in zip(bands, values, strict=True)}
        for name, values in tables.items()
    }
    low, high = by_band["mean"], by_band["std"]  # not used by z-score
    statistics = BandStatistics(by_band["mean"], by_band["std"], low, high, scaling)
    return replace(contract, bands=bands, statistics=statistics, others=())


@torch.no_grad()
def features_of(
    data: DataSet, reader: Reader, contract: Preprocessing, scaling: str
) -> dict[str, list[Array]]:
    """Features of each place by pooling: (cells, D'), or (1, D') of an image."""
    rasters = [reader.bring(place.raster) for place in data.places]
    # Labels are not looked at; EnMAP tiles are all measured, other test places are not.
    is_fixed = len(data.splits) == 1
    known = set(data.splits[0][0]) if is_fixed else set(range(len(rasters)))
    seen = [raster for i, raster in enumerate(rasters) if i in known]
    scaled = contract_of(contract, reader.bands, scaling, seen)
    own = np.array(group_wavelengths(contract.wavelengths_nm, contract.bands_per_token))
    part = np.abs(np.array(reader.centres_nm)[:, None] - own).argmin(axis=1)
    part[list(reader.absent)] = -1
    present = part >= 0
    found: dict[str, list[Array]] = {"mean": [], "parts": []}
    for place, raster in zip(data.places, rasters, strict=True):
        image = torch.from_numpy(scaled.prepare(raster, True, is_checked=True)[0])
        tokens = encode_place(reader, image, place, data.is_by_cell)  # (cells, G, D)
        by_part = [tokens[:, part == p].mean(dim=1) for p in np.unique(part[present])]
        found["mean"].append(tokens[:, present].mean(dim=1).numpy())
        found["parts"].append(torch.cat(by_part, dim=1).numpy())
    return found


def encode_place(
    reader: Reader, image: Tensor, place: Place, is_by_cell: bool
) -> Tensor:
    """Tokens of each cell of an image (C, H, W), or their mean: (cells, G, D)."""
    if not is_by_cell:
        return reader.encode(image[None])[0].flatten(1, 2).mean(dim=1)[None]
    rows, columns = (side // CELL for side in image.shape[1:])
    is_known = torch.from_numpy(place.labels >= 0).reshape(rows, columns)
    cells = torch.zeros(rows, columns, 0)
    side = CROP // CELL
    for row in _starts(rows, side):
        for column in _starts(columns, side):
            place_of = (slice(row, row + side), slice(column, column + side))
            if not is_known[place_of].any():
                continue
            top, left = row * CELL, column * CELL
            crop = image[None, :, top : top + CROP, left : left + CROP]
            tokens = reader.encode(crop)[0].permute(1, 2, 0, 3)  # (rows, columns, G, D)
            if not cells.numel():
                cells = torch.zeros(rows, columns, *tokens.shape[2:])
            cells[place_of] = tokens
    return cells.flatten(0, 1)


def _starts(length: int, side: int) -> list[int]:
    return sorted({min(start, length - side) for start in range(0, length, side)})


def statistics_of(data: DataSet) -> list[Array]:
    """Mean and standard deviation of each band, by cell or image: (cells, 2 C)."""
    found = []
    for place in data.places:
        pixels = place.raster.pixels
        if data.is_by_cell:
            cells = np.stack([_cells(band, CELL) for band in pixels], axis=1)
        else:
            cells = pixels.reshape(1, len(pixels), -1)
        values = np.concatenate([cells.mean(axis=2), cells.std(axis=2)], axis=1)
        found.append(values.astype(np.float32))
    return found


# Scores


def fit_logistic(x: Array, y: Array, groups: Array, metric: str) -> tuple[Any, float]:
    """Fit balanced logistic regression; held-out groups choose its penalty.

    Returns:
        The fitted model, and the score on the held-out groups.
    """
    from sklearn.model_selection import GroupKFold

    folds = list(GroupKFold(INNER_FOLDS).split(x, y, groups))
    results = []
    for strength in STRENGTHS:
        chances = np.zeros((len(y), y.max() + 1))
        for train, test in folds:
            model = _logistic(strength).fit(x[train], y[train])
            chances[test] = chances_of(model, x[test], y.max() + 1)
        results.append(score(metric, y, chances))
    best = int(np.argmax(results))
    return _logistic(STRENGTHS[best]).fit(x, y), results[best]


def _logistic(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(
        C=strength, class_weight="balanced", max_iter=400, tol=1e-3
    )
    return make_pipeline(StandardScaler(), model)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        300, class_weight="balanced_subsample", min_samples_leaf=2, random_state=seed
    )


def chances_of(model: Any, x: Array, num_classes: int) -> Array:
    """Return probabilities (N, num_classes), 0 for classes that were not learned."""
    chances = np.zeros((len(x), num_classes))
    chances[:, model.classes_] = model.predict_proba(x)
    return chances


def score(metric: str, truth: Array, chances: Array) -> float:
    """Average precision of class 1, or the mean share of each class found."""
    from sklearn.metrics import average_precision_score

    if metric == "ap":
        return float(average_precision_score(truth == 1, chances[:, 1]))
    hit = chances.argmax(axis=1) == truth
    return float(np.mean([hit[truth == c].mean() for c in np.unique(truth)]))


def evaluate(
    data: DataSet, features: list[Array], arm: str, seed: int
) -> dict[str, Any]:
    """Fit on each split's training places and predict its test places."""
    labels = [place.labels for place in data.places]
    number = np.arange(len(labels))
    owner = np.concatenate(
        [np.full(len(y), i) for i, y in zip(number, labels, strict=True)]
    )
    names = np.array([place.group for place in data.places])
    x, y = np.concatenate(features), np.concatenate(labels)
    known, inner, truth, chances, places = y >= 0, [], [], [], []
    for train, test in data.splits:
        fit, held = (known & np.isin(owner, part) for part in (train, test))
        if arm == "forest":
            model = _forest(seed).fit(x[fit], y[fit])
        else:
            groups = names[owner[fit]]
            model, reached = fit_logistic(x[fit], y[fit], groups, data.metric)
            inner.append(reached)
        chances.append(chances_of(model, x[held], y.max() + 1))
        truth.append(y[held])
        places.append(owner[held])
    joined = {"truth": np.concatenate(truth), "place": np.concatenate(places)}
    joined["chances"] = np.concatenate(chances).astype(np.float32)
    reached = score(data.metric, joined["truth"], joined["chances"])
    return {"score": reached, "inner": float(np.mean(inner or [0])), **joined}


# Runs and tables


def data_sets(root: Path, archives: Path) -> dict[str, Callable[[], Iterator[DataSet]]]:
    """All data sets by name; each is read when it is asked for."""
    return {
        "enmap": lambda: enmap(root),
        "landsat-8-9-l2": lambda: simulated(archives, "landsat-8-9-l2"),
        "gaofen-2-pms": lambda: simulated(archives, "gaofen-2-pms"),
        "barkbeetle-rgbn": lambda: barkbeetle(root, "rgbn"),
        "barkbeetle-20m": lambda: barkbeetle(root, "20m"),
    }


def run_arm(
    data: DataSet,
    arm: str,
    model: Path,
    output: Path,
    scalings: Sequence[str],
    imagery: Imagery | None,
) -> None:
    """Score one arm on one data set; what is done already is left."""
    has_seeds = arm in ("random", "forest") and not data.is_one_of_five
    for seed in SEEDS if has_seeds else [data.seed]:
        for scaling in scalings if arm not in STATISTICS_ARMS else ("none",):
            stem = f"{data.name}_{arm}_{seed}_{scaling}"
            if (output / f"{stem}.json").is_file():
                continue
            began = time.perf_counter()
            if arm not in STATISTICS_ARMS:
                contract = load_model(model).preprocessing
                reader = make_reader(arm, model, data, seed, imagery)
                features = features_of(data, reader, contract, scaling)
            else:
                features = {"none": statistics_of(data)}
            middle = time.perf_counter()
            row: dict[str, Any] = {}
            for pooling, values in features.items():
                found = evaluate(data, values, arm, seed)
                row[pooling] = {name: found.pop(name) for name in ("score", "inner")}
                np.savez(output / f"{stem}_{pooling}.npz", **found)
            seconds = [round(middle - began, 1), round(time.perf_counter() - middle, 1)]
            row |= {"data": data.name, "arm": arm, "seed": seed, "scaling": scaling}
            row |= {"seconds": seconds}
            print(json.dumps(row), flush=True)
            (output / f"{stem}.json").write_text(json.dumps(row) + "\n")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "data", "archives", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in MODELS:
        parser.add_argument(f"--{name}", type=Path, help=f"weights of the arm {name}")
    parser.add_argument(
        "--imagery", type=Path, nargs="+", help="descriptions, for the arm imagery"
    )
    parser.add_argument("--sets", help="data sets, parted by commas; all if left out")
    parser.add_argument(
        "--arms",
        default=",".join(a for a in ARMS if a not in MODELS),
        help="parted by commas",
    )
    parser.add_argument("--scalings", default="own,target", help="parted by commas")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    imagery = None
    if args.imagery:
        imagery = draw_pretraining(args.imagery, args.data, "sentinel-2-l2a")
    known = data_sets(args.data, args.archives)
    for name in args.sets.split(",") if args.sets else known:
        for data in known[name]():
            for arm in args.arms.split(","):
                model = getattr(args, arm) if arm in MODELS else args.model
                scalings = args.scalings.split(",")
                run_arm(data, arm, model, args.output, scalings, imagery)


if __name__ == "__main__":
    main()
