"""The date axis: what a single date gives is never changed by it."""

import datetime

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spectralgpt.building import build_model, model_config
from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.losses import spectral_loss
from spectralgpt.models import positions as positions_module
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.models.mae import MaskedAutoencoder, MaskedAutoencoderOutput
from spectralgpt.models.tokens import MaskStyle, TokenGrid, draw_noise
from tests.tiny import TINY, loss_share_after_training, tiny_model

ENCODER = {key: TINY[key] for key in ("embed_dim", "depth", "num_heads")}


def days(*texts: str) -> Tensor:
    epoch = datetime.date(1970, 1, 1)
    found = [(datetime.date.fromisoformat(text) - epoch).days for text in texts]
    return torch.tensor([found], dtype=torch.float32)


def with_dates(model: MaskedAutoencoder, std: float = 0.0) -> MaskedAutoencoder:
    """A copy with date embeddings, as if trained if `std` is above 0."""
    copy = MaskedAutoencoder(**model.config)
    copy.load_state_dict(model.state_dict())
    copy.add_date_embedding()
    for name, weight in copy.named_parameters():
        if "dates" in name and std:
            torch.nn.init.normal_(weight, std=std)
    return copy.train(model.training)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "dates" not in name
    }


def assert_same(one: MaskedAutoencoderOutput, two: MaskedAutoencoderOutput) -> None:
    for name in ("loss", "token_loss", "spectral_loss", "prediction", "mask", "latent"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


@settings(max_examples=12)
@given(
    st.integers(1, 5),
    st.sampled_from([(3, 8, 8), (12, 16, 24), (7, 24, 16), (4, 32, 8)]),
    st.sampled_from(["cube", "tube", "spectral"]),
    st.booleans(),
    st.booleans(),
)
def test_one_date_equals_the_single_date_autoencoder_to_the_bit(
    batch: int,
    shape: tuple[int, int, int],
    style: MaskStyle,
    with_valid: bool,
    has_embedding: bool,
) -> None:
    torch.manual_seed(batch)
    bands = shape[0]
    single = MaskedAutoencoder(16, bands, **TINY)
    series = with_dates(single) if has_embedding else MaskedAutoencoder(**single.config)
    series.load_state_dict(single.state_dict(), strict=False)
    images = torch.rand(batch, *shape)
    valid = torch.rand(images.shape) > 0.2 if with_valid else None
    noise = draw_noise(single.encoder.grid_of(images), batch, style)
    wanted = single(images, 0.6, noise, valid=valid, mask_style=style)
    found = series(
        images[:, None],
        0.6,
        noise,
        valid=None if valid is None else valid[:, None],
        dates=torch.full((batch, 1), 18_500.0) if has_embedding else None,
        mask_style=style,
    )
    assert_same(found, wanted)
    assert torch.equal(series.reconstruct(found)[:, 0], single.reconstruct(wanted))
    wanted.loss.backward()
    found.loss.backward()
    ours, theirs = gradients(series), gradients(single)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@settings(max_examples=8)
@given(
    st.integers(1, 4),
    st.sampled_from([(3, 8, 8), (12, 16, 24), (4, 32, 8)]),
    st.sampled_from(["separable", "joint"]),
)
def test_one_date_equals_the_single_date_encoder_and_classifier_to_the_bit(
    batch: int, shape: tuple[int, int, int], positions: str
) -> None:
    torch.manual_seed(batch)
    encoder = SpectralEncoder(16, shape[0], **ENCODER, positions=positions)  # type: ignore[arg-type]
    dated = SpectralEncoder(**encoder.config | {"date_embedding": True})
    missing, unexpected = dated.load_state_dict(encoder.state_dict(), strict=False)
    assert missing == ["positions.dates.weight"]
    assert not unexpected
    images, dates = torch.rand(batch, *shape), torch.full((batch, 1), 18_500)
    wanted = encoder(images)
    assert torch.equal(dated(images, dates=dates), wanted)
    assert torch.equal(dated(images[:, None], dates=dates)[:, 0], wanted)
    for name in ("pooled", "pooled_by_group"):
        pooled = getattr(dated, name)(images[:, None], dates=dates)
        assert torch.equal(pooled, getattr(encoder, name)(images))
    plain, series = ClassificationModel(encoder, 5), ClassificationModel(dated, 5)
    series.head.load_state_dict(plain.head.state_dict())
    logits = plain(images)
    assert torch.equal(series(images[:, None], dates=dates), logits)
    logits.square().sum().backward()
    series(images[:, None], dates=dates).square().sum().backward()
    theirs = gradients(plain)
    assert all(torch.equal(gradients(series)[name], theirs[name]) for name in theirs)


def test_dates_without_embedding_weights_change_nothing_but_learn() -> None:
    model = with_dates(tiny_model())
    images = torch.rand(2, 3, 12, 32, 32)
    dates = days("2020-01-15", "2020-06-04", "2020-08-13").repeat(2, 1)
    noise = draw_noise(model.encoder.grid_of(images), 2)
    output = model(images, noise=noise, dates=dates)
    assert_same(output, tiny_model()(images, noise=noise))
    output.loss.backward()
    for part in (model.encoder, model.decoder):
        weight = part.positions.dates.weight
        assert torch.count_nonzero(weight) == 0
        # The first date of a sample has gap 0, the others do not.
        assert (weight.grad.abs().amax(dim=0) > 0).all()


def test_permuted_dates_give_the_permuted_output() -> None:
    model = with_dates(tiny_model(), std=0.3).eval()
    images = torch.rand(2, 3, 12, 16, 16)
    dates = days("2020-01-15", "2020-06-04", "2021-08-13").repeat(2, 1)
    order = [2, 0, 1]
    wanted = model.encoder(images, dates=dates)
    assert wanted.shape == (2, 3, 4, 2, 2, 48)
    found = model.encoder(images[:, order], dates=dates[:, order])
    torch.testing.assert_close(found, wanted[:, order], rtol=1e-5, atol=1e-5)
    # Swapping the days alone is another input.
    other = model.encoder(images, dates=dates[:, order])
    assert not torch.allclose(other, wanted, atol=1e-2)


def test_permuted_dates_give_the_permuted_reconstruction_and_the_same_loss() -> None:
    model = with_dates(tiny_model(), std=0.3).eval()
    images = torch.rand(2, 3, 12, 16, 16)
    dates = days("2020-01-15", "2020-06-04", "2021-08-13").repeat(2, 1)
    order = [2, 0, 1]
    noise = torch.rand(2, 3 * 16)
    swapped = noise.unflatten(1, (3, 16))[:, order].flatten(1)
    wanted = model(images, 0.5, noise, dates=dates)
    found = model(images[:, order], 0.5, swapped, dates=dates[:, order])
    torch.testing.assert_close(found.loss, wanted.loss)
    torch.testing.assert_close(
        model.reconstruct(found),
        model.reconstruct(wanted)[:, order],
        rtol=1e-4,
        atol=1e-5,
    )


def test_hidden_dates_are_rebuilt_from_the_others_alone() -> None:
    model = with_dates(tiny_model(), std=0.3).eval()
    images = torch.rand(2, 2, 12, 16, 16)
    dates = days("2020-01-15", "2020-06-04").repeat(2, 1)
    noise = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    wanted = model(images, 0.5, noise, dates=dates, mask_style="date")
    by_date = wanted.mask.reshape(2, 2, 16)
    assert by_date.mean(dim=2).tolist() == [[0, 1], [1, 0]]
    changed = images.clone()
    changed[0, 1] = changed[1, 0] = 7
    found = model(changed, 0.5, noise, dates=dates, mask_style="date")
    assert torch.equal(found.prediction, wanted.prediction)
    assert found.loss > wanted.loss


def test_missing_dates_change_neither_the_loss_nor_the_other_dates() -> None:
    model = with_dates(tiny_model(), std=0.3).eval()
    images = torch.rand(2, 3, 12, 16, 16)
    dates = days("2020-01-15", "2020-06-04", "2020-07-01").repeat(2, 1)
    valid = torch.ones(images.shape, dtype=torch.bool)
    valid[0, 2] = False
    dates[0, 2] = torch.nan
    noise = draw_noise(model.encoder.grid_of(images), 2)
    wanted = model(images, 0.5, noise, dates=dates, valid=valid)
    assert torch.isfinite(wanted.loss)
    changed = images.clone()
    changed[0, 2] = 9
    found = model(changed, 0.5, noise, dates=dates, valid=valid)
    assert_same(found, wanted)


def test_spectral_term_sums_over_the_spectrum_and_never_over_dates() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 2, 3 * 2 * 4, 5, generator=generator)
    by_date = [
        spectral_loss(p, t, 2)
        for p, t in zip(prediction.split(8, dim=1), target.split(8, dim=1), strict=True)
    ]
    found = spectral_loss(prediction, target, 2, num_dates=3)
    torch.testing.assert_close(found, torch.stack(by_date).mean())


