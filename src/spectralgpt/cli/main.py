"""The `spectralgpt` command: find the sub-command, run it, explain its errors."""

import contextlib
import difflib
import logging
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from spectralgpt import __version__
from spectralgpt.cli.signals import StopSignals
from spectralgpt.errors import SpectralGPTError

if TYPE_CHECKING:
    from jsonargparse import Namespace

_PREFIX = "spectralgpt.cli."
_LONGEST_LINE = 2000
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
_SHARED = ("batch",)
"""Commands of which any number may work in one folder."""
_RUNS = ("pretrain", "finetune")
"""Commands that go on by --resume."""
_RESUMED = (
    *(".*.unfinished", ".finished.jsonl"),  # maps
    *("unfinished.json", ".records"),  # packs, jobs
    "*/labels-*/seed-*",  # studies
)
"""What is left of results that the same command goes on with."""
_INTERRUPTED = 130
_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    SIGINT and SIGTERM end the process, with a line and status 130 or 143.

    Args:
        arguments: words after `spectralgpt`; None takes those of the process.

    Returns:
        Exit status: 0 on success, 1 for errors that have been explained, 2 for misuse.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Before all that is slow to import.
    with StopSignals(is_process=arguments is None) as signals:
        return _main(words, signals)


def _main(words: list[str], signals: StopSignals) -> int:
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
    return _explained(name, words[1:], signals)


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


def _say(error: Exception) -> str:
    """Return an error as one line, the system's with what to do."""
    from spectralgpt.files import UNWRITABLE, explain_failure

    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = error.filename or "the output"
        return f"{where} cannot be used: {explain_failure(Path(where), error)}"
    return _one_line(error)


def _explained(name: str, words: list[str], signals: StopSignals) -> int:
    """Run a command; its errors are a line, and a status."""
    from jsonargparse import ArgumentError

    try:
        made = _run(name, words, signals)
    except ArgumentError as error:
        # Without the usage, which is longer than the screen.
        reason = _one_line(error)
        print(f"error: {reason} (see spectralgpt {name} --help)", file=sys.stderr)
        return _USAGE_ERROR
    except (SpectralGPTError, OSError) as error:
        if "--debug" in words:
            raise
        print(f"error: {_say(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    with contextlib.suppress(BrokenPipeError):
        print(made)
    return 0


def _run(name: str, words: list[str], signals: StopSignals) -> object:
    from spectralgpt.cli.options import (
        CommandParser,
        bound_yaml,
        check_stated,
        read_early,
        spell_lists,
    )
    from spectralgpt.outputs import claiming, drop_temporaries
    from spectralgpt.training.run_folder import is_first_process

    signals.is_shown = is_first_process()
    # Before a parser is made, which costs some commands seconds of imports.
    early = read_early(name, words)
    check_stated(early)
    module = import_module(_PREFIX + name)
    if hasattr(module, "check_early") and early:
        module.check_early(early)
    bound_yaml()
    parser = CommandParser(
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
    # Reading a configuration file can fail as the command itself can.
    spelled = [_COORDINATES.sub(r" \g<0>", word) for word in spell_lists(words)]
    args = parser.parse_args(spelled)
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    options = _options_of(args)
    if name != "data":
        # Its paths may lie under a folder that another option names.
        check_stated(options)
    output = options.get("output") or options.get("json")
    if output is not None:
        signals.clean = partial(drop_temporaries, output)
        signals.describe = partial(_describe_rest, name, output)
    signals.unwinds = True
    with contextlib.ExitStack() as stack:
        if output is not None and name not in _SHARED and signals.is_shown:
            stack.enter_context(claiming(output))
        return module.run(args)


def _one_line(error: BaseException) -> str:
    # A value that a file holds may be as long as the file, and move the cursor.
    text = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1]
        for letter in " ".join(str(error).split())
    )
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} ..."


def _options_of(args: "Namespace") -> "Namespace":
    """Return the options of a command, or of the part of it that was named."""
    action = args.get("action") or args.get("task")
    own = args.get(action) if isinstance(action, str) else None
    return args if own is None else own


def _describe_rest(name: str, output: Path) -> str:
    """Say how a command that was stopped goes on, if it left what it can go on with."""
    from spectralgpt.training.run_folder import RunFolder

    if name in _RUNS:
        return RunFolder(output).describe_rest()
    if name == "demo" and output.exists():
        return f"{output} holds a part of the demo: begin anew with --overwrite"
    if not any(any(output.glob(pattern)) for pattern in _RESUMED):
        return ""
    return f"what is finished stays in {output}, and the same command goes on"
