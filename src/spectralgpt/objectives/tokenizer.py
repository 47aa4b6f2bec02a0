"""A tokeniser learned on the imagery: each patch becomes one of a few thousand tokens.

Convolutions bring a patch to a vector, whose nearest code is its visual token;
convolutions rebuild the pixels from the codes alone. Codes follow the vectors that they
stand for, averaged over steps; those that stand for next to none take a vector of the
batch. BEiT learns to say the tokens of hidden patches.

Source: van den Oord et al. 2017, arXiv:1711.00937, as vector-quantize-pytorch has it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralgpt.errors import ConfigError, require
from spectralgpt.models.blocks import NORM_EPS, BlockStack, Tap
from spectralgpt.models.cpu import in_full_precision
from spectralgpt.models.objective import Objective, ObjectiveOutput
from spectralgpt.models.own_bands import OwnBandsEncoder
from spectralgpt.models.sizes import check_settings

require("timm")
from timm.layers.drop import DropPath  # noqa: E402

_NORM_GROUPS = 8
_KERNEL = 3
_DECAY = 0.99  # Source: the paper, appendix.
_COMMITMENT = 0.25  # Source: the paper.
_RARE = 2.0
SEEDS = 2**24
"""As many numbers as noise in float32 can tell apart."""


class _ConvBlock(nn.Module):
    """What two convolutions add to a map."""

    def __init__(self, width: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.layers = nn.Sequential(
            nn.GroupNorm(_NORM_GROUPS, width),
            nn.GELU(),
            nn.Conv2d(width, width, _KERNEL, padding=_KERNEL // 2),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, Hp, Wp) to the same shape."""
        added: Tensor = self.drop_path(self.layers(x))
        return x + added


