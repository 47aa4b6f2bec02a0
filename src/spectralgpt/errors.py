"""The errors that a user, a file or a configuration can cause.

Every message says what was wrong, what was found and what to do. The command line
prints it as one line; callers of the library catch `SpectralGPTError`.
"""

from importlib.util import find_spec


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


_EXTRAS = {
    "adapters": "peft",
    "beit": "vector_quantize_pytorch",
    "dask": "dask distributed",
    "datasets": "torchgeo",
    "export": "onnx onnxruntime onnxscript",
    "loggers": "mlflow wandb",
    "probe": "scipy sklearn",
    "quantize": "torchao",
    "search": "faiss",
    "train": "aiohttp kornia lightly lightning pyarrow tensorboard timm torchvision",
    "vector": "geopandas pandas pyogrio pyproj",
    "view": "starlette uvicorn",
    "xarray": "xarray",
}
"""What an extra of the package brings, by the names under which it is imported."""


def require(*modules: str) -> None:
    """Refuse to go on without modules that an extra brings; others are not looked at.

    Raises:
        ConfigError: some are not installed; says how to install them.
    """
    brought = {module: extra for extra, s in _EXTRAS.items() for module in s.split()}
    missing = [m for m in modules if m in brought and find_spec(m) is None]
    if missing:
        extras = ",".join(sorted({brought[module] for module in missing}))
        raise ConfigError(
            f"this needs {', '.join(missing)}: pip install 'spectralgpt[{extras}]'"
        )
