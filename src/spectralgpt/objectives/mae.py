"""MAE: a token is a patch of all bands; three quarters are hidden.

Source: He et al. 2021, arXiv:2111.06377.
"""

from spectralgpt.models.vit import GridCodes, VisionTransformer
from spectralgpt.models.vit_autoencoder import LossOn, VitAutoencoder


class MAE(VitAutoencoder):
    """The masked autoencoder for any number of bands.

    Its prediction is (B, N, P * P * C), by pixel row, pixel column, then band; its mask
    (B, N).

    Its settings are those of `Objective`.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "mae"

    def __init__(
        self,
        image_size: int = 96,
        num_bands: int = 12,
        patch_size: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        normalize_targets: bool = False,
        loss_on: LossOn = "masked",
        published: bool = False,
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        encoder = VisionTransformer(
            image_size, num_bands, patch_size, embed_dim, depth, num_heads
        )
        codes = GridCodes(image_size // patch_size, decoder_embed_dim)
        super().__init__(encoder, codes, settings, bands_last=True)


OBJECTIVE = MAE
