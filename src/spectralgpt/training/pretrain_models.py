"""The model of a pretraining run: built anew, or loaded and moved to its images."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spectralgpt import objectives
from spectralgpt.building import build_autoencoder
from spectralgpt.checkpoints import load_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.objective import Objective
from spectralgpt.models.sizes import SIZES, model_size
from spectralgpt.objectives import OURS, settings_of
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.training.pretrain_config import ModelConfig, PretrainConfig

_log = logging.getLogger(__name__)


def build_model(
    config: PretrainConfig, preprocessing: Preprocessing, has_series: bool = False
) -> Objective:
    """Build the model of a run, or load it with positions for the run's images.

    Args:
        config: names the objective, the size and the checkpoint, if there is one.
        preprocessing: bands and image size that its positions are for.
        has_series: whether it is told dates; a checkpoint without date embedding gains
            one of zeros.

    Raises:
        CheckpointError: the checkpoint is missing, or of another objective.
        ConfigError: it has another size than the configuration says.
    """
    if config.objective != OURS:
        return _build_other(config, preprocessing)
    model = (
        _build_random(config, preprocessing, has_series)
        if config.model.start_from is None
        else _load_start(config.model, preprocessing)
    )
    if has_series:
        model.add_date_embedding()
    _set_tokenizer(model, config, preprocessing)
    if config.model.start_from is not None and not config.model.keep_positions:
        fresh = _build_random(config, preprocessing, has_series)
        for part, anew in (
            (model.encoder, fresh.encoder),
            (model.decoder, fresh.decoder),
        ):
            part.positions.load_state_dict(anew.positions.state_dict())
    return model


def _build_other(config: PretrainConfig, preprocessing: Preprocessing) -> Objective:
    """Build another objective than ours, or load it."""
    if not config.model.keep_positions:
        raise ConfigError(
            f"model.keep_positions is false, but objective {config.objective} does not "
            "have it: leave it out."
        )
    settings = config.objective_settings()
    of_data = {
        "image_size": preprocessing.image_size,
        "num_bands": len(preprocessing.bands),
        "wavelengths_nm": preprocessing.wavelengths_nm,
    }
    known = settings_of(config.objective)
    if settings.get("groups") is not None:
        settings["groups"] = _numbered(settings["groups"], preprocessing)
    settings |= {name: value for name, value in of_data.items() if name in known}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = objectives.build(config.objective, **settings)
        if config.teacher is not None:
            _give_teacher(model, config.teacher, preprocessing)
    if config.model.start_from is None:
        model.check_ready()
        return model
    start = load_model(
        config.model.start_from,
        image_size=preprocessing.image_size,
        bands=preprocessing.bands,
    )
    _warn_of_shift(start.preprocessing, preprocessing, config.model.start_from)
    model.start_from(start.model, config.model.start_from)
    model.check_ready()
    return model.train()


def _give_teacher(model: Objective, name: str, contract: Preprocessing) -> None:
    """Load the model to learn from, in the bands and the scale of the images.

    Raises:
        CheckpointError: it is not there, or takes other bands.
        ConfigError: it has random weights, or does not say how its images are scaled,
            or otherwise than can be made of these.
    """
    if name in SIZES and not Path(name).exists():
        raise ConfigError(f"teacher {name} has random weights: name a trained model.")
    loaded = load_model(name, image_size=contract.image_size, bands=contract.bands)
    if loaded.preprocessing is None:
        raise ConfigError(
            f"teacher {name} does not say how its images are scaled: name a model that "
            "was trained here, or published SpectralGPT weights."
        )
    try:
        factor, shift = contract.rescaling_to(loaded.preprocessing)
    except ConfigError as error:
        raise ConfigError(f"teacher {name}: {error}") from None
    model.learn_from(loaded.encoder, torch.from_numpy(factor), torch.from_numpy(shift))


def _numbered(groups: Sequence[Any], preprocessing: Preprocessing) -> Sequence[Any]:
    """Return groups of bands by number, where they are stated by name.

    Raises:
        ConfigError: there is no such band.
    """
    if not all(isinstance(group, list | tuple) for group in groups):
        return groups  # The objective refuses them.
    names = list(preprocessing.band_names)
    for band in (band for group in groups for band in group):
        if isinstance(band, str) and band not in names:
            raise ConfigError(
                f"settings.groups names band {band}, but the images' are "
                f"{', '.join(names)}."
            )
    return [
        [names.index(band) if isinstance(band, str) else band for band in group]
        for group in groups
    ]


def _build_random(
    config: PretrainConfig, preprocessing: Preprocessing, has_series: bool
) -> MaskedAutoencoder:
    # Processes that shard the model must all start from the same weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_autoencoder(
            config.model.size,
            image_size=preprocessing.image_size,
            num_bands=len(preprocessing.bands),
            wavelengths_nm=preprocessing.wavelengths_nm,
            date_embedding=has_series,
            **config.model.settings(),
        )


def _set_tokenizer(
    model: MaskedAutoencoder, config: PretrainConfig, preprocessing: Preprocessing
) -> None:
    """Give a model the tokeniser that is asked for, or that its sensors need."""
    own = "linear" if model.encoder.tokenizer is None else "spectral"
    asked, is_mixed = config.model.tokenizer, bool(preprocessing.others)
    wanted = asked or ("spectral" if is_mixed else own)
    if wanted == own:
        return
    if own == "spectral":
        raise ConfigError(
            f"model.tokenizer is {wanted}, but the weights of "
            f"{config.model.start_from} follow its bands: leave it out."
        )
    if asked is None:
        _log.info(
            "sensors are mixed, so that weights of tokens follow their bands: "
            "model.tokenizer linear gives all band groups the same."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model.add_spectral_tokenizer(preprocessing.band_rows)


def _load_start(config: ModelConfig, preprocessing: Preprocessing) -> MaskedAutoencoder:
    assert config.start_from is not None
    loaded = load_model(
        config.start_from,
        image_size=preprocessing.image_size,
        bands=preprocessing.bands,
    )
    model = loaded.model
    if not isinstance(model, MaskedAutoencoder):
        raise CheckpointError(
            f"{config.start_from} holds a {type(model).__name__}; objective {OURS} "
            "starts from weights of its own. Name the checkpoint of such a run, or the "
            "objective of this one."
        )
    wanted = {"embed_dim": model_size(config.size)["embed_dim"]} | config.settings()
    for name, value in wanted.items():
        if name in model.config and model.config[name] != value:
            raise ConfigError(
                f"model.{name} is {value} (size {config.size}), but "
                f"{config.start_from} has {model.config[name]}. Set it to that."
            )
    _warn_of_shift(loaded.preprocessing, preprocessing, config.start_from)
    return model.train()


def _warn_of_shift(
    known: Preprocessing | None, images: Preprocessing, name: str
) -> None:
    """Say that images are scaled otherwise than those that weights learned from."""
    known = None if known is None else known.for_bands(images.bands)
    if known is None or not known.knows(images.bands):
        return
    if known.scaling != images.scaling:
        _log.warning(
            "%s learned from images scaled by %s, data.scaling is %s: what it has "
            "learned shifts.",
            name,
            known.scaling,
            images.scaling,
        )
    elif known.statistics != images.statistics:
        _log.warning(
            "images are scaled by statistics measured on them, not by those of %s: "
            "what it has learned shifts. data.statistics %s keeps them.",
            name,
            name,
        )
