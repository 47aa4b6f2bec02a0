import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spectralgpt.checkpoints import save_model
from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import BandStatistics, Preprocessing
from spectralgpt.sensors import Band
from spectralgpt.training.transfer import (
    Start,
    TransferConfig,
    choose_contract,
    load_start,
)
from tests.tiny import tiny_contract, tiny_encoder

CONFIG = TransferConfig(model="any")


def statistics(std: float, source: str) -> BandStatistics:
    names = tiny_contract().band_names
    return BandStatistics(
        mean=dict.fromkeys(names, 0.2),
        std=dict.fromkeys(names, std),
        low=dict.fromkeys(names, 0.0),
        high=dict.fromkeys(names, 1.0),
        source=source,
    )


def start(std: float = 0.1) -> Start:
    contract = replace(
        tiny_contract(), scaling="z-score", statistics=statistics(std, "pretraining")
    )
    return Start(tiny_encoder(), contract, "z-score")


def measure(bands: Sequence[Band]) -> BandStatistics:
    assert [band.name for band in bands] == list(tiny_contract().band_names)
    return statistics(0.02, "training images")


def source_of(contract: Preprocessing) -> str:
    assert contract.statistics is not None
    return contract.statistics.source


def test_statistics_of_the_checkpoint_are_kept_unless_others_are_asked_for() -> None:
    kept = choose_contract(start(), CONFIG, measure)
    assert (kept.scaling, source_of(kept)) == ("z-score", "pretraining")
    own = choose_contract(start(), replace(CONFIG, statistics="training"), measure)
    assert (own.scaling, source_of(own)) == ("z-score", "training images")


def test_images_far_from_the_statistics_are_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        choose_contract(start(0.025), CONFIG, measure)
        assert not caplog.messages
        choose_contract(start(0.1), CONFIG, measure)
    assert "0.2 of the spread" in caplog.text
    assert "statistics: training" in caplog.text


def test_another_scaling_measures_its_statistics() -> None:
    ranged = choose_contract(start(), replace(CONFIG, scaling="fixed-range"), measure)
    assert (ranged.scaling, source_of(ranged)) == ("fixed-range", "training images")
    plain = choose_contract(start(), replace(CONFIG, scaling="image-minmax"), measure)
    assert plain.statistics is None


def test_scaling_of_the_checkpoint_is_taken_up_again_for_new_bands() -> None:
    unknown = Start(tiny_encoder(), tiny_contract(), "z-score")
    contract = choose_contract(unknown, CONFIG, measure)
    assert (contract.scaling, source_of(contract)) == ("z-score", "training images")


def test_random_weights_may_have_another_patch_size(tmp_path: Path) -> None:
    config = TransferConfig(
        model="tiny", sensor="sentinel-2-l2a", image_size=32, patch_size=4
    )
    begun = load_start(config)
    assert begun.encoder.patch_size == begun.preprocessing.patch_size == 4
    assert begun.encoder(torch.rand(1, 12, 32, 32)).shape == (1, 4, 8, 8, 192)
    model = save_model(tmp_path, tiny_encoder(), tiny_contract())
    with pytest.raises(ConfigError, match="brings its own"):
        load_start(replace(config, model=str(model)))
    with pytest.raises(ConfigError, match="at least 1"):
        replace(config, patch_size=0)
