"""`spectralgpt export`: write a model as ONNX or torch.export, for use without us."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from spectralgpt.cli.images import IMAGE_SIZE
from spectralgpt.cli.options import CHECKPOINT, add_options, error_console
from spectralgpt.errors import ConfigError

HELP = (
    "Write an encoder or a fine-tuned model as ONNX or torch.export, with its scaling "
    "in the graph and its bands, unit and classes beside it; the file is run, and kept "
    "only if it gives the model's numbers."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "model",
        type=str,
        help=f"checkpoint: {CHECKPOINT}",
    )
    add_options(
        parser,
        output=(Path, ..., "file to make, .onnx or .pt2"),
        format=(
            Literal["onnx", "torch-export"],
            "without it the ending of --output says",
        ),
        what=(
            Literal["auto", "embeddings", "logits"],
            "auto",
            "embeddings (of the image, and of each token), logits (of a fine-tuned "
            "model), or auto: logits where there are any",
        ),
    )
    add_options(
        parser,
        **IMAGE_SIZE,
        batch=(
            PositiveInt | Literal["dynamic"],
            "dynamic",
            "images the file takes at once; dynamic is any number",
        ),
        sensor=(
            str,
            "of a model trained on several sensors, the one whose images it takes",
        ),
        tolerance=(
            float,
            1e-4,
            "greatest difference from the model, as a share of the largest value",
        ),
        overwrite="replace an exported file",
    )


def run(args: Namespace) -> Path:
    """Export; returns the file."""
    path: Path = args.output
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder: name a file, .onnx or .pt2.")
    if path.exists() and not args.overwrite:
        raise ConfigError(f"{path} is there already: pass --overwrite.")
    from spectralgpt.checkpoints import load_model
    from spectralgpt.exporting import choose_format, export_model

    choose_format(path, args.format)
    batch = None if args.batch == "dynamic" else args.batch
    # Older PyTorch traces plain integers only.
    size = None if args.image_size is None else int(args.image_size)
    loaded = load_model(args.model, image_size=size, sensor=args.sensor)
    difference, batches = export_model(loaded, path, args.what, batch, args.tolerance)
    sizes = " and ".join(map(str, batches))
    error_console().print(
        f"greatest difference from the model {difference:.1e} of the largest "
        f"value, random batches of {sizes}; described in {path.name}.json"
    )
    return path
