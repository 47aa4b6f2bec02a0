"""The masked autoencoder: tokens, mask, encoder, decoder and loss, in order.

Of the light decoders the published one rebuilds all tokens together. In the fast one, a
departure from the paper, masked tokens look at the visible ones only: they do not see
each other, so that the work grows with masked times visible tokens, a tenth of all
times all; and some of the masked tokens can be left out of a step. Visible tokens are
not rebuilt: they are known.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spectralgpt.errors import ConfigError, ShapeError
from spectralgpt.losses import (
    count_masked,
    count_spectral_values,
    denormalize_tokens,
    normalize_tokens,
    spectral_loss,
    token_loss,
)
from spectralgpt.models.blocks import NORM_EPS, build_blocks, initialise_linear
from spectralgpt.models.cpu import Linear, keep_rounded, loss_in_parts, move, part_size
from spectralgpt.models.encoder import SpectralEncoder, TokenizerKind
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.positions import Positions
from spectralgpt.models.sizes import check_settings
from spectralgpt.models.tokenizer import SpectralTokenizer
from spectralgpt.models.tokens import (
    MaskStyle,
    TokenGrid,
    TokenMask,
    Wavelengths,
    add_dates,
    count_units,
    dates_of_tokens,
    draw_mask,
    draw_noise,
    find_available,
    group_wavelengths,
    patchify,
    pick_tokens,
    pixel_mask,
    token_means,
    unpatchify,
)

DecoderKind = Literal["full", "cross"]
_MASK_TOKEN_STD = 0.02
_PREDICTION_STD = 0.02


class _Decoder(nn.Module):
    """A small transformer that rebuilds tokens from the visible ones.

    Args:
        grid: the token grid that the positions are learned on.
        encoder_dim: width of the encoder's features.
        embed_dim: width of the decoder.
        depth: number of blocks.
        num_heads: attention heads.
        bands: wavelengths of the bands; None if unknown.
        is_cross: masked tokens look at visible ones only, not at each other.

    Source: Fu et al. 2024, arXiv:2401.14391 (cross-attention and partial targets).
    """

    def __init__(
        self,
        grid: TokenGrid,
        encoder_dim: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        bands: Wavelengths | None = None,
        is_cross: bool = False,
    ) -> None:
        super().__init__()
        self.is_cross = is_cross
        self.embedding = Linear(encoder_dim, embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        centres = None if bands is None else group_wavelengths(bands, 1)
        self.positions = Positions(grid, embed_dim, centres)
        self.tokenizer: SpectralTokenizer | None = None
        self.blocks = build_blocks(embed_dim, depth, num_heads, is_cross=is_cross)
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.prediction = Linear(embed_dim, grid.token_dim)
        nn.init.normal_(self.mask_token, std=_MASK_TOKEN_STD)
        initialise_linear(self.embedding)
        initialise_linear(self.prediction)
        # Pixels lie in 0..1: predictions of Xavier's size would cost the first steps.
        nn.init.trunc_normal_(self.prediction.weight, std=_PREDICTION_STD)
        if is_cross:
            self.memory_norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)

    def add_tokenizer(self, bands: Wavelengths | None) -> None:
        """Let weights follow the bands, as the encoder's method of this name does."""
        grid = self.positions.grid
        self.tokenizer = SpectralTokenizer(
            self.prediction.in_features,
            grid.bands_per_token,
            grid.patch_size,
            bands,
            rebuilds=True,
        ).to(self.prediction.weight)

    def forward(
        self,
        latent: Tensor,
        visible: Tensor,
        hidden: Tensor,
        grid: TokenGrid,
        bands: Wavelengths | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Rebuild the pixel values of all tokens, or of the hidden ones.

        Args:
            latent: (B, K, encoder width), the encoder's output.
            visible: (B, K), which token each row of `latent` is.
            hidden: (B, M), the tokens that a cross decoder rebuilds.
            grid: token grid of the images.
            bands: wavelengths of the bands; None for the model's own.
            dates: (B, T), days since 1970-01-01; None if unknown.

        Returns:
            (B, N, S * P * P), or (B, M, S * P * P) of a cross decoder.
        """
        positions = self.positions(grid, bands)  # (N, D)
        if self.tokenizer is not None:
            positions = self.tokenizer.place(positions, grid, bands)
        by_date = self.positions.embed_dates(dates, grid)
        known = self.embedding(latent)  # (B, K, D)
        if self.is_cross:
            x = self.mask_token + positions[hidden]  # (B, M, D)
            known = known + positions[visible]
            if by_date is not None:
                x = x + dates_of_tokens(by_date, hidden, grid.tokens_per_date)
                known = known + dates_of_tokens(by_date, visible, grid.tokens_per_date)
            x = self.blocks(x, self.memory_norm(known))
        else:
            index = visible.unsqueeze(-1).expand_as(known)
            size = (len(known), grid.num_tokens, known.shape[-1])
            masked = self.mask_token.to(known.dtype).expand(size)
            x = masked.scatter(1, index, known) + positions  # (B, N, D)
            x = self.blocks(add_dates(x, by_date))
        return self._predict(self.norm(x), hidden, grid, bands)

    def _predict(
        self, x: Tensor, hidden: Tensor, grid: TokenGrid, bands: Wavelengths | None
    ) -> Tensor:
        """Give the values of tokens from their features, (B, N or M, S * P * P)."""
        if self.tokenizer is None:
            prediction: Tensor = self.prediction(x)
            return prediction
        weight, bias = self.prediction.weight, self.prediction.bias
        if not self.is_cross:
            return self.tokenizer.rebuild(x, weight, bias, grid, bands)
        index = hidden.unsqueeze(-1).expand_as(x)
        placed = x.new_zeros(len(x), grid.num_tokens, x.shape[-1])
        placed = placed.scatter(1, index, x)  # (B, N, D)
        every = self.tokenizer.rebuild(placed, weight, bias, grid, bands)
        return pick_tokens(every, hidden)


@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoderOutput(ObjectiveOutput):
    """What one pass through the masked autoencoder gives.

    Attributes:
        loss: 0-d, the weighted sum of both terms; alone of all it has gradients.
        token_loss: 0-d, masked tokens against their targets.
        spectral_loss: 0-d, sums over the spectrum of each date, all positions.
        prediction: (B, N, S * P * P), what the decoder gives for all tokens; tokens
            that a cross decoder does not rebuild are the image's own.
        rebuilt: (B, N, S * P * P), the prediction in the scale of the images. It is the
            prediction itself, unless targets are normalised: then each token's mean and
            variance are no part of it, and are taken from the image.
        mask: (B, N) float, 1 where a token was masked.
        latent: (B, K, D), the encoder's output for the visible tokens.
        grid: the token grid of the images.
    """

    token_loss: Tensor
    spectral_loss: Tensor
    prediction: Tensor
    rebuilt: Tensor
    mask: Tensor
    latent: Tensor
    grid: TokenGrid


@dataclass(frozen=True)
class _Targets:
    """The targets of a batch, or of some of its images.

    Attributes:
        tokens: (B, N, S * P * P), the images.
        wanted: (B, N, S * P * P), what the token term compares with.
        visible: (B, K), indices of the visible tokens.
        hidden: (B, M), indices of the masked tokens that count.
        is_counted: (B, N) float, 1 where a token is among `hidden`.
        weights: (B or 1, N, S * P * P), 0 for values that count nowhere; None if all
            do.
        dates: (B, T), days since 1970-01-01; None if unknown.
        grid: the token grid of the images.
        counts: (2,), masked tokens and sums over a spectrum of the whole batch, which
            the two terms average over.
    """

    tokens: Tensor
    wanted: Tensor
    visible: Tensor
    hidden: Tensor
    is_counted: Tensor
    weights: Tensor | None
    dates: Tensor | None
    grid: TokenGrid
    counts: Tensor

    def of(self, rows: slice) -> "_Targets":
        """Return the targets of some images; the batch is still averaged over."""
        weights = self.weights
        if weights is not None and len(weights) > 1:
            weights = weights[rows]
        return replace(
            self,
            tokens=self.tokens[rows],
            wanted=self.wanted[rows],
            visible=self.visible[rows],
            hidden=self.hidden[rows],
            is_counted=self.is_counted[rows],
            weights=weights,
            dates=None if self.dates is None else self.dates[rows],
        )

    def place(self, rebuilt: Tensor) -> Tensor:
        """Put rebuilt hidden tokens (B, M, S * P * P) among the image's others."""
        index = self.hidden.unsqueeze(-1).expand_as(rebuilt)
        return self.tokens.to(rebuilt.dtype).scatter(1, index, rebuilt)

    def compare(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Give these images' share of both terms for all tokens (B, N, S * P * P)."""
        num_masked, num_spectral = self.counts
        by_token = token_loss(
            prediction, self.wanted, self.is_counted, self.weights, num_masked
        )
        by_spectrum = spectral_loss(
            prediction,
            self.tokens,
            self.grid.groups,
            self.weights,
            self.grid.dates,
            num_spectral,
        )
        return by_token, by_spectrum


def _find_targets(
    tokens: Tensor,
    mask: TokenMask,
    grid: TokenGrid,
    weights: Tensor | None = None,
    dates: Tensor | None = None,
    share: float = 1.0,
    normalize: bool = False,
) -> _Targets:
    """Choose the targets of a batch; see `_Targets`.

    Args:
        tokens: (B, N, S * P * P), the images.
        mask: which of them are masked.
        grid: token grid of the images.
        weights: see `_Targets`.
        dates: see `_Targets`.
        share: share of the masked tokens that count, 0..1; those of smallest noise.
        normalize: whether the token term compares tokens normalised one by one.
    """
    hidden, is_counted = mask.hidden, mask.is_masked
    if share < 1:
        hidden = hidden[:, : max(1, round(share * hidden.shape[1]))]
        is_counted = torch.zeros_like(is_counted).scatter(1, hidden, 1.0)
    weights = None if weights is None else move(weights, tokens)
    num_masked = count_masked(is_counted, weights)
    num_spectral = count_spectral_values(tokens, grid.groups, weights, grid.dates)
    return _Targets(
        tokens=tokens,
        wanted=normalize_tokens(tokens) if normalize else tokens,
        visible=mask.visible,
        hidden=hidden,
        is_counted=is_counted,
        weights=weights,
        dates=dates,
        grid=grid,
        counts=torch.stack([num_masked.float(), num_spectral.float()]),
    )


def _token_weights(valid: Tensor | None, grid: TokenGrid) -> Tensor | None:
    """Weigh each token value: 1 where it is a real, valid pixel and 0 elsewhere.

    By `valid`, shaped as the images; None if all pixels are. Repeated bands weigh 0.
    Returns (B or 1, N, S * P * P), None if every value weighs 1.
    """
    if valid is None and not grid.padded_bands:
        return None
    if valid is None:
        valid = torch.ones(1, *grid.image_shape, dtype=torch.bool)
    weights = patchify(valid, grid).float()
    if grid.padded_bands:
        repeated = grid.padded_bands * grid.patch_size**2
        by_date = weights.unflatten(1, (grid.dates, -1))
        by_date[:, :, -grid.positions :, -repeated:] = 0
    return weights


class MaskedAutoencoder(Objective):
    """SpectralGPT's pretraining model.

    Args:
        image_size: side in px of the images whose positions are learned.
        num_bands: bands of the images.
        patch_size: side P of a patch, px.
        bands_per_token: neighbouring bands S in a token.
        embed_dim: width of the encoder.
        depth: blocks of the encoder.
        num_heads: attention heads of the encoder.
        decoder_embed_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_num_heads: attention heads of the decoder.
        wavelengths_nm: see `SpectralEncoder`.
        normalize_targets: compare tokens normalised one by one (the token term only).
        token_loss_weight: weight of the token term.
        spectral_loss_weight: weight of the spectral term.
        date_embedding: whether dates can be told apart; zero at the start.
        decoder: `full`, the paper's, or `cross`, in which masked tokens look at visible
            ones only: faster.
        target_share: share of the masked tokens that a training step rebuilds, 0..1, of
            a cross decoder.
        tokenizer: see `SpectralEncoder`; the decoder's last weights follow the bands
            likewise.

    Raises:
        ConfigError: a setting is out of range, the decoder is unknown, or it cannot
            leave out targets.

    Source: Hong et al. 2024, arXiv:2311.07113; numbers follow the published weights.
    """

    name = "spectralgpt"
    default_mask_ratio = 0.9
    takes_series = True
    rebuilds = True
    encoder: SpectralEncoder

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        bands_per_token: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 4,
        decoder_num_heads: int = 16,
        wavelengths_nm: Wavelengths | None = None,
        normalize_targets: bool = False,
        token_loss_weight: float = 1.0,
        spectral_loss_weight: float = 1.0,
        date_embedding: bool = False,
        decoder: DecoderKind = "full",
        target_share: float = 1.0,
        tokenizer: TokenizerKind = "linear",
    ) -> None:
        super().__init__()
        settings = {
            "decoder_embed_dim": decoder_embed_dim,
            "decoder_depth": decoder_depth,
            "decoder_num_heads": decoder_num_heads,
            "normalize_targets": normalize_targets,
            "token_loss_weight": token_loss_weight,
            "spectral_loss_weight": spectral_loss_weight,
            "decoder": decoder,
            "target_share": target_share,
        }
        check_settings({**settings, "date_embedding": date_embedding})
        _check_decoder(decoder, target_share)
        self.encoder = SpectralEncoder(
            image_size,
            num_bands,
            patch_size,
            bands_per_token,
            embed_dim,
            depth,
            num_heads,
            wavelengths_nm,
        )
        self.decoder = _Decoder(
            self.encoder.positions.grid,
            embed_dim,
            decoder_embed_dim,
            decoder_depth,
            decoder_num_heads,
            self.encoder.wavelengths_nm,
            is_cross=decoder == "cross",
        )
        keep_rounded(self.decoder)  # It runs once for each part of a batch.
        self.normalize_targets = normalize_targets
        self.token_loss_weight = token_loss_weight
        self.spectral_loss_weight = spectral_loss_weight
        self.target_share = target_share
        self.config: dict[str, Any] = {
            name: value
            for name, value in self.encoder.config.items()
            if name not in ("drop_path", "positions", "tokenizer")
        } | settings
        if date_embedding:
            self.add_date_embedding()
        if tokenizer != "linear":
            self.add_spectral_tokenizer(wavelengths_nm)

    def add_date_embedding(self) -> None:
        """Let dates be told apart; until trained, it changes no number."""
        self.encoder.add_date_embedding()
        self.decoder.positions.add_dates()
        self.config["date_embedding"] = True

    def add_spectral_tokenizer(self, bands: Wavelengths | None) -> None:
        """Let weights follow the bands, as the encoder's method of this name does."""
        self.encoder.add_spectral_tokenizer(bands)
        assert self.encoder.tokenizer is not None
        self.decoder.add_tokenizer(self.encoder.tokenizer.bands)
        for name in ("wavelengths_nm", "tokenizer"):
            self.config[name] = self.encoder.config[name]

    def noise_size(self, images: Tensor, mask_style: MaskStyle = "cube") -> int:
        """Return how many tokens, or units of a style, are masked one by one."""
        return count_units(self.encoder.grid_of(images), mask_style)

    def forward(
        self,
        images: Tensor,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
        *,
        wavelengths: Wavelengths | Tensor | None = None,
        valid: Tensor | None = None,
        dates: Tensor | None = None,
        mask_style: MaskStyle = "cube",
        generator: torch.Generator | None = None,
        spectral_scale: float = 1.0,
        counts: Tensor | None = None,
    ) -> MaskedAutoencoderOutput:
        """Mask images, rebuild them, and measure the error.

        Args:
            images: (B, C, H, W), scaled to about 0..1; H, W multiples of the patch. A
                series of T dates is (B, T, C, H, W).
            mask_ratio: share of masked tokens, 0 <= ratio < 1; None takes 0.9.
            noise: uniform values that choose the mask (see `draw_mask`); None draws it.
            wavelengths: of each band, see `SpectralEncoder.forward`; None if they are
                the model's own.
            valid: bool, shaped as the images, false where a pixel counts in no loss.
            dates: (B, T), days since 1970-01-01, NaN where unknown; None if all are.
            mask_style: one of `MASK_STYLES`.
            generator: source of the noise, if that is not given.
            spectral_scale: factor of the spectral term, beside its weight.
            counts: (2,), what both terms are divided by, where these images are a part
                of a batch (see `count_targets`); None takes their own.

        Raises:
            ShapeError: images, mask or noise do not fit each other or the model.
            ConfigError: the ratio or the style is wrong, or dates for a model without
                date embedding.
        """
        if isinstance(wavelengths, Tensor):
            wavelengths = wavelengths.tolist()
        grid = self.encoder.grid_of(images)
        grid.check_dates(dates, len(images))
        if noise is None:
            noise = draw_noise(grid, len(images), mask_style, generator, images.device)
        mask, targets = self._hide(images, mask_ratio, noise, valid, dates, mask_style)
        if counts is None:
            # A batch without any masked token has no error.
            counts = targets.counts.clamp(min=1)
        latent = self.encoder.encode_visible(
            targets.tokens, mask.visible, grid, wavelengths, dates
        )
        return self._compare(
            latent,
            replace(targets, counts=counts),
            mask.is_masked,
            wavelengths,
            spectral_scale,
        )

    def count_targets(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None = None,
        mask_style: MaskStyle = "cube",
    ) -> Tensor:
        """Count what both terms of the loss average over, without running the model.

        Counts of parts of a batch add up to those of the batch.

        Args:
            images: as in a forward pass; so are the others.
            mask_ratio: share of masked tokens.
            noise: what draws the mask.
            valid: false where a pixel counts in no loss.
            mask_style: one of `MASK_STYLES`.

        Returns:
            (2,): masked tokens, and sums over a spectrum.
        """
        hidden = self._hide(images, mask_ratio, noise, valid, None, mask_style)
        return hidden[1].counts

    def _hide(
        self,
        images: Tensor,
        mask_ratio: float | None,
        noise: Tensor,
        valid: Tensor | None,
        dates: Tensor | None,
        mask_style: MaskStyle,
    ) -> tuple[TokenMask, _Targets]:
        """Draw the mask, and find what is to be rebuilt."""
        if valid is not None and valid.shape != images.shape:
            raise ShapeError(
                f"valid has shape {tuple(valid.shape)}, the images "
                f"{tuple(images.shape)}: they must be equal."
            )
        grid = self.encoder.grid_of(images)
        available = find_available(valid, grid)
        ratio = self.default_mask_ratio if mask_ratio is None else mask_ratio
        mask = draw_mask(grid, move(noise, images), ratio, mask_style, available)
        targets = _find_targets(
            patchify(images, grid),
            mask,
            grid,
            _token_weights(valid, grid),
            dates,
            self.target_share if self.training else 1.0,
            self.normalize_targets,
        )
        return mask, targets

    def _compare(
        self,
        latent: Tensor,
        targets: _Targets,
        is_masked: Tensor,
        wavelengths: Wavelengths | None,
        spectral_scale: float,
    ) -> MaskedAutoencoderOutput:
        """Decode the visible tokens (B, K, D) and measure the error, part by part."""

        def part_loss(latent: Tensor, rows: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            part = targets.of(rows)
            prediction = self._rebuild(latent, part, wavelengths)
            by_token, by_spectrum = part.compare(prediction)
            loss = (
                self.token_loss_weight * by_token
                + self.spectral_loss_weight * spectral_scale * by_spectrum
            )
            return loss, (by_token.detach(), by_spectrum.detach(), prediction.detach())

        size = part_size(targets.grid.num_tokens, self.config["decoder_embed_dim"])
        loss, found = loss_in_parts(part_loss, latent, self.decoder, size)
        by_token, by_spectrum, predictions = zip(*found, strict=True)
        prediction = torch.cat(predictions)
        terms = {
            "token_loss": torch.stack(by_token).sum(),
            "spectral_loss": torch.stack(by_spectrum).sum() * spectral_scale,
        }
        return MaskedAutoencoderOutput(
            loss=loss,
            terms=terms,
            **terms,
            prediction=prediction,
            rebuilt=self._rescale(prediction, targets),
            mask=is_masked,
            latent=latent,
            grid=targets.grid,
        )

    def _rebuild(
        self, latent: Tensor, targets: _Targets, wavelengths: Wavelengths | None
    ) -> Tensor:
        """Decode all tokens (B, N, S * P * P)."""
        rebuilt: Tensor = self.decoder(
            latent,
            targets.visible,
            targets.hidden,
            targets.grid,
            wavelengths,
            targets.dates,
        )
        return targets.place(rebuilt) if self.decoder.is_cross else rebuilt

    def _rescale(self, prediction: Tensor, targets: _Targets) -> Tensor:
        """Give predictions the scale of the images."""
        if not self.normalize_targets:
            return prediction
        rescaled = denormalize_tokens(prediction, targets.tokens)
        if not self.decoder.is_cross:
            return rescaled
        is_rebuilt = targets.is_counted[..., None] > 0
        return torch.where(is_rebuilt, rescaled, targets.tokens)

    def reconstruct(self, output: ObjectiveOutput) -> Tensor:
        """Return what a forward pass rebuilt as images, (B, C, H, W).

        Of series it is (B, T, C, H, W).
        """
        assert isinstance(output, MaskedAutoencoderOutput)
        return unpatchify(output.rebuilt, output.grid)

    def token_means(self, images: Tensor) -> Tensor | None:
        """Return each token's own mean, see `Objective`."""
        if not self.normalize_targets:
            return None
        return token_means(images, self.encoder.grid_of(images))

    def hidden_pixels(self, output: ObjectiveOutput) -> Tensor:
        """Return where a forward pass hid pixels, bool shaped as the images."""
        assert isinstance(output, MaskedAutoencoderOutput)
        return pixel_mask(output.mask, output.grid)


def _check_decoder(decoder: str, target_share: float) -> None:
    if decoder not in ("full", "cross"):
        raise ConfigError(f"decoder {decoder!r} is unknown: use 'full' or 'cross'.")
    if not isinstance(target_share, int | float) or not 0 < target_share <= 1:
        raise ConfigError(f"target_share is {target_share}: use 0 < share <= 1.")
    if decoder == "full" and target_share < 1:
        raise ConfigError(
            "the full decoder rebuilds all tokens: leave out target_share, or use "
            "decoder 'cross'."
        )
