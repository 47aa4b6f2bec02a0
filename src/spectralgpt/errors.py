"""The errors that a user, a file or a configuration can cause.

Every message says what was wrong, what was found and what to do. The command line
prints it as one line; callers of the library catch `SpectralGPTError`.
"""


class SpectralGPTError(Exception):
    """Base of all errors raised on purpose by this package."""


class BandError(SpectralGPTError, ValueError):
    """A band is missing, unknown, or in doubt."""


class UnitError(SpectralGPTError, ValueError):
    """Pixel values cannot be in the unit that is claimed for them."""


class ShapeError(SpectralGPTError, ValueError):
    """A tensor does not fit the model."""


class ConfigError(SpectralGPTError, ValueError):
    """A recipe, an option or a description is wrong."""


class CheckpointError(SpectralGPTError, ValueError):
    """Weights do not fit, cannot be read, or are not ours."""


class RasterError(SpectralGPTError, OSError):
    """A raster cannot be read, written, or aligned."""


class OutputError(SpectralGPTError, OSError):
    """A file cannot be written: a full disk, or no permission."""


class DataError(SpectralGPTError, ValueError):
    """Images or labels are unusable: empty, contradictory, or too many are bad."""


class DatasetNotFoundError(SpectralGPTError, FileNotFoundError):
    """A data set is not where it was said to be."""


class TrainingError(SpectralGPTError, RuntimeError):
    """Training cannot go on, such as after a loss that is not finite."""
