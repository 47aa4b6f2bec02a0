"""The scaling in the graph is the one that training had."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralgpt.checkpoints import LoadedModel
from spectralgpt.errors import ConfigError
from spectralgpt.exporting.graphs import (
    ExportGraph,
    ReflectanceScaling,
    choose_output,
    input_shape,
)
from spectralgpt.rasters import Raster
from spectralgpt.scaling import Scaling
from tests.exported import contract, loaded
from tests.tiny import tiny_encoder


@pytest.mark.parametrize("scaling", get_args(Scaling))
@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), invalid=st.floats(0, 0.9), empty=st.booleans())
def test_scaling_is_that_of_the_contract(
    scaling: Scaling, seed: int, invalid: float, empty: bool
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-0.1, 1.2, (12, 8, 8)).astype(np.float32)
    valid = rng.random(pixels.shape) >= invalid
    valid[0, 0, 0] = True
    if empty:
        valid[3] = False
    rules = contract(scaling)
    expected, _ = rules.prepare(Raster(pixels, valid, rules.bands), is_checked=True)
    images = torch.from_numpy(np.where(valid, pixels, np.float32(np.nan)))
    scaled = ReflectanceScaling(rules)(images[None])[0].numpy()
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-5)


def test_embedding_is_what_embed_writes() -> None:
    model = loaded("autoencoder")
    images = torch.rand(2, 12, 32, 32)
    embedding, tokens = ExportGraph(model, "embeddings")(images)
    scaled = ReflectanceScaling(contract("z-score"))(images)
    assert torch.allclose(embedding, model.encoder.pooled(scaled), atol=1e-6)
    assert torch.equal(tokens, model.encoder(scaled))


def test_auto_takes_logits_where_there_are_any() -> None:
    assert choose_output(loaded("classifier"), "auto") == "logits"
    assert choose_output(loaded("fpn"), "auto") == "logits"
    assert choose_output(loaded("autoencoder"), "auto") == "embeddings"
    assert choose_output(loaded("classifier"), "embeddings") == "embeddings"
    with pytest.raises(ConfigError, match="no logits: export embeddings"):
        choose_output(loaded("encoder"), "logits")


def test_change_takes_two_dates_and_its_embeddings_one() -> None:
    model = loaded("change")
    assert input_shape(model, "logits") == (2, 12, 32, 32)
    assert input_shape(model, "embeddings") == (12, 32, 32)


def test_a_model_without_contract_is_refused() -> None:
    with pytest.raises(ConfigError, match="carries no preprocessing contract"):
        ExportGraph(LoadedModel(tiny_encoder(), None), "embeddings")
