"""The `spectralgpt` command: find the sub-command, run it, explain its errors."""

import contextlib
import difflib
import logging
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from jsonargparse import ArgumentError, ArgumentParser

from spectralgpt import __version__
from spectralgpt.cli.options import bound_yaml, spell_lists
from spectralgpt.errors import SpectralGPTError

__all__ = ["COMMANDS", "main"]

_PREFIX = "spectralgpt.cli."
# Help stands here so that listing the commands imports none of them.
COMMANDS = {
    "demo": "pretrain, compare and map on the imagery that ships with the package",
    "pretrain": "pretrain a masked autoencoder on unlabelled imagery",
    "finetune": "train a pretrained encoder for a task, from labels",
    "evaluate": "measure a model: fine-tuned, linear probe or nearest neighbours",
    "compare": "compare starts of a task, over shares of the labels and seeds",
    "embed": "write embeddings of images to GeoParquet, npz or GeoTIFF",
    "cluster": "map groups of like places from embeddings, without labels",
    "similar": "find places that look like a point or polygon, from embeddings",
    "probe": "map scenes from a few labelled places, from embeddings",
    "reconstruct": "show what a pretrained model rebuilds of an image",
    "predict": "classify or map images with a fine-tuned model",
    "view": "serve a local page to look at scenes, maps and what a model makes of them",
    "batch": "map or embed many scenes, each once, on one machine or a cluster",
    "export": "write a model as ONNX or torch.export, to run without this package",
    "convert": "convert between our checkpoints and the published format",
    "info": "say what a checkpoint, an image or a sensor is",
    "recipes": "list the configurations that ship with the package, or print one",
    "data": "list the known archives, check one or your own data, or label scenes",
    "benchmark": "measure speed and memory of training, inference and loading",
    "simulate": "make a simulated, labelled satellite archive",
}
_COORDINATES = re.compile(r"^-[\d.][^,]*,")
"""Words such as -3.7,40.3 are values; argparse takes what has no space for an option.
"""
_INTERRUPTED = 130
_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after `spectralgpt`; None takes those of the process.

    Returns:
        Exit status: 0 on success, 1 for errors that have been explained, 2 for misuse.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else _USAGE_ERROR
    if words[0] == "--version":
        print(f"spectralgpt {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see spectralgpt --help."
        print(f"error: unknown command {name!r}: {hint}", file=sys.stderr)
        return _USAGE_ERROR
    return _run(name, words[1:])


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: spectralgpt COMMAND [options]",
            "",
            "Spectral remote-sensing foundation models: pretrain, fine-tune, map.",
            "",
            "commands:",
            *rows,
            "",
            "spectralgpt COMMAND --help explains the options of a command.",
            "spectralgpt --version prints the version.",
        ]
    )


def _run(name: str, words: list[str]) -> int:
    module = import_module(_PREFIX + name)
    bound_yaml()
    parser = ArgumentParser(
        prog=f"spectralgpt {name}",
        description=module.HELP,
        default_env=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="report each step on stderr"
    )
    module.add_arguments(parser)
    try:
        # Reading a configuration file can fail as the command itself can.
        spelled = [_COORDINATES.sub(r" \g<0>", word) for word in spell_lists(words)]
        args = parser.parse_args(spelled)
        level = logging.INFO if args.verbose else logging.WARNING
        logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
        made = module.run(args)
    except ArgumentError as error:
        # Without the usage, which is longer than the screen.
        reason = " ".join(str(error).split())
        print(f"error: {reason} (see spectralgpt {name} --help)", file=sys.stderr)
        return _USAGE_ERROR
    except (SpectralGPTError, OSError) as error:
        if "--debug" in words:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    with contextlib.suppress(BrokenPipeError):
        print(made)
    return 0
