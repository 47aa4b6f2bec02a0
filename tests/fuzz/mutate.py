"""Seeded damage to bytes and texts, and what a fuzz test asks of the code it feeds.

A fuzzer makes a whole, valid input, damages it here and hands it to the reader that is
tried. Rounds are few in each test run; SPECTRALGPT_FUZZ_ROUNDS sets their number.
"""

import contextlib
import os
import random
import signal
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from spectralgpt.errors import SpectralGPTError

ROUNDS_VARIABLE = "SPECTRALGPT_FUZZ_ROUNDS"
_DEFAULT_ROUNDS = 40
# Values that have broken readers before.
NUMBERS = (
    "0",
    "-1",
    "1e999",
    "-1e999",
    "NaN",
    ".nan",
    ".inf",
    "Infinity",
    "4294967296",
    "9" * 5000,
    "1" + "0" * 400,
    "1000000",
    "0x7fffffffffffffff",
    "1.5",
)
WORDS = (
    "null",
    "~",
    "true",
    "[]",
    "{}",
    '""',
    "''",
    "[[]]",
    "&a [*a]",
    "*a",
    "<<: {}",
    "!!python/object:os.system {}",
    "2024-13-45",
    "9999999-01-01",
    "\ufeff",
    "\x00",
    "../../../etc/passwd",
    "\u202e",
    "\ud7ff",
    "é" * 50,
    "x" * 100_000,
    "[" * 3000,
    "{" * 3000,
    '{"a":' * 3000,
    *NUMBERS,
)
_TOKEN_BREAKS = " \t\n,:[]{}\"'"


def rounds() -> range:
    """Return the rounds of one fuzzer: each number is the seed of one input."""
    return range(int(os.environ.get(ROUNDS_VARIABLE, _DEFAULT_ROUNDS)))


def mutate_bytes(content: bytes, seed: int, hot: int | None = None) -> bytes:
    """Damage bytes: flip, overwrite, cut, insert, repeat or swap, one to four times.

    Args:
        content: of a whole file.
        seed: the same seed gives the same damage.
        hot: bytes at the front that get half of the damage, such as a header; None
            spreads it evenly.
    """
    drawn = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(drawn.randint(1, 4)):
        _damage(damaged, drawn, hot)
    return bytes(damaged)


def _damage(content: bytearray, drawn: random.Random, hot: int | None) -> None:
    end = len(content)
    if hot is not None and drawn.random() < 0.5:
        end = min(end, hot)
    at = drawn.randrange(end) if end else 0
    length = drawn.choice((1, 2, 4, 8, 64, 1024))
    kind = drawn.randrange(7)
    if kind == 0 and at < len(content):
        content[at] ^= 1 << drawn.randrange(8)
    elif kind == 1:
        content[at : at + length] = bytes([drawn.choice((0, 0x7F, 0xFF))]) * length
    elif kind == 2:
        del content[at:]
    elif kind == 3:
        del content[at : at + length]
    elif kind == 4:
        content[at:at] = drawn.randbytes(length)
    elif kind == 5:
        content[at:at] = content[at : at + length]
    else:
        content[at : at + length] = drawn.randbytes(length)


def mutate_text(text: str, seed: int) -> str:
    """Damage a text by its words: replace, drop, repeat or cut, one to three times.

    Half of the damage puts a value in the place of a whole word or number, so that the
    text still reads as what it was.
    """
    drawn = random.Random(seed)
    for _ in range(drawn.randint(1, 3)):
        text = _damage_text(text, drawn)
    return text


def _damage_text(text: str, drawn: random.Random) -> str:
    start = drawn.randrange(len(text)) if text else 0
    while start > 0 and text[start - 1] not in _TOKEN_BREAKS:
        start -= 1
    end = start
    while end < len(text) and text[end] not in _TOKEN_BREAKS:
        end += 1
    kind = drawn.randrange(8)
    if kind < 4:
        return text[:start] + drawn.choice(WORDS) + text[end:]
    if kind == 4:
        return text[:start] + text[end:]
    if kind == 5:
        return text[:end] + " " + text[start:end] + text[end:]
    if kind == 6:
        lines = text.splitlines(keepends=True)
        drawn.shuffle(lines)
        return "".join(lines)
    return text[:start]


def mutate_value(value: Any, seed: int, values: Sequence[Any]) -> Any:
    """Put one of `values` in a random place of plain nested values (as from JSON).

    Args:
        value: dicts, lists and scalars; left as it is.
        seed: the same seed gives the same damage.
        values: what is put there; besides, keys are dropped.
    """
    drawn = random.Random(seed)
    places: list[tuple[Any, ...]] = []
    _list_places(value, (), places)
    place = drawn.choice(places)
    return _put(value, place, drawn.choice([*values, _Dropped]))


class _Dropped:
    """Stands for no value at all."""


def _list_places(
    value: Any, at: tuple[Any, ...], places: list[tuple[Any, ...]]
) -> None:
    if at:
        places.append(at)
    if isinstance(value, dict):
        for key, inner in value.items():
            _list_places(inner, (*at, key), places)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _list_places(inner, (*at, index), places)


def _put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    key, rest = place[0], place[1:]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    kept = {
        name: _put(inner, rest, new) if name == key else inner for name, inner in pairs
    }
    if not rest and new is _Dropped:
        del kept[key]
    return kept if isinstance(value, dict) else list(kept.values())


class TooLongError(BaseException):
    """The time is over; no reader may catch it as an error of its own."""


@contextlib.contextmanager
def bounded(seconds: float = 20.0, mebibytes: float | None = None) -> Iterator[None]:
    """Fail where what is inside takes too long or too much of Python's memory.

    Args:
        seconds: by the clock; on the main thread of a POSIX system only.
        mebibytes: allocated by Python and numpy at once; None does not measure, which
            is much faster.
    """

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError(f"still at work after {seconds} s")

    has_alarm = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, too_long) if has_alarm else None
    if has_alarm:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    if mebibytes is not None:
        tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] if mebibytes is not None else 0
    finally:
        if mebibytes is not None:
            tracemalloc.stop()
        if has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if mebibytes is not None:
        assert peak < mebibytes * 2**20, f"took {peak / 2**20:.0f} MiB"


def refusal(error: SpectralGPTError) -> str:
    """Return an error's message as one line, after checking that it says something.

    It may quote a value of any length; the command line shortens it.
    """
    text = " ".join(str(error).split())
    assert text, f"{type(error).__name__} says nothing"
    return text


@contextlib.contextmanager
def said() -> Iterator[None]:
    """Let our errors through, after a look at what they say."""
    try:
        yield
    except SpectralGPTError as error:
        refusal(error)
        raise
