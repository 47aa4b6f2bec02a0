"""The `spectralgpt` command: find the sub-command, run it, explain its errors.

Ctrl-C and SIGTERM give one line and a status, and nothing half-made is left behind. The
first signal becomes an exception in the main thread, so that what is under way removes
what it has half made, as after an error. Libraries may swallow that exception, or keep
the main thread in code that is not Python: after a while the process ends without them.
"""

import contextlib
import difflib
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from spectralgpt import __version__
from spectralgpt.errors import SpectralGPTError

if TYPE_CHECKING:
    from spectralgpt.cli.options import CommandParser

_PREFIX = "spectralgpt.cli."
_LONGEST_LINE = 2000
# Help stands here so that listing the commands imports none of them.
COMMANDS = {
    "demo": "pretrain, compare and map on the imagery that ships with the package",
    "pretrain": "pretrain a masked autoencoder on unlabelled imagery",
    "finetune": "train a pretrained encoder for a task, from labels",
    "evaluate": "measure a model: fine-tuned, linear probe or nearest neighbours",
    "compare": "compare starts of a task, over shares of the labels and seeds",
    "arena": "compare ways of pretraining on equal budgets, by the same tasks",
    "embed": "write embeddings of images to GeoParquet, npz or GeoTIFF",
    "cluster": "map groups of like places from embeddings, without labels",
    "similar": "find places that look like a point or polygon, from embeddings",
    "probe": "map scenes from a few labelled places, from embeddings",
    "reconstruct": "show what a pretrained model rebuilds of an image",
    "predict": "classify or map images with a fine-tuned model",
    "view": "serve a local page to look at scenes, maps and what a model makes of them",
    "batch": "map or embed many scenes, each once, on one machine or a cluster",
    "resample": "write an image in the bands of another sensor, or of a model",
    "synthesize": "write bands that an image does not have, with their errors",
    "export": "write a model as ONNX or torch.export, to run without this package",
    "convert": "convert between our checkpoints and the published format",
    "weights": "list, download and check published weights by name",
    "info": "say what a checkpoint, an image or a sensor is",
    "recipes": "list the configurations that ship with the package, or print one",
    "data": "list the known archives, check one or your own data, or label scenes",
    "benchmark": "measure speed and memory of training, inference and loading",
    "simulate": "make a simulated, labelled satellite archive",
}
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
_ANYWHERE = {
    ("--debug",): "show the traceback of an error",
    ("-v", "--verbose"): "report each step on stderr",
    ("-q", "--quiet"): "report nothing but errors",
}
"""Options of all commands, by their names."""
_EVERYWHERE = frozenset(sum(_ANYWHERE, ()))
"""Those names: they may stand before the command, too."""
_COMPLETION = "--print-completion"
_INTERRUPTED = 130
_USAGE_ERROR = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ENDED = 128
_GRACE_S = 8.0
"""For cleaning up; Docker kills after ten."""
_DYING_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    SIGINT and SIGTERM end the process, with a line and status 130 or 143.

    Args:
        arguments: words after `spectralgpt`; None takes those of the process.

    Returns:
        Exit status: 0 on success, 1 for errors that have been explained, 2 for misuse.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    before = list(takewhile(_EVERYWHERE.__contains__, words))
    rest = words[len(before) :]
    words = [rest[0], *before, *rest[1:]] if rest else []
    if arguments is None:
        # A notebook's backend, which its commands inherit, may not be installed here.
        os.environ["MPLBACKEND"] = "agg"
    # Before all that is slow to import.
    with _StopSignals(is_process=arguments is None) as signals:
        if not words or words[0] in ("-h", "--help"):
            _say(_overview())
            return 0 if words else _USAGE_ERROR
        if words[0] == "--version":
            _say(f"spectralgpt {__version__}")
            return 0
        if words[0].replace("_", "-").startswith(_COMPLETION):
            return _print_completion([*words[0].split("=")[1:], *words[1:]])
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
            "spectralgpt --print-completion bash prints what lets bash complete them.",
            "spectralgpt --version prints the version.",
        ]
    )


