"""Plain values become configurations, or one line says what is wrong with them."""

import pytest

from spectralgpt.data.labelled import LabelledDataConfig
from spectralgpt.errors import ConfigError
from spectralgpt.training.configuration import build_config


def test_a_setting_without_default_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match=r"start x, data: key 'root' is missing"):
        build_config({"layout": "csv"}, LabelledDataConfig, "start x, data")


def test_an_unknown_setting_lists_each_known_one_once() -> None:
    with pytest.raises(ConfigError, match="unknown key 'rot'") as caught:
        build_config({"rot": "here"}, LabelledDataConfig, "data")
    known = str(caught.value).rpartition("known: ")[2].rstrip(").").split(", ")
    assert "root" in known
    assert len(known) == len(set(known))
