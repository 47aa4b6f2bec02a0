"""The model that a pretraining run starts from: random weights, or a checkpoint."""

import torch

from spectralgpt.checkpoints import load_model
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.building import build_autoencoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.sizes import model_size
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.training.pretrain_config import ModelConfig, PretrainConfig

__all__ = ["build_model"]


def build_model(
    config: PretrainConfig, preprocessing: Preprocessing, has_series: bool = False
) -> MaskedAutoencoder:
    """Build the model of a run, or load it with positions for the run's images.

    Args:
        config: names the size and the checkpoint, if there is one.
        preprocessing: bands and image size that its positions are for.
        has_series: whether it is told dates; a checkpoint without date embedding gains
            one of zeros.

    Raises:
        CheckpointError: the checkpoint is missing, or no masked autoencoder.
        ConfigError: it has another size than the configuration says.
    """
    if config.model.start_from is not None:
        model = _load_start(config.model, preprocessing)
        if has_series:
            model.add_date_embedding()
        if not config.model.keep_positions:
            fresh = _build_random(config, preprocessing, has_series)
            model.encoder.positions.load_state_dict(
                fresh.encoder.positions.state_dict()
            )
            model.decoder.positions.load_state_dict(
                fresh.decoder.positions.state_dict()
            )
        return model
    return _build_random(config, preprocessing, has_series)


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


def _load_start(config: ModelConfig, preprocessing: Preprocessing) -> MaskedAutoencoder:
    assert config.start_from is not None
    model = load_model(
        config.start_from,
        image_size=preprocessing.image_size,
        bands=preprocessing.bands,
    ).model
    if not isinstance(model, MaskedAutoencoder):
        raise CheckpointError(
            f"{config.start_from} holds a {type(model).__name__}; pretraining starts "
            "from a masked autoencoder. Name the checkpoint of a pretraining run."
        )
    wanted = {"embed_dim": model_size(config.size).embed_dim} | config.settings()
    for name, value in wanted.items():
        if name in model.config and model.config[name] != value:
            raise ConfigError(
                f"model.{name} is {value} (size {config.size}), but "
                f"{config.start_from} has {model.config[name]}. Set it to that."
            )
    return model.train()
