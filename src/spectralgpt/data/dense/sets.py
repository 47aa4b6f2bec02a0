"""The one way in: find images with masks, lay them over each other, name, split.

`entries` lists them; here headers are read, and all that is wrong is reported at once.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from spectralgpt.data.classes import Classes, class_colours, name_classes
from spectralgpt.data.dense.config import DenseDataConfig
from spectralgpt.data.dense.entries import list_entries
from spectralgpt.data.division import divide
from spectralgpt.data.formats import ImageFormat
from spectralgpt.data.listings import Entry, first_names
from spectralgpt.data.masks import lay_masks, seen_codes
from spectralgpt.data.samples import Sample, SampleSet
from spectralgpt.errors import (
    ConfigError,
    DataError,
    DatasetNotFoundError,
    RasterError,
    SpectralGPTError,
)
from spectralgpt.rasters import (
    Align,
    Mosaic,
    RasterFile,
    Stated,
    Window,
    cut_to_common,
    quiet_gdal,
)
from spectralgpt.rasters.files import Header
from spectralgpt.rasters.lookup import overlay
from spectralgpt.rasters.maps import read_palette
from spectralgpt.sensors import load_sensor

logger = logging.getLogger(__name__)

_READERS = 4
"""Headers read at once; more gains little and loads shared file systems."""
_SAME_SCALE = 1e-3
"""Largest relative difference in pixel size between two dates of a place."""
_TAG = re.compile(r"CLASS_(-?\d+)")
_TILE_PX = 128
_FINER = 1.5
"""Pixels of a mask along one of the image's from which that is said."""
_OSCD_SENSOR = "sentinel-2-l1c"


class FitError(RasterError):
    """Dates or masks of a place do not lie on each other."""


def read_dense(
    config: DenseDataConfig,
    class_names: Sequence[str] | None = None,
    assumed: Stated | None = None,
    *,
    divided: bool = True,
    listed: tuple[Sequence[Entry], Classes | None] | None = None,
) -> SampleSet:
    """Find the images and masks of a data set and split them.

    Args:
        config: what to read.
        class_names: classes of a fine-tuned model, in its order; those of the data set
            are matched to them by name.
        assumed: what is so where the files do not say, such as the model's sensor.
        divided: split as configured; else the splits are those that it states itself.
        listed: some of what `list_entries` gives; None lists all.

    Raises:
        DatasetNotFoundError: nothing is there.
        DataError: images and masks contradict each other, or a class is unknown.
        ConfigError: the description is wrong.
    """
    root = Path(config.root)
    if not root.is_dir() and not config.download:
        raise DatasetNotFoundError(f"There is no folder {root} (option data.root).")
    image_format = config.image_format(assumed)
    if config.resamples and config.layout in ("segmunich", "oscd"):
        raise ConfigError(
            f"layout {config.layout} states its own bands: leave out 'resample'."
        )
    entries, known = listed or list_entries(root, config)
    if config.layout == "segmunich":
        image_format = _format_of_segmunich(config)
    if config.layout == "oscd":
        # From before digital numbers had an offset.
        image_format = ImageFormat(
            sensor=config.sensor or _OSCD_SENSOR,
            bands=config.layers or load_sensor(_OSCD_SENSOR).band_names,
            unit="digital-numbers" if config.unit == "auto" else config.unit,
            offset=0.0 if config.offset == "auto" else config.offset,
            quantification=config.quantification,
            nodata=config.nodata,
            band_pattern=config.band_pattern,
        )
        if config.align == "auto":
            # Its dates and masks were registered to each other pixel by pixel.
            config = replace(config, align="shape")
    dense = _build_set(entries, config, image_format, class_names, known)
    if config.tile_px is not None:
        dense = _cut_tiles(dense, config.tile_px)
    return divide(dense, config, config.split_seed) if divided else dense


def _format_of_segmunich(config: DenseDataConfig) -> ImageFormat:
    if config.layers is None:
        raise ConfigError(
            "SegMunich's files do not name their 10 bands, and descriptions of it "
            "disagree: the bands of 10 and 20 m (B02 B03 B04 B05 B06 B07 B08 B8A B11 "
            "B12), or B01 B02 B03 B04 B05 B06 B07 B8A B11 B12. State data.bands."
        )
    return config.image_format(Stated(sensor="sentinel-2-l2a"))


def _cut_tiles(dense: SampleSet, tile_px: int) -> SampleSet:
    """Cut each image into square tiles; those at the far edges are smaller."""
    samples = []
    for sample in dense.samples:
        height, width = sample.item.shape()
        whole = sample.window or Window(0, 0, height, width)
        for row in range(whole.row, whole.row + whole.height, tile_px):
            for column in range(whole.column, whole.column + whole.width, tile_px):
                tile = Window(
                    row,
                    column,
                    min(tile_px, whole.row + whole.height - row),
                    min(tile_px, whole.column + whole.width - column),
                )
                samples.append(replace(sample, window=tile))
    return replace(dense, samples=tuple(samples))


