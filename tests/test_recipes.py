"""The shipped recipes fit their configuration classes and the sensors they name."""

import pytest

from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import sensor_preprocessing
from spectralgpt.recipes import describe_recipe, find_recipe, list_recipes
from spectralgpt.training.configuration import read_config
from spectralgpt.training.pretrain_config import PretrainConfig

PRETRAINING = [name for name in list_recipes() if name.startswith(("pretrain", "demo"))]


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_recipe_names_twelve_bands_of_its_sensor(name: str) -> None:
    config = read_config(find_recipe(name), PretrainConfig)
    data = config.data
    contract = sensor_preprocessing(data.sensor, data.bands, data.exclude_bands)
    assert len(contract.bands) == 12
    assert "B10" not in contract.band_names
    assert config.optimizer.warmup_epochs < config.trainer.epochs


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_says_what_it_is(name: str) -> None:
    assert len(describe_recipe(name)) > 20


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'pretrain_tiny'"):
        find_recipe("pretrain_tinny")
