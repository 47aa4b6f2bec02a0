"""What tells tokens of dates and groups apart, and how large codes may be."""

import numpy as np
import pytest
import torch

from spectralgpt import objectives
from spectralgpt.models.sizes import SIZES, model_size
from spectralgpt.models.vit import date_parts


def test_dates_are_those_of_the_calendar() -> None:
    days = np.arange(-20_000, 40_000)
    dates = days.astype("datetime64[D]")
    years = dates.astype("datetime64[Y]").astype(int) + 1970
    months = dates.astype("datetime64[M]").astype(int) % 12
    parts = date_parts(torch.from_numpy(days + 0.75)[None])[0]
    assert torch.equal(parts[:, 0], torch.from_numpy(years - 2002.0))
    assert torch.equal(parts[:, 1], torch.from_numpy(months.astype(float)))
    assert parts[:, 2].unique().tolist() == [18.0]
    assert date_parts(torch.tensor([[torch.nan]])).isnan().all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temporal", [False, True])
def test_every_size_leaves_a_width_for_places(size: str, temporal: bool) -> None:
    with torch.device("meta"):
        model = objectives.build(
            "satmae",
            **(model_size(size) | {"depth": 1, "decoder_depth": 1}),
            temporal=temporal,
        )
    positions = model.encoder.positions
    assert positions.spatial.shape[-1] >= positions.embed_dim // 4


def test_bands_of_a_group_are_those_that_are_named() -> None:
    groups = [[2, 0], [1, 3, 4]]
    settings = {"image_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model = objectives.build(
        "satmae",
        **settings,
        num_bands=5,
        groups=groups,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    ).eval()
    images = torch.rand(1, 5, 16, 16)
    tokens = model.encoder.embed(images).unflatten(1, (2, 4))
    for band, group in ((0, 0), (2, 0), (1, 1), (3, 1), (4, 1)):
        changed = images.clone()
        changed[:, band] += 1
        found = model.encoder.embed(changed).unflatten(1, (2, 4))
        apart = (found - tokens).abs().amax(dim=(0, 2, 3)) > 0
        assert apart.tolist() == [group == 0, group == 1]