def _build_set(
    entries: Sequence[Entry],
    config: DenseDataConfig,
    image_format: ImageFormat,
    class_names: Sequence[str] | None,
    known: Classes | None = None,
) -> SampleSet:
    """Read the headers of all files and put the set together.

    Classes are numbered as `class_names` of a fine-tuned model, else as the set's own.
    """
    source = config.root
    if not entries:
        raise DataError(f"{source} holds no images with masks. Check the layout.")
    samples, headers = _describe_all(entries, config, image_format)
    if config.layout == "segmunich":
        for item in (sample.item for sample in samples):
            height, width = item.shape()
            if (height, width) != (_TILE_PX, _TILE_PX):
                raise DataError(
                    f"{item.name} has {height} x {width} px; tiles of SegMunich have "
                    f"{_TILE_PX} x {_TILE_PX}. Unpack it again, or use layout folders."
                )
    stated = Stated.of(image_format.facts)
    names, codes = _classes_of(samples, headers[0].tags, config, known)
    if config.target is not None:
        _report_finer(samples, config)
        wanted = tuple(class_names or names)
        if wanted != names:
            raise DataError(
                f"{source} measures {names[0]}, the model {', '.join(wanted)}. "
                "Set data.target.name if they are the same."
            )
    elif class_names is not None:
        names, codes = _renumber(names, codes, class_names, source)
    return SampleSet(
        tuple(samples),
        names,
        config.task,
        source,
        codes,
        config.ignored,
        None if config.target else _colours(config, names, codes, entries[0].masks[0]),
        config.positive,
        # What differs from image to image is of none of them in particular.
        replace(stated, offset="auto") if config.offsets else stated,
        config.measured,
    )


def _renumber(
    own: Sequence[str], codes: Mapping[int, int], names: Sequence[str], source: str
) -> Classes:
    """Put classes in the order of other names, matched by name."""
    unknown = [name for name in own if name not in names]
    if unknown:
        raise DataError(
            f"{source} has classes {', '.join(unknown)} that are not among "
            f"{', '.join(names)}. Name its codes by these classes in data.classes, "
            "or put codes without a class into data.ignored."
        )
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), {code: index[own[i]] for code, i in codes.items()}


def _classes_of(
    samples: Sequence[Sample],
    tags: Mapping[str, str],
    config: DenseDataConfig,
    known: Classes | None,
) -> Classes:
    """Take the classes that are stated, else those of the archive or the masks.

    Of the masks these are the tags of the first one, or else the codes of all.
    """
    if config.measured is not None:
        return (config.measured.name,), {}
    if config.class_masks is not None:
        return name_classes({name: i for i, name in enumerate(config.class_masks)})
    if config.classes is not None:
        return name_classes(config.classes, config.ignored)
    if known is not None:
        return known
    masks = [sample.mask for sample in samples if sample.mask]
    matches = {match: name for tag, name in tags.items() if (match := _TAG.match(tag))}
    named = {int(match[1]): name for match, name in matches.items()}
    if named:
        stated = {
            named[code]: code for code in sorted(named) if code not in config.ignored
        }
        return name_classes(stated)
    codes = seen_codes(masks, config.ignored)
    if not codes:
        raise DataError(
            f"the {len(masks)} masks hold no label: all pixels are nodata or ignored. "
            "Check data.ignored."
        )
    return name_classes({f"class {code}": code for code in codes})


def describe_entries(
    entries: Sequence[Entry], config: DenseDataConfig, image_format: ImageFormat
) -> list[tuple[Sample, Header] | SpectralGPTError]:
    """Read the headers of all files; what is wrong with an entry stands in its place.

    Args:
        entries: images with their masks.
        config: how they lie on disk, and what the codes mean.
        image_format: what is stated about the images.

    Returns:
        One for each entry, in order: its sample and a header, or the error.

    Raises:
        SpectralGPTError: a setting makes no sense, whatever the files are.
    """

    def describe(entry: Entry) -> tuple[Sample, Header] | SpectralGPTError:
        try:
            items = tuple(
                replace(image_format, offset=config.offset_of(path)).describe(path)
                if config.offsets
                else image_format.describe(path)
                for path in entry.images
            )
            try:
                return _fit(entry, items, config)
            except RasterError as error:
                raise FitError(str(error)) from None
        except SpectralGPTError as error:
            return error

    with quiet_gdal(), ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(describe, entries))