def test_seasons_are_cyclic_and_gaps_count_from_the_earliest_date() -> None:
    code = positions_module._date_features(
        days("2019-12-31", "2020-01-01", "2020-07-01")
    )[0]
    season, gap = code[:, :8], code[:, 8:]
    assert (season[0] - season[1]).abs().max() < 0.08
    assert (season[0] - season[2]).abs().max() > 1
    assert gap[0].tolist() == [0] * 10
    assert (gap[2] - gap[1]).abs().max() > 0.5
    # One year on, the season is the same and the gap tells the years apart.
    code = positions_module._date_features(days("2019-06-01", "2020-06-01"))[0]
    torch.testing.assert_close(code[0, :8], code[1, :8], atol=0.05, rtol=0)
    assert code[1, 8:].abs().max() > 0.5


def test_unknown_dates_have_the_code_zero() -> None:
    dates = torch.tensor([[torch.nan, 18_000.0, 18_010.0], [torch.nan] * 3])
    code = positions_module._date_features(dates)
    assert torch.isfinite(code).all()
    assert not code[0, 0].any()
    assert not code[1].any()
    assert torch.equal(code[0, 1:], positions_module._date_features(dates[:1, 1:])[0])
    embedding = positions_module._DateEmbedding(4)
    torch.nn.init.normal_(embedding.weight)
    grid = TokenGrid(3, 8, 8, num_dates=3)
    assert torch.equal(embedding(None, grid), embedding(dates[1:], grid))


