"""Plain values become configurations, or one line says what is wrong with them."""

from dataclasses import replace

import pytest

from spectralgpt.config import build_config
from spectralgpt.data.labelled import LabelledDataConfig
from spectralgpt.errors import ConfigError
from spectralgpt.training.finetuning import FinetuneConfig


def test_a_setting_without_default_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match=r"start x, data: key 'root' is missing"):
        build_config({"layout": "csv"}, LabelledDataConfig, "start x, data")


def test_an_unknown_setting_lists_each_known_one_once() -> None:
    with pytest.raises(ConfigError, match="unknown key 'rot'") as caught:
        build_config({"rot": "here"}, LabelledDataConfig, "data")
    known = str(caught.value).rpartition("known: ")[2].rstrip(").").split(", ")
    assert "root" in known
    assert len(known) == len(set(known))


def test_a_section_keeps_what_the_configuration_around_it_gives_the_rest() -> None:
    settings = {
        "model": "tiny",
        "data": {"root": "somewhere"},
        "optimizer": {"base_lr": "1e-3"},
        "trainer": {"epochs": 7},
    }
    usual = FinetuneConfig(model="tiny", data=LabelledDataConfig(root="somewhere"))
    assert usual.optimizer.layer_decay == 0.75
    found = build_config(settings, FinetuneConfig, "start x")
    assert found.optimizer == replace(usual.optimizer, base_lr=1e-3)
    assert found.trainer == replace(usual.trainer, epochs=7)


@pytest.mark.parametrize("value", [True, "fast", 10**400, [1.0]])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="'gap_m' must be a number, found"):
        build_config({"root": "x", "gap_m": value}, LabelledDataConfig, "data")
