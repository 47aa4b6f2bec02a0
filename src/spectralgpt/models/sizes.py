"""Which models can be asked for: by name, a size or a file of weights, or by settings.

Settings come from recipes, from Python and from checkpoints that strangers wrote: all
of them are checked here, by the names of the constructors' arguments, before anything
is built. Importing this is quick, so that a wrong name is found before torch is
imported.
"""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NoReturn

from spectralgpt.config import suggest
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.weights import fetch, find_named, list_weights

WEIGHTS_FILE = "model.safetensors"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# A missing file of these is no Hub name, which may have a dot in it, as in v1.5.
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")

# Least and most; far beyond all models that are known, and within what can be built.
_COUNTS = {
    name: limits
    for limits, names in {
        (1, 16_384): ("image_size", "mask_patch_size"),
        (1, 10_000): (
            *("num_bands", "bands_per_token", "frames_per_token", "num_dates"),
            *("num_frames", "t_patch", "pred_t_dim"),
        ),
        (1, 1024): ("patch_size", "num_heads", "decoder_num_heads"),
        (1, 1000): ("depth",),
        (0, 1000): ("decoder_depth",),
        (1, 65_536): (
            *("embed_dim", "decoder_embed_dim", "head_channels", "dim", "hidden_dim"),
            *("num_classes", "vocab_size", "code_dim", "teacher_dim"),
        ),
        (0, 65_536): ("group_dim", "decoder_group_dim", "date_dim", "decoder_date_dim"),
        (1, 10**8): ("queue_size", "min_mask_patches", "max_mask_patches"),
    }.items()
    for name in names
}
# One of each stage, where they are a list: those are checked where stages are built.
_STAGED = ("num_heads", "window_size")
_SHARES = ("drop_path", "head_dropout")
_WEIGHTS = (
    *("token_loss_weight", "spectral_loss_weight", "mlp_ratio"),
    *("pixel_loss_weight", "feature_loss_weight"),
    *("layer_scale", "temperature", "momentum", "beta"),
)
_POSITIVE = ("temperature", "momentum", "beta")
_FLAGS = (
    *("date_embedding", "normalize_targets", "skip_first_token", "apply_norm"),
    *("pixel_detail", "multilevel", "published", "temporal", "consistent_mask"),
    *("joint_positions", "codes_token", "class_token", "sep_pos_embed"),
)
_NEEDED = ("image_size", "num_bands", "patch_size", "embed_dim", "depth", "num_heads")
_LONGEST = 10**40
_MOST_PARAMETERS = 100e9
# From the far ultraviolet to radar.
_WAVELENGTHS_NM = (100.0, 1e10)


_SIZE_NAMES = (
    *("embed_dim", "depth", "num_heads"),
    *("decoder_embed_dim", "decoder_depth", "decoder_num_heads"),
)
# base, large and huge: Hong et al. 2024; tiny and small are ours, for laptops.
_SIZES = {
    "tiny": (192, 6, 3, 128, 2, 4),
    "small": (384, 8, 6, 256, 3, 8),
    "base": (768, 12, 12, 512, 4, 16),
    "large": (1024, 24, 16, 512, 4, 16),
    "huge": (1280, 32, 16, 512, 4, 16),
}
SIZES = tuple(_SIZES)


def model_size(name: str) -> dict[str, int]:
    """Return width, depth and heads of encoder and decoder of a size.

    Raises:
        ConfigError: there is no size of that name.
    """
    if name not in _SIZES:
        raise ConfigError(f"model size {name!r} is unknown: use {', '.join(SIZES)}.")
    return dict(zip(_SIZE_NAMES, _SIZES[name], strict=True))


def find_weights(name_or_path: str | Path, *, is_needed: bool = True) -> Path | None:
    """Return the file that a model's weights are in, which is not read.

    Args:
        name_or_path: see `spectralgpt.load_model`. What is there as a path is taken for
            one, whatever it is called.
        is_needed: download named weights that are not there yet.

    Returns:
        None for sizes and Hub names, and for named weights that are not needed.

    Raises:
        CheckpointError: there is no such model, a folder holds none, or named weights
            cannot be had.
    """
    name, path = str(name_or_path), Path(name_or_path)
    named = find_named(name)
    if path.is_dir():
        # A run folder holds its exported model in checkpoints/model.
        for candidate in (path, path / "checkpoints" / "model"):
            if (candidate / WEIGHTS_FILE).is_file():
                return candidate / WEIGHTS_FILE
        if named is None:
            raise CheckpointError(
                f"folder {path} holds no {WEIGHTS_FILE}: is it a model?"
            )
    if path.is_file():
        return path
    if named is not None:
        return fetch(named) if is_needed else None
    is_hub_name = _HUB_NAME.fullmatch(name) and path.suffix not in _WEIGHTS_SUFFIXES
    if name not in SIZES and not is_hub_name:
        known = list_weights()
        raise CheckpointError(
            f"no model at {name}: give a checkpoint folder or file, a Hub name "
            f"owner/name, a size ({', '.join(SIZES)}), or weights by name "
            f"({', '.join(known)}){suggest(name, [*SIZES, *known])}"
        )
    return None


