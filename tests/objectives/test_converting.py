"""Published checkpoints of MAE, SatMAE and ST-MAE become ours, and theirs again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spectralgpt import objectives
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.cli.main import main
from spectralgpt.data.labelled import LabelledDataConfig
from spectralgpt.data.splits import Fractions
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.heads import ClassificationModel, SegmentationModel
from spectralgpt.objectives import Objective
from spectralgpt.training.finetuning import FinetuneConfig, finetune
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig
from tests.objectives.test_autoencoders import SMALL
from tests.toy import SENSOR, write_archive

HEADS = {"num_heads": 4, "decoder_num_heads": 4}
TIMES = {"num_frames": 6, "t_patch": 3}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mae": ("mae", {"num_bands": 5}, {}),
    "satmae": ("satmae", {"num_bands": 10}, {}),
    "satmae, other groups": (
        "satmae",
        {"num_bands": 5, "groups": [[4, 0], [3, 1, 2]]},
        {"groups": [[4, 0], [3, 1, 2]]},
    ),
    "satmae temporal": (
        "satmae",
        {"num_bands": 5, "temporal": True, "date_dim": 8, "mlp_ratio": 2},
        {},
    ),
    "st-mae": ("st-mae", {"num_bands": 5, "pred_t_dim": 2, **TIMES}, {}),
    "st-mae without class token": (
        "st-mae",
        {"num_bands": 5, "class_token": False, **TIMES},
        {},
    ),
    "st-mae, one table": (
        "st-mae",
        {"num_bands": 5, "sep_pos_embed": False, **TIMES},
        {"num_frames": 6},
    ),
}


def make(kind: str) -> tuple[Objective, dict[str, Any]]:
    torch.manual_seed(0)
    name, settings, stated = KINDS[kind]
    return objectives.build(name, **SMALL, **settings).eval(), HEADS | stated


def write_published(path: Path, model: Objective) -> dict[str, Tensor]:
    state = model.published_names(model.state_dict())
    torch.save({"model": {name: value.clone() for name, value in state.items()}}, path)
    return state


def images_of(model: Objective, dates: int = 2) -> Tensor:
    size = (model.encoder.num_bands, 32, 32)
    return torch.rand(2, dates, *size) if model.takes_series else torch.rand(2, *size)


@pytest.mark.parametrize("kind", KINDS)
def test_published_weights_become_ours_and_theirs_again(
    kind: str, tmp_path: Path
) -> None:
    model, stated = make(kind)
    state = write_published(tmp_path / "theirs.pth", model)
    words = [f"--{name}={value}" for name, value in stated.items()]
    ours, back = tmp_path / "ours", tmp_path / "back"
    source = str(tmp_path / "theirs.pth")
    assert main(["convert", source, "--output", str(ours), *words]) == 0
    assert main(["convert", str(ours), "--to=published", "--output", str(back)]) == 0
    for path in (ours, back / "SpectralGPT.pth"):
        found = load_model(path)
        assert type(found.model) is type(model)
        assert found.preprocessing is None
        images = images_of(model)
        noise = torch.rand(2, model.noise_size(images))
        assert torch.equal(
            found.model(images, 0.5, noise).prediction,
            model(images, 0.5, noise).prediction,
        )
    again = torch.load(back / "SpectralGPT.pth", weights_only=True)["model"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("kind", "left_out", "what"),
    [
        ("mae", "num_heads", "width 48 is none of the published"),
        ("satmae", "decoder_num_heads", "decoder width 32 is none of the published"),
        ("satmae, other groups", "groups", r"hold 2, 3 bands, .* convert it with --gr"),
        ("st-mae, one table", "num_frames", "convert it with --num-frames N"),
    ],
)
def test_what_no_shape_says_is_never_guessed(
    kind: str, left_out: str, what: str, tmp_path: Path
) -> None:
    model, stated = make(kind)
    write_published(tmp_path / "theirs.pth", model)
    del stated[left_out]
    with pytest.raises(CheckpointError, match=what):
        load_model(tmp_path / "theirs.pth", stated=stated)


def test_what_is_stated_in_vain_or_wrongly_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    write_published(path, make("mae")[0])
    with pytest.raises(ConfigError, match="has no groups: leave it out"):
        load_model(path, stated=HEADS | {"groups": [[0, 1]]})
    write_published(path, make("satmae, other groups")[0])
    for groups, what in (
        ([[0, 1, 2], [3, 4]], "its band groups hold 2, 3 bands"),
        ([[0, 1], [1, 2, 3]], "each of the 5 bands"),
    ):
        with pytest.raises(CheckpointError, match=what):
            load_model(path, stated=HEADS | {"groups": groups})


def test_a_head_on_such_an_encoder_has_no_published_format(tmp_path: Path) -> None:
    model = ClassificationModel(make("st-mae without class token")[0].encoder, 3)
    save_model(tmp_path / "ours", model)
    words = ["convert", str(tmp_path / "ours"), "--to", "published"]
    assert main([*words, "--output", str(tmp_path / "back")]) == 1


@pytest.mark.parametrize("kind", ["mae", "satmae", "satmae temporal", "st-mae"])
def test_encoders_take_single_images_and_series(kind: str, tmp_path: Path) -> None:
    encoder = make(kind)[0].encoder
    images = torch.rand(2, encoder.num_bands, 32, 32)
    for head, shape in (
        (ClassificationModel(encoder, 3), (2, 3)),
        (SegmentationModel(encoder, 3, "linear"), (2, 3, 32, 32)),
    ):
        assert head(images).shape == shape
        torch.nn.init.normal_(
            next(p for n, p in head.named_parameters() if "head" in n)
        )
        head(images).square().sum().backward()
        gradient = encoder.embedding[0].weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
        series = torch.stack([images, images.flip(-1)], dim=1)
        assert head(series).shape == shape
        folder = save_model(tmp_path / type(head).__name__, head)
        kept = load_model(folder).model
        assert torch.equal(kept(images), head.eval()(images))
        assert not any("positions" in n for n, _ in kept.named_parameters()) or (
            kind == "st-mae"
        )


def test_fine_tuning_starts_from_converted_weights(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", per_class=5)
    model, stated = make("satmae")
    write_published(tmp_path / "theirs.pth", model)
    loaded = load_model(tmp_path / "theirs.pth", stated=stated)
    save_model(tmp_path / "ours", loaded.model)
    fractions = Fractions(0.6, 0.2, 0.2)
    settings: dict[str, Any] = {
        "model": str(tmp_path / "ours"),
        "data": LabelledDataConfig(root=str(archive), offset=0.0, fractions=fractions),
        "optimizer": OptimizerConfig(base_lr=0.01, warmup_epochs=0),
        "trainer": TrainerConfig(epochs=1, batch_size=16, accelerator="cpu", workers=0),
    }
    with pytest.raises(CheckpointError, match="state them by sensor"):
        finetune(FinetuneConfig(**settings), tmp_path / "none")
    named = {"sensor": SENSOR, "exclude_bands": ("B01", "B09", "B10")}
    run = finetune(FinetuneConfig(**settings, **named), tmp_path / "run")
    tuned = load_model(run)
    assert tuned.preprocessing is not None
    assert tuned.preprocessing.band_names[:3] == ("B02", "B03", "B04")
    assert tuned.encoder.config["groups"] == ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