def _describe_all(
    entries: Sequence[Entry], config: DenseDataConfig, image_format: ImageFormat
) -> tuple[list[Sample], list[Header]]:
    results = describe_entries(entries, config, image_format)
    bad = {
        entry.name: result
        for entry, result in zip(entries, results, strict=True)
        if isinstance(result, SpectralGPTError)
    }
    errors = list(bad.values())
    if errors and len(errors) in (1, len(results)):
        # All alike is a wrong description, which its own error says best.
        raise errors[0]
    if errors:
        raise DataError(
            f"{config.root}: {len(errors)} of {len(results)} places are bad "
            f"({', '.join(bad)}), the first: {errors[0]}"
        )
    good = [result for result in results if not isinstance(result, SpectralGPTError)]
    samples = [sample for sample, _ in good]
    _report_dates(samples, config)
    return samples, [header for _, header in good]


def _report_finer(samples: Sequence[Sample], config: DenseDataConfig) -> None:
    """Report numbers of which an image's pixel takes one of several below it."""
    mask, image = samples[0].mask, samples[0].item.grid()
    assert mask is not None
    assert mask.grid is not None
    scale = abs(overlay(image, mask.grid, mask.align).rows[0])
    if scale >= _FINER:
        logger.warning(
            "%s: pixels of the masks are %.3g times as fine as those of the images, "
            "each of which takes the number at its centre alone. Average the masks to "
            "the images' pixels first.",
            config.root,
            scale,
        )


def _report_dates(samples: Sequence[Sample], config: DenseDataConfig) -> None:
    """Report the places whose two dates did not lie on each other as they are."""
    cut = [sample.name for sample in samples if isinstance(sample.item, Mosaic)]
    if cut:
        logger.warning(
            "%s: the dates of %d places lie whole pixels apart; what both show is used "
            "(%s).",
            config.root,
            len(cut),
            first_names(cut),
        )
    near = [
        sample.name
        for sample in samples
        if len(sample.items) > 1 and config.align != "shape"
        if sample.items[0].grid().difference(sample.items[1].grid()) is not None
    ]
    if near:
        logger.warning(
            "%s: the dates of %d places lie parts of a pixel apart, or only one has a "
            "place; they are read pixel by pixel (%s).",
            config.root,
            len(near),
            first_names(near),
        )


def _fit(
    entry: Entry, items: tuple[RasterFile, ...], config: DenseDataConfig
) -> tuple[Sample, Header]:
    """Lay dates and masks over each other."""
    if len(items) > 1:
        items = _fit_dates(items[0], items[1], config.align)
    mask, header = lay_masks(
        entry.masks,
        items[0],
        config.mask_index,
        config.align,
        one_a_class=config.class_masks is not None,
    )
    names = [name for tag, name in header.tags.items() if _TAG.fullmatch(tag)]
    if config.target is not None and names:
        raise DataError(
            f"{header.path} holds codes of classes ({first_names(names)}), no numbers: "
            "set data.task to segmentation, or name other masks."
        )
    place = entry.place or entry.name
    if config.place is not None:
        place = _place_of(place, config.place)
    sample = Sample(items, mask=mask, split=entry.split, place=place)
    return sample, header


def _fit_dates(
    first: RasterFile, second: RasterFile, align: Align
) -> tuple[RasterFile, RasterFile]:
    """Cut two dates that lie whole pixels apart to the ground that both show.

    Dates of one shape that lie on each other to half a pixel stay as they are.
    """
    grids = first.grid(), second.grid()
    shapes = [(grid.height, grid.width) for grid in grids]
    try:
        placed = overlay(*grids, align)
        scales = (placed.rows[0], placed.columns[0])
        if shapes[0] == shapes[1] and all(abs(s - 1) <= _SAME_SCALE for s in scales):
            return first, second
    except RasterError as error:
        if align == "shape":
            reason = str(error).replace("the mask", "the second date")
            raise RasterError(
                f"{first.name} and {second.name} do not lie on each other: {reason}"
            ) from None
    return cut_to_common(first, second)


def _place_of(name: str, pattern: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise ConfigError(f"data.place is no regular expression: {error}.") from None
    if match is None or "place" not in match.groupdict():
        raise ConfigError(
            f"data.place '{pattern}' does not fit '{name}', or has no group "
            "(?P<place>...). Change it."
        )
    return match.group("place")


def _colours(
    config: DenseDataConfig, names: Sequence[str], codes: Mapping[int, int], mask: Path
) -> tuple[str, ...]:
    """Colours of the classes: stated, else those of the masks, else after the names."""
    stated = dict(config.colours or {})
    unknown = [name for name in stated if name not in names]
    if unknown:
        raise ConfigError(
            f"data.colours are given for {', '.join(unknown)}; the classes are "
            f"{', '.join(names)}."
        )
    if config.colours is None and config.class_masks is None:
        for code, colour in read_palette(mask).items():
            if code in codes:
                stated.setdefault(names[codes[code]], colour)
    colours = class_colours(names, stated)
    return tuple(colours[name] for name in names)
