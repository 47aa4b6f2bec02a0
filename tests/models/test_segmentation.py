import pytest
import torch
from torch import nn

from spectralgpt.building import build_encoder, build_model, model_config, resize_model
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.losses import cross_entropy_sums
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ChangeModel, SegmentationModel
from tests.tiny import tiny_contract, tiny_encoder

HEADS = ("upernet", "fpn", "linear")
WAVELENGTHS = tiny_contract().wavelengths_nm
LANDSAT_NM = (443.0, 482.0, 561.5, 654.5, 865.0, 1608.5, 2200.5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (40, 72)])
def test_any_size_trains_with_one_image(head: str, size: tuple[int, int]) -> None:
    model = SegmentationModel(tiny_encoder(), 5, head).train()
    logits = model(torch.rand(1, 12, *size))
    assert logits.shape == (1, 5, *size)
    nn.functional.cross_entropy(logits, logits.argmin(1)).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


@pytest.mark.parametrize("head", HEADS)
def test_other_bands_are_taken_by_wavelength(head: str) -> None:
    model = SegmentationModel(tiny_encoder(), 3, head).eval()
    # Weights that differ by group, or any interpolation would do.
    nn.init.normal_(model.fusion.weight)
    images = torch.rand(1, 7, 32, 32)
    found = model(images, torch.tensor(LANDSAT_NM))
    moved = resize_model(model, wavelengths_nm=LANDSAT_NM)
    assert moved.fusion.weight.shape != model.fusion.weight.shape
    torch.testing.assert_close(moved(images), found, rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match="7 bands, the model knows 12"):
        model(images)


@pytest.mark.parametrize("head", HEADS)
def test_own_wavelengths_change_nothing(head: str) -> None:
    model = SegmentationModel(tiny_encoder(), 3, head).eval()
    images = torch.rand(1, 12, 32, 32)
    assert torch.equal(model(images, WAVELENGTHS), model(images))


@pytest.mark.parametrize("head", HEADS)
def test_single_date_series_equals_its_image(head: str) -> None:
    model = SegmentationModel(tiny_encoder(), 3, head).eval()
    images = torch.rand(2, 12, 32, 32)
    assert torch.equal(model(images[:, None]), model(images))


@pytest.mark.parametrize("head", HEADS)
def test_larger_image_size_moves_positions_only(head: str) -> None:
    model = SegmentationModel(tiny_encoder(), 3, head)
    larger = resize_model(model, image_size=64).state_dict()
    assert larger["encoder.positions.spatial"].shape[1] == 64
    for name, value in model.state_dict().items():
        if not name.endswith("positions.spatial"):
            assert torch.equal(larger[name], value), name


def test_norm_is_applied_unless_left_out() -> None:
    model = SegmentationModel(tiny_encoder(), 3)
    as_published = SegmentationModel(model.encoder, 3, apply_norm=False)
    images = torch.rand(1, 12, 32, 32)
    encoder = model.encoder
    normed = encoder(images).mean(dim=1).permute(0, 3, 1, 2)
    raw = encoder.encode(images).mean(dim=1).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.features(images), normed)
    torch.testing.assert_close(as_published.features(images), raw)


def test_other_patches_give_maps_of_the_image() -> None:
    from spectralgpt.models.encoder import SpectralEncoder

    for patch in (4, 16):
        encoder = SpectralEncoder(32, 6, patch, 3, 48, 1, 4)
        for head in HEADS:
            logits = SegmentationModel(encoder, 2, head)(torch.rand(1, 6, 32, 48))
            assert logits.shape == (1, 2, 32, 48)