def test_dates_that_do_not_fit_are_explained() -> None:
    model, images = tiny_model(), torch.rand(2, 3, 12, 16, 16)
    dates = days("2020-01-15", "2020-06-04", "2020-07-01").repeat(2, 1)
    with pytest.raises(ConfigError, match=r"no date embedding.*add_date_embedding"):
        model(images, dates=dates)
    model.add_date_embedding()
    for wrong in (dates[:1], dates[:, :2], dates[0]):
        with pytest.raises(ShapeError, match=r"2 samples of 3 date\(s\) need \(2, 3\)"):
            model(images, dates=wrong)
        with pytest.raises(ShapeError, match=r"need \(2, 3\)"):
            model.encoder(images, dates=wrong)


def test_models_are_built_again_with_and_without_date_embedding() -> None:
    model = tiny_model()
    assert model_config(model)["date_embedding"] is False
    model.add_date_embedding()
    assert model_config(model)["date_embedding"] is True
    again = build_model(model_config(model))
    assert again.state_dict().keys() == model.state_dict().keys()
    old = {k: v for k, v in model_config(model).items() if k != "date_embedding"}
    assert "encoder.positions.dates.weight" not in build_model(old).state_dict()


def test_adding_the_embedding_twice_keeps_what_was_learned() -> None:
    model = with_dates(tiny_model(), std=1.0)
    weight = model.encoder.positions.dates.weight
    model.add_date_embedding()
    assert model.encoder.positions.dates.weight is weight


def test_three_dates_train() -> None:
    model = with_dates(tiny_model()).train()
    images = torch.rand(2, 3, 12, 32, 32)
    dates = days("2020-01-15", "2020-06-04", "2020-08-13").repeat(2, 1)
    assert loss_share_after_training(model, images, dates=dates) < 0.8
    assert torch.count_nonzero(model.encoder.positions.dates.weight) > 0