class ConvEncoder(OwnBandsEncoder):
    """Convolutions from the patches of all bands to features.

    Args:
        image_size: side in px of the images that it is trained on.
        num_bands: bands C.
        patch_size: side P of a patch, px.
        embed_dim: width D, a multiple of 8.
        depth: blocks after the patches.
        drop_path: stochastic depth of the last block, 0..1.

    Raises:
        ConfigError: a setting is out of range.
    """

    kind = "conv"
    blocks: BlockStack
    num_heads = 1

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 256,
        depth: int = 2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_settings(settings)
        self._settings = settings
        if embed_dim % _NORM_GROUPS:
            raise ConfigError(
                f"embed_dim {embed_dim} is no multiple of {_NORM_GROUPS}, by which "
                "channels are normalised."
            )
        if image_size % patch_size:
            raise ConfigError(
                f"image_size {image_size} is no multiple of patch_size {patch_size}."
            )
        self.image_size, self.num_bands = image_size, num_bands
        self.patch_size, self.embed_dim, self.depth = patch_size, embed_dim, depth
        self.groups, self.bands_per_token = 1, num_bands
        layers: list[nn.Module] = []
        for factor in _prime_factors(patch_size):
            before = embed_dim if layers else num_bands
            layers += [nn.Conv2d(before, embed_dim, factor, factor), nn.GELU()]
        self.embedding = nn.Sequential(*layers[:-1])
        self.blocks = BlockStack(
            _ConvBlock(embed_dim, drop_path * index / max(1, depth - 1))
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """There are none: its blocks are not those of a transformer."""
        raise ConfigError(
            "this encoder has no features of several depths: leave out multilevel."
        )

    def encode_own(self, images: Tensor, dates: Tensor | None) -> Tensor:
        """Encode images; each is a date of its own."""
        x: Tensor = self.blocks(self.embedding(images))
        return x.permute(0, 2, 3, 1)[:, None]


def _prime_factors(number: int) -> list[int]:
    """Part a number into prime factors, the largest first; of 1 it is 1 itself."""
    factors, factor = [], 2
    while number > 1:
        while number % factor == 0:
            factors.append(factor)
            number //= factor
        factor += 1
    return factors[::-1] or [1]


class Tokenizer(Objective):
    """A tokeniser of patches for any number of bands.

    Its prediction is (B, C, H, W), rebuilt from tokens; its latent (B, Hp, Wp, code
    width). Nothing is hidden.

    Args:
        image_size: side in px of the images that it is trained on.
        num_bands: bands C.
        patch_size: side P of a patch, px.
        embed_dim: width of the convolutions, a multiple of 8.
        depth: blocks of encoder and decoder each.
        vocab_size: tokens that there are.
        code_dim: width of a token's code.
        published: as published; there is no difference to it here.

    Raises:
        ConfigError: a setting is out of range, or vector-quantize-pytorch is not
            installed.
    """

    name = "tokenizer"
    default_mask_ratio = 0.0
    encoder: ConvEncoder

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 256,
        depth: int = 2,
        vocab_size: int = 8192,
        code_dim: int = 32,
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        require("vector_quantize_pytorch")
        from vector_quantize_pytorch import VectorQuantize

        check_settings(settings)
        self.config = settings
        self.vocab_size = vocab_size
        self.encoder = ConvEncoder(image_size, num_bands, patch_size, embed_dim, depth)
        self.to_code = nn.Linear(embed_dim, code_dim)
        self.quantizer = VectorQuantize(
            code_dim,
            vocab_size,
            decay=_DECAY,
            threshold_ema_dead_code=_RARE,
            rotation_trick=False,
        )
        self.from_code = nn.Conv2d(code_dim, embed_dim, 1)
        self.decoder = BlockStack(_ConvBlock(embed_dim) for _ in range(depth))
        self.prediction = nn.Conv2d(embed_dim, patch_size**2 * num_bands, 1)

    def noise_size(self, images: Tensor) -> int:
        """Return 1: by what codes take vectors of the batch."""
        return 1

    def forward(
        self,
        images: Tensor,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        dates: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Rebuild images from their tokens; see `Objective.forward`.

        In training the codes move, by each micro-batch.
        """
        self.ratio_of(mask_ratio)
        features = self.encoder(images)[:, 0]  # (B, Hp, Wp, D)
        vectors = self.to_code(features).float()
        drawn = self.draw(images, noise, torch.device("cpu"))
        codes, ids = self._quantize(vectors, drawn)
        x = self.from_code(codes.permute(0, 3, 1, 2))
        mapped = self.prediction(self.decoder(x))
        prediction = F.pixel_shuffle(mapped, self.encoder.patch_size)
        squared = (prediction - images) ** 2
        known = torch.ones_like(images) if valid is None else valid.float()
        by_image = (squared * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp(
            min=1
        )
        apart = (vectors - codes.detach()) ** 2
        commitment = _COMMITMENT * apart.flatten(1).mean(1)
        count = images.new_full((), len(images)) if counts is None else counts[0]
        return ObjectiveOutput(
            (by_image + commitment).sum() / count,
            {
                "pixel_loss": by_image.sum() / count,
                "tokens_in_use": images.new_zeros(self.vocab_size)
                .scatter(0, ids.flatten(), 1.0)
                .sum(),
            },
            prediction,
            None,
            codes.detach(),
            None if self.training else prediction.detach(),
        )

    def _quantize(self, vectors: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Replace vectors (B, Hp, Wp, D) by codes, with their gradients, and ids."""
        devices = [vectors.device] if vectors.device.type == "cuda" else []
        with (
            # Codes without vectors draw theirs from the batch.
            torch.random.fork_rng(devices=devices),
            in_full_precision(vectors.device),
        ):
            torch.manual_seed(int(float(noise[0, 0]) * SEEDS))
            codes, ids, _ = self.quantizer(vectors.flatten(1, 2))
        return codes.unflatten(1, vectors.shape[1:3]), ids

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Return the token of each patch of images (B, C, H, W): int64 (B, Hp, Wp)."""
        vectors = self.to_code(self.encoder(images)[:, 0]).float()
        codes = self.quantizer.codebook
        apart = torch.cdist(vectors.flatten(0, 2), codes)
        return apart.argmin(dim=1).unflatten(0, vectors.shape[:3])


OBJECTIVE = Tokenizer