def check_settings(settings: Mapping[str, Any], section: str = "") -> None:
    """Refuse settings of a model that are of another type or out of range.

    Args:
        settings: by the constructors' names; others are not looked at.
        section: put before names in messages, such as `model.`.

    Raises:
        ConfigError: names the setting, its value and what it may be.
    """
    settings = {
        name: value
        for name, value in settings.items()
        if (value is not None or name in _NEEDED)
        and not (name in _STAGED and isinstance(value, list | tuple))
    }
    _check_counts(settings, section)
    for name in (*_SHARES, *_WEIGHTS):
        value = settings.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            _refuse(section + name, value, "a number")
        if name in _SHARES and not 0 <= value < 1:
            _refuse(section + name, value, "0 up to below 1")
        if not 0 <= value < math.inf:
            _refuse(section + name, value, "at least 0")
        if name in _POSITIVE and name in settings and not value:
            _refuse(section + name, value, "above 0")
    for name in _FLAGS:
        if not isinstance(settings.get(name, False), bool):
            _refuse(section + name, settings[name], "true or false")
    for prefix in ("", "decoder_"):
        _check_stack(settings, section, prefix)


def _check_counts(settings: Mapping[str, Any], section: str) -> None:
    for name, (least, most) in _COUNTS.items():
        value = settings.get(name, least)
        if isinstance(value, bool) or not isinstance(value, Integral):
            _refuse(section + name, value, "a whole number")
        value = int(value)
        if value < least:
            _refuse(section + name, value, f"at least {least}")
        if value > most:
            _refuse(section + name, value, f"at most {most}")


def _check_stack(settings: Mapping[str, Any], section: str, prefix: str) -> None:
    """Check width, heads and depth of a stack of blocks against each other."""
    width = settings.get(f"{prefix}embed_dim", 1)
    heads = settings.get(f"{prefix}num_heads", 1)
    if f"{prefix}embed_dim" in settings and width % heads:
        raise ConfigError(
            f"{section}{prefix}embed_dim {width} is no multiple of "
            f"{prefix}num_heads {heads}."
        )
    # Twelve squares of the width make a block: 4 in attention, 8 in the MLP.
    parameters = 12 * width**2 * settings.get(f"{prefix}depth", 1)
    if parameters > _MOST_PARAMETERS:
        raise ConfigError(
            f"{section}{prefix}embed_dim {width} and {prefix}depth make "
            f"{parameters:.2g} weights, more than {_MOST_PARAMETERS:.0g}: lower one of "
            "them."
        )


def _refuse(name: str, value: Any, wanted: str) -> NoReturn:
    # A whole number of thousands of digits cannot even be printed.
    is_huge = isinstance(value, Integral) and abs(int(value)) > _LONGEST
    shown = "enormous" if is_huge else repr(value)[:40]
    raise ConfigError(f"{name} is {shown}; it must be {wanted}.")


def check_wavelengths(
    wavelengths_nm: Any, num_bands: int
) -> tuple[float, ...] | tuple[tuple[float, ...], ...] | None:
    """Return what is said of each of `num_bands` bands as plain numbers.

    Args:
        wavelengths_nm: centres in nm; or rows of centre in nm, width in nm and ground
            sampling distance in m. None stays None.
        num_bands: bands of the images.

    Raises:
        ConfigError: they are no numbers, another count, or out of range (a unit slip).
    """
    if wavelengths_nm is None:
        return None
    try:
        values: Any = tuple(
            tuple(map(float, value)) if isinstance(value, Sequence) else float(value)
            for value in wavelengths_nm
        )
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"wavelengths_nm must be a list of numbers, found "
            f"{str(wavelengths_nm)[:40]}."
        ) from None
    if len(values) != num_bands:
        raise ConfigError(f"{len(values)} wavelengths for {num_bands} bands.")
    low, high = _WAVELENGTHS_NM
    for value in values:
        centre, *size = value if isinstance(value, tuple) else (value,)
        if not low <= centre <= high:
            raise ConfigError(f"wavelength {centre} is not in nm: 0.49 um is 490 nm.")
        if isinstance(value, tuple) and not (
            len(size) == 2 and all(0 < each < math.inf for each in size)
        ):
            raise ConfigError(
                f"a band at {centre:g} nm is {list(value)}: give its centre (nm), "
                "width (nm) and ground sampling distance (m), all above 0."
            )
    checked: tuple[float, ...] | tuple[tuple[float, ...], ...] = values
    return checked
