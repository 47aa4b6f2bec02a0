"""TerraTorch's own command on our weights, where TerraTorch is installed."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from spectralgpt.cli.main import main
from spectralgpt.errors import CheckpointError, ConfigError

# Their own warnings, when they are imported too, are no errors here.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        not find_spec("terratorch"), reason="TerraTorch is not installed"
    ),
]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "terratorch.yaml"


def test_its_registry_builds_features_of_four_depths() -> None:
    from terratorch.registry import BACKBONE_REGISTRY

    import spectralgpt.integrations.terratorch  # noqa: F401

    for name in ("spectralgpt", "terratorch_spectralgpt"):
        backbone = BACKBONE_REGISTRY.build(name, img_size=64).eval()
        with torch.no_grad():
            found = backbone(torch.rand(2, 12, 64, 64) * 0.3)
        assert [each.shape[1] for each in found] == backbone.out_channels
        assert {tuple(each.shape) for each in found} == {(2, 512, 8, 8)}
    timms = BACKBONE_REGISTRY.build("timm_spectralgpt_tiny", in_chans=12, img_size=32)
    assert timms.out_channels == [4 * 192] * 4
    with pytest.raises(ConfigError, match="spectralgpt has no size: pass weights="):
        BACKBONE_REGISTRY.build("spectralgpt", pretrained=False)
    with pytest.raises(CheckpointError, match="no model at"):
        BACKBONE_REGISTRY.build("spectralgpt", weights="none.pth")


def test_terratorch_fit_runs_the_example(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    main(f"simulate --output {archive} --tasks segmentation --images 40".split())
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("terratorch")), "fit"),
            *("-c", str(EXAMPLE), "--trainer.fast_dev_run", "true"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
