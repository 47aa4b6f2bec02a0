"""Encoders that take the bands that they were trained on, and no others."""

from abc import abstractmethod

from torch import Tensor

from spectralgpt.errors import ShapeError
from spectralgpt.models.encoder import Encoder
from spectralgpt.models.tokens import Wavelengths


class OwnBandsEncoder(Encoder):
    """An encoder of its own bands.

    Attributes:
        joins_dates: whether the dates of a series are encoded together; else each is an
            image of its own.
    """

    joins_dates = False

    def encode(
        self,
        images: Tensor,
        wavelengths: Wavelengths | Tensor | None = None,
        dates: Tensor | None = None,
    ) -> Tensor:
        """Encode whole images without the final norm; see `forward`."""
        if wavelengths is not None:
            raise ShapeError(
                "this encoder takes its own bands only, no wavelengths: bring images "
                "into them with bands: resample."
            )
        if images.ndim == 5 and not self.joins_dates:
            each = self.encode(images.flatten(0, 1))
            return each.unflatten(0, images.shape[:2])
        self.own_grid(images)
        if self.groups == 1 and self.absent_groups:
            raise ShapeError(
                "this encoder puts all bands into one token, and takes no image that "
                "lacks some: use one of band groups, or images with all bands."
            )
        return self.encode_own(images, dates)

    @abstractmethod
    def encode_own(self, images: Tensor, dates: Tensor | None) -> Tensor:
        """Encode images that were checked, see `encode`."""

    def own_grid(self, images: Tensor) -> tuple[int, int]:
        """Return the rows and columns of features of images or series.

        Raises:
            ShapeError: they have other axes or bands, or no whole features.
        """
        if images.ndim not in (4, 5):
            raise ShapeError(
                f"images have shape {tuple(images.shape)}: give (batch, bands, rows, "
                "columns), or (batch, dates, bands, rows, columns)."
            )
        bands, rows, columns = images.shape[-3:]
        if bands != self.num_bands:
            raise ShapeError(
                f"images have {bands} bands, the model {self.num_bands}: it takes its "
                "own bands only. Bring images into them with bands: resample."
            )
        P = self.patch_size
        if rows % P or columns % P:
            raise ShapeError(
                f"images of {rows} x {columns} px are no multiple of the {P} px that a "
                "feature of this encoder covers: crop or resize them."
            )
        return rows // P, columns // P
