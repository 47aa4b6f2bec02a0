"""Our weights through torchgeo-bench's own interface, where it is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from spectralgpt.checkpoints import save_model
from spectralgpt.errors import BandError, CheckpointError, ConfigError
from spectralgpt.integrations import open_backbone
from tests.tiny import tiny_contract, tiny_encoder

# Their own warnings, when they are imported too, are no errors here.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        not find_spec("torchgeo_bench"), reason="torchgeo-bench is not installed"
    ),
]
SHIPPED = "spectralgpt-tiny-s2"


def test_bands_are_found_and_scaled_as_the_weights_need_them() -> None:
    from torchgeo_bench.datasets.eurosat import EuroSAT

    from spectralgpt.integrations.torchgeo_bench import SpectralGPTBench

    model = SpectralGPTBench(bands=EuroSAT.bands, normalization="identity").eval()
    numbers = torch.randint(200, 4000, (3, 13, 64, 64)).float()
    backbone = open_backbone(SHIPPED).eval()
    # B8A is the last in these files, and B10 is left out.
    order = [0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 10, 11]
    with torch.no_grad():
        expected = backbone(numbers[:, order] / 10_000)
        torch.testing.assert_close(model.forward_patch_features(numbers), expected)


def test_its_segmentation_probe_hooks_maps_of_several_band_groups(
    tmp_path: Path,
) -> None:
    from torchgeo_bench.datasets.eurosat import EuroSAT
    from torchgeo_bench.segmentation_probe import SegmentationProbe

    from spectralgpt.integrations.torchgeo_bench import SpectralGPTBench

    save_model(tmp_path, tiny_encoder(), preprocessing=tiny_contract())
    model = SpectralGPTBench(EuroSAT.bands, weights=tmp_path)
    layers = [f"levels.{at}" for at in (3, 2, 1, 0)]
    probe = SegmentationProbe(model, layers, num_classes=5)
    assert probe.channels_list == [4 * 48] * 4
    assert probe.feature_hw_list == [(28, 28)] * 4
    scores = probe(torch.randint(200, 4000, (2, 13, 64, 64)).float())
    assert scores.shape == (2, 5, 64, 64)


def test_an_encoder_of_any_bands_takes_what_there_is(tmp_path: Path) -> None:
    from torchgeo_bench.datasets.base import BandSpec
    from torchgeo_bench.datasets.eurosat import EuroSAT

    from spectralgpt.integrations.torchgeo_bench import SpectralGPTBench

    rgb = [EuroSAT.bands[at] for at in (3, 2, 1)]
    save_model(tmp_path, tiny_encoder(), preprocessing=tiny_contract())
    model = SpectralGPTBench(rgb, weights=tmp_path)
    assert model.backbone.preprocessing.band_names == ("B02", "B03", "B04")
    assert model.order == [2, 1, 0]
    assert model(torch.rand(2, 3, 32, 32) * 3000).shape == (2, 48)
    with pytest.raises(CheckpointError, match="its own 12 bands only"):
        SpectralGPTBench(rgb, weights=SHIPPED)
    radar = [BandSpec("sar", "vv", "VV", -12.0, 3.0, -40.0, 5.0)]
    with pytest.raises(BandError, match="has none of them"):
        SpectralGPTBench(radar, weights=SHIPPED)
    with pytest.raises(ConfigError, match="normalization=identity"):
        SpectralGPTBench(rgb, normalization="bandspec_zscore")
