"""Which spectral cubes a batch takes of images with hundreds of bands.

A cube is a band group: the neighbouring bands that share a token. All samples of a
batch take the same cubes, so that their shapes and wavelengths are equal; the cubes of
a batch are a function of its seed alone, and only their bands are read.
"""

from collections.abc import Sequence

import torch

from spectralgpt.errors import ConfigError
from spectralgpt.preprocessing import Preprocessing
from spectralgpt.sensors import Band

__all__ = ["check_token_budget", "draw_bands"]


def check_token_budget(budget: int | None, contract: Preprocessing) -> int | None:
    """Return how many band groups fit the budget, None if all of them do.

    Args:
        budget: most tokens of one sample; None for no limit.
        contract: fixes image size, patch and bands.

    Raises:
        ConfigError: not even one band group fits.
    """
    if budget is None:
        return None
    positions = (contract.image_size // contract.patch_size) ** 2
    if budget < positions:
        raise ConfigError(
            f"token_budget is {budget}, but one band group at {contract.image_size} px "
            f"has {positions} tokens. Raise it, or lower image_size."
        )
    groups = -(-len(contract.bands) // contract.bands_per_token)
    fitting = budget // positions
    return None if fitting >= groups else fitting


def draw_bands(
    bands: Sequence[Band], bands_per_token: int, groups: int, seed: int
) -> tuple[Band, ...]:
    """Draw band groups without replacement and return their bands in order.

    Groups are those of the whole spectrum, so that a token holds the same bands whether
    or not others were drawn.

    Args:
        bands: all bands, sorted by wavelength.
        bands_per_token: neighbouring bands S in a group.
        groups: how many are drawn.
        seed: of the draw.
    """
    starts = range(0, len(bands), bands_per_token)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(starts), generator=generator)[:groups].sort().values
    return tuple(
        band
        for group in chosen.tolist()
        for band in bands[starts[group] : starts[group] + bands_per_token]
    )
