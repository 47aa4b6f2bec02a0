import pytest
import torch
from torch import Tensor

from spectralgpt.building import build_model, model_config, resize_model
from spectralgpt.errors import ConfigError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.tokenizer import encode_bands, slot_shares
from spectralgpt.models.tokens import patchify
from spectralgpt.preprocessing import sensor_preprocessing
from tests.tiny import TINY, tiny_contract, tiny_encoder

ROWS = tiny_contract().band_rows
LANDSAT = sensor_preprocessing("landsat-8-9-l2").band_rows


def spectral_model(decoder: str = "full") -> MaskedAutoencoder:
    torch.manual_seed(0)
    rows = {"wavelengths_nm": ROWS, "decoder": decoder, "tokenizer": "spectral"}
    return MaskedAutoencoder(32, 12, **TINY, **rows)


def train_a_little(model: torch.nn.Module) -> None:
    """Give what is zero at the start other values."""
    for name, parameter in model.named_parameters():
        if name.endswith(("patches", "position")):
            torch.nn.init.normal_(parameter, std=0.05)


def largest_share(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest wanted value."""
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


@pytest.mark.parametrize("dates", [None, 3])
def test_encoder_gives_the_same_until_it_is_trained(dates: int | None) -> None:
    encoder = tiny_encoder().eval()
    images = torch.rand(2, *([dates] if dates else []), 12, 32, 32)
    wanted = encoder(images)
    encoder.add_spectral_tokenizer(ROWS)
    assert largest_share(encoder(images), wanted) < 1e-6
    assert largest_share(encoder(images, ROWS), wanted) < 1e-6
    train_a_little(encoder)
    assert largest_share(encoder(images), wanted) > 1e-3


@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_autoencoder_gives_the_same_until_it_is_trained(decoder: str) -> None:
    model = MaskedAutoencoder(32, 12, **TINY, wavelengths_nm=ROWS, decoder=decoder)
    images, noise = torch.rand(2, 12, 32, 32), torch.rand(2, 64)
    wanted = model(images, 0.75, noise)
    model.add_spectral_tokenizer(ROWS)
    found = model(images, 0.75, noise)
    for name in ("latent", "prediction", "loss", "token_loss", "spectral_loss"):
        assert largest_share(getattr(found, name), getattr(wanted, name)) < 1e-6, name


@pytest.mark.parametrize("decoder", ["full", "cross"])
def test_all_that_follows_the_bands_learns(decoder: str) -> None:
    model = spectral_model(decoder).train()
    train_a_little(model)
    model(torch.rand(3, 7, 32, 32), 0.75, wavelengths=LANDSAT).loss.backward()
    for name, parameter in model.named_parameters():
        if "tokenizer" in name:
            assert parameter.grad is not None, name
            assert bool((parameter.grad != 0).any()), name


def test_wide_narrow_and_coarse_bands_have_other_codes() -> None:
    rows = [(665, 30, 10), (665, 60, 10), (665, 30, 60), (670, 30, 10)]
    code = encode_bands(torch.tensor(rows))
    apart = torch.cdist(code, code) + torch.eye(4)
    assert apart.min() > 1e-2
    # What is finer than a band is wide is not in its code.
    wide = encode_bands(torch.tensor([(1000.0, 2000.0, 10.0), (1100.0, 2000.0, 10.0)]))
    assert (wide[0] - wide[1]).abs().max() < 0.3


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])
def test_slots_take_all_of_a_token(bands: int) -> None:
    shares = slot_shares(3, bands)
    assert torch.allclose(shares.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert bool((shares >= 0).all())


def test_as_many_bands_as_slots_have_a_slot_each() -> None:
    assert torch.equal(slot_shares(3, 3), torch.eye(3, dtype=torch.float64))


def test_a_token_of_equal_bands_weighs_the_same_however_many_there_are() -> None:
    encoder = spectral_model().encoder.eval()
    flat, embedded = torch.full((1, 3, 32, 32), 0.4), []
    for count in (1, 2, 3):
        rows = [(600.0, 30.0, 10.0)] * count
        grid = encoder.grid_of(flat[:, :count])
        embedded.append(encoder._embed(patchify(flat[:, :count], grid), grid, rows))
    torch.testing.assert_close(embedded[0], embedded[2])
    torch.testing.assert_close(embedded[1], embedded[2])


def test_order_of_samples_and_dates_does_not_mix_groups() -> None:
    encoder = spectral_model().encoder.eval()
    train_a_little(encoder)
    images = torch.rand(2, 2, 12, 32, 32)
    grid, single = encoder.grid_of(images), encoder.grid_of(images[:, 0])
    both = encoder._embed(patchify(images, grid), grid, None)
    for date in range(2):
        alone = encoder._embed(patchify(images[:, date], single), single, None)
        found = both.unflatten(1, (2, -1))[:, date]
        torch.testing.assert_close(found, alone)


def test_repeated_bands_count_nothing_and_are_rebuilt_alike() -> None:
    model = spectral_model().eval()
    train_a_little(model)
    images = torch.rand(1, 7, 32, 32)
    output = model(images, 0.5, wavelengths=LANDSAT)
    last = output.prediction.unflatten(1, (3, -1))[:, -1].unflatten(-1, (3, -1))
    torch.testing.assert_close(last[:, :, 0], last[:, :, 1])
    torch.testing.assert_close(last[:, :, 0], last[:, :, 2])


def test_model_is_built_again_and_moved_to_other_bands() -> None:
    model = spectral_model().eval()
    train_a_little(model)
    again = build_model(model_config(model))
    again.load_state_dict(model.state_dict())
    images, noise = torch.rand(1, 7, 32, 32), torch.rand(1, 48)
    wanted = model(images, 0.5, noise, wavelengths=LANDSAT).prediction
    torch.testing.assert_close(
        again.eval()(images, 0.5, noise, wavelengths=LANDSAT).prediction, wanted
    )
    moved = resize_model(model, wavelengths_nm=LANDSAT)
    assert isinstance(moved, MaskedAutoencoder)
    torch.testing.assert_close(moved(images, 0.5, noise).prediction, wanted)


def test_wavelengths_alone_are_refused() -> None:
    centres = [row[0] for row in LANDSAT]
    with pytest.raises(ConfigError, match=r"pass a row of three numbers"):
        spectral_model()(torch.rand(1, 7, 32, 32), wavelengths=centres)
    with pytest.raises(ConfigError, match=r"pass a row of three numbers"):
        tiny_encoder().add_spectral_tokenizer(None)


@pytest.mark.parametrize(
    "row", [(665.0, 0.0, 10.0), (665.0, 30.0, -1.0), (665.0, 30.0), (0.665, 30.0, 10.0)]
)
def test_rows_that_are_no_bands_are_refused(row: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"all above 0|not in nm"):
        spectral_model()(torch.rand(1, 7, 32, 32), wavelengths=[row, *LANDSAT[1:]])


def test_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="'linear' or 'spectral'"):
        SpectralEncoder(tokenizer="dofa")  # type: ignore[arg-type]