def _explained(name: str, words: list[str], signals: "_StopSignals") -> int:
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
        from spectralgpt.files import explain_unwritable

        # The system's with what to do.
        said = explain_unwritable(error) or _one_line(error)
        print(f"error: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    _say(made)
    return 0


def _say(text: object) -> None:
    """Print a result; a pipe that nobody reads any more is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would write what is left once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(name: str, words: list[str], signals: "_StopSignals") -> object:
    from spectralgpt.cli.options import check_stated, read_early
    from spectralgpt.cli.spelling import spell_inside
    from spectralgpt.files import claiming, drop_temporaries, is_first_process

    signals.is_shown = is_first_process()
    # Also behind the name of a sub-command.
    words = sorted(spell_inside(words), key=lambda word: word not in _EVERYWHERE)
    # Before a parser is made, which costs some commands seconds of imports.
    early = read_early(name, words)
    check_stated(early)
    module = import_module(_PREFIX + name)
    if hasattr(module, "check_early") and early:
        module.check_early(early)
    parser = _parser_of(name)
    # Reading a configuration file can fail as the command itself can.
    args = parser.parse_args(words)
    level = logging.INFO if args.verbose else logging.WARNING
    level = logging.ERROR if args.quiet else level
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    # Of a command, or of the part of it that was named.
    action = args.get("action") or args.get("task")
    own = args.get(action) if isinstance(action, str) else None
    options = args if own is None else own
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


def _parser_of(name: str) -> "CommandParser":
    from spectralgpt.cli.options import CommandParser

    module = import_module(_PREFIX + name)
    parser = CommandParser(
        prog=f"spectralgpt {name}",
        description=module.HELP,
        default_env=False,
        exit_on_error=False,
    )
    for names, text in _ANYWHERE.items():
        parser.add_argument(*names, action="store_true", help=text)
    module.add_arguments(parser)
    parser.add_config()
    return parser


def _print_completion(words: list[str]) -> int:
    """Print the script for a shell, of all commands whose libraries are here."""
    from spectralgpt.cli.completion import SHELLS, write_script

    if len(words) != 1 or words[0] not in SHELLS:
        say = f"{_COMPLETION} takes {' or '.join(SHELLS)}; for the files of a command:"
        told = f"error: {say} spectralgpt COMMAND {_COMPLETION} jsonschema"
        print(told, file=sys.stderr)
        return _USAGE_ERROR
    parsers: dict[str, CommandParser | None] = dict.fromkeys(COMMANDS)
    for name in COMMANDS:
        try:
            parsers[name] = _parser_of(name)
        except SpectralGPTError as error:
            print(f"options of {name} are left out: {error}", file=sys.stderr)
    _say(write_script(words[0], parsers))
    return 0


def _one_line(error: BaseException) -> str:
    # A value that a file holds may be as long as the file, and move the cursor.
    text = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1]
        for letter in " ".join(str(error).split())
    )
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} ..."


def _describe_rest(name: str, output: Path) -> str:
    """Say how to continue a stopped command, if it left something to continue from."""
    from spectralgpt.training.run_folder import RunFolder

    if name in _RUNS:
        return RunFolder(output).describe_rest()
    if name == "demo" and output.exists():
        return f"{output} holds a part of the demo: begin anew with --overwrite"
    if not any(any(output.glob(pattern)) for pattern in _RESUMED):
        return ""
    return f"what is finished stays in {output}, and the same command goes on"


class _Stopped(KeyboardInterrupt):
    """The user, or the system, asked the command to end."""


class _StopSignals:
    """Handles signals that end a command; a context manager, for the main thread.

    Args:
        is_process: the process ends with the command, so nothing is restored after it.

    Attributes:
        received: the signal that was heard, if any.
        is_shown: whether this is the process that the user sees, of several.
        unwinds: whether what is under way may have anything to clean up.
        clean: removes what is half-made, also by processes that were killed.
        describe: says what stays, and how to go on with it, for the line.
    """

    def __init__(self, is_process: bool) -> None:
        self._is_process = is_process
        self.received: signal.Signals | None = None
        self.is_shown = True
        self.unwinds = False
        self.clean: Callable[[], object] = str
        self.describe: Callable[[], str] = str
        self._kept: dict[signal.Signals, Any] = {}
        self._ends = threading.Lock()
        self._wakes: int | None = None
        self._stderr = 2

    def __enter__(self) -> "_StopSignals":
        """Take over the signals, unless this process is to ignore them."""
        if threading.current_thread() is threading.main_thread():
            self._take_over()
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back, or end the process if one was heard."""
        if self.received is not None:
            self.end()
        if self._is_process:
            # All is done, and what is left of the process may end at any moment.
            self.unwinds, self.describe = False, str
            return
        for each, handler in self._kept.items():
            signal.signal(each, handler)
        if self._wakes is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._wakes)

    def _take_over(self) -> None:
        reads, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        # Python's own handlers wait for the main thread; this wakes another one.
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reads,), daemon=True).start()
        _let_go_in_children()
        for each in _SIGNALS:
            handler = signal.getsignal(each)
            # The shell has it ignored by what runs in the background.
            if handler is not signal.SIG_IGN:
                self._kept[each] = handler or signal.SIG_DFL
                signal.signal(each, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # Often sent twice, to the process and to its group.
            return
        self.received = signal.Signals(number)
        self._hush()
        if not self.unwinds or _is_importing(frame):
            self.end()
        raise _Stopped

    def _watch(self, reads: int) -> None:
        """End the process some time after a signal, whatever the main thread does."""
        with contextlib.closing(os.fdopen(reads, "rb", buffering=0)) as pipe:
            while number := pipe.read(1):
                if number[0] in self._kept:
                    threading.Event().wait(_GRACE_S)
                    self.received = self.received or signal.Signals(number[0])
                    self.end()

    def _hush(self) -> None:
        """Keep what ends in the middle from telling of it, and what it starts, too."""
        with contextlib.suppress(OSError):
            if self._stderr == 2:
                self._stderr = os.dup(2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def end(self) -> NoReturn:
        """Say what was heard and what stays; end this process and those below it."""
        # Two threads may come here; the second waits for the end.
        self._ends.acquire()
        assert self.received is not None
        self._hush()
        _kill_below()
        if self.unwinds:
            with contextlib.suppress(Exception):
                self.clean()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if self.is_shown:
            stays = ""
            with contextlib.suppress(Exception):
                stays = self.describe()
            # A progress bar may have been cut off, which hides the cursor.
            clean = "\r\x1b[K\x1b[?25h" if os.isatty(self._stderr) else ""
            line = f"{clean}interrupted by {self.received.name}"
            line += f": {stays}" if stays else ""
            with contextlib.suppress(OSError):
                os.write(self._stderr, f"{line}\n".encode(errors="replace"))
        os._exit(_ENDED + self.received)


def _is_importing(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported: code of C++ aborts at an exception."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


@functools.cache
def _let_go_in_children() -> None:
    """Let processes forked from this one ignore Ctrl-C and end by SIGTERM as usual."""

    def let_go() -> None:
        for each, handler in zip(
            _SIGNALS, (signal.SIG_IGN, signal.SIG_DFL), strict=True
        ):
            if signal.getsignal(each) is not signal.SIG_IGN:
                # A terminal sends Ctrl-C to all: the first process ends the others.
                signal.signal(each, handler)
        signal.set_wakeup_fd(-1)

    os.register_at_fork(after_in_child=let_go)


def _kill_below() -> None:
    """Kill the processes that this one has started, and those that they have.

    Other threads of this one may start more in place of those that die.
    """
    deadline = time.monotonic() + _DYING_S
    while (found := _processes_below()) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(OSError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        time.sleep(_DYING_S / 100)


def _processes_below() -> list[int]:
    children = _children_by_parent()
    found = [os.getpid()]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def _children_by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                # The name, in brackets, may hold anything.
                parent = int(file.read().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry))
        return found
    # Not Linux.
    from multiprocessing import active_children

    own = [each.pid for each in active_children() if each.pid]
    return {os.getpid(): own}