@pytest.mark.parametrize("head", HEADS)
def test_change_sees_the_difference_of_dates(head: str) -> None:
    model = ChangeModel(tiny_encoder(), head=head).eval()
    before, after = torch.rand(2, 1, 12, 32, 40)
    images = torch.stack([before, after], dim=1).flatten(1, 2)
    logits = model(torch.stack([before, after], dim=1))
    assert logits.shape == (1, 2, 32, 40)
    difference = model.features(before) - model.features(after)
    torch.testing.assert_close(logits, model.classify(difference, images))
    assert model.features(torch.stack([before, before])[:, 0]).shape[0] == 2
    same = model(torch.stack([before, before], dim=1))
    torch.testing.assert_close(same, model.classify(0 * difference, images))


@pytest.mark.parametrize("kind", [SegmentationModel, ChangeModel])
def test_detail_sees_single_pixels_of_every_date(kind: type[SegmentationModel]) -> None:
    torch.manual_seed(0)
    model = kind(tiny_encoder(), 2, "fpn", pixel_detail=True).eval()
    images = torch.rand(1, model.num_dates, 12, 32, 32, requires_grad=True)
    # What the encoder says is held still: only the pixels themselves are left.
    context = torch.zeros(1, model.encoder.embed_dim, 4, 4)
    logits = model.classify(context, images.flatten(1, 2))
    logits[0, 1, 10, 20].backward()
    assert images.grad is not None
    seen = images.grad.abs().sum(dim=2)[0] > 0  # (dates, H, W)
    assert seen.any(dim=(1, 2)).all()
    # Group normalisation takes the whole image in; nothing else may.
    share = images.grad[..., 9:12, 19:22].abs().sum() / images.grad.abs().sum()
    assert share > 1 / 2


def test_detail_is_bound_to_its_bands() -> None:
    encoder = SpectralEncoder(32, 12, 8, 3, 48, 1, 4, WAVELENGTHS)
    model = SegmentationModel(encoder, 2, "fpn", pixel_detail=True)
    with pytest.raises(CheckpointError, match="its own 12 bands"):
        resize_model(model, wavelengths_nm=[500.0, 600.0, 700.0])
    with pytest.raises(ShapeError, match="takes only its own bands"):
        model(torch.rand(1, 3, 32, 32), [500.0, 600.0, 700.0])


@pytest.mark.parametrize("shape", [(1, 12, 32, 32), (1, 3, 12, 32, 32)])
def test_change_needs_two_dates(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="image before and the image after"):
        ChangeModel(tiny_encoder())(torch.rand(shape))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"num_classes": 3, "head": "unet"}, "'unet' is unknown: use one of upernet"),
        ({"num_classes": 3, "head_channels": 100}, "multiple of 32"),
        ({"num_classes": 3, "head_dropout": 1.0}, "head_dropout is 1.0"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        SegmentationModel(tiny_encoder(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "classes", "count"),
    [(SegmentationModel, 13, 109_244_946), (ChangeModel, 2, 109_219_591)],
)
def test_base_has_the_published_parameter_count(
    kind: type[SegmentationModel], classes: int, count: int
) -> None:
    with torch.device("meta"):
        model = kind(build_encoder("base", image_size=128), classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("kind", [SegmentationModel, ChangeModel])
def test_config_builds_the_model_again(kind: type[SegmentationModel]) -> None:
    model = kind(tiny_encoder(), 4, "fpn", 96, 0.3, False, pixel_detail=True)
    config = model_config(model)
    again = build_model(config)
    assert type(again) is kind
    assert model_config(again) == config
    again.load_state_dict(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_random_heads_learn_pixels_within_patches(head: str) -> None:
    # Stripes of 4 px, half a patch, along either axis; told apart by brightness.
    torch.manual_seed(0)
    model = SegmentationModel(tiny_encoder(), 2, head, head_dropout=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    target = (torch.arange(32) // 4 % 2).expand(4, 32, 32).clone()
    target[::2] = target[::2].transpose(1, 2)
    images = target[:, None] * torch.rand(4, 12, 1, 1) + torch.rand(4, 12, 32, 32) / 4
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        summed, total = cross_entropy_sums(model(images), target)
        loss = summed / total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.69, abs=0.1)
    assert losses[-1] < 0.2
