"""Weights that have a name, so that nobody has to find, download and name a file.

`table.yaml` beside this file says, as data, where each file is, how large, by which
hash it is known, whose it is and what the model takes. An entry without an address
ships with the package. All others are downloaded into a cache when they are first asked
for. What was once taken for the weights of a name stays that: its hash is pinned beside
it, and another file in its place is an error.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralgpt.config import build_config, read_mapping
from spectralgpt.errors import CheckpointError, ConfigError, OutputError
from spectralgpt.files import read_text, write_text

if TYPE_CHECKING:
    from requests import Response, Session

_log = logging.getLogger(__name__)

_TABLE = Path(__file__).with_name("table.yaml")
_SCHEMES = ("https://",)
_CACHE = "SPECTRALGPT_CACHE"
_OFFLINE = "HF_HUB_OFFLINE"
_HASH = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_HEAD_BYTES = 512
_LFS_START = b"version https://git-lfs"
_MOST_BYTES = 2**36
_MOST_REDIRECTS = 5
_BLOCK_BYTES = 2**16
_TRIES = 5
_PAUSE_S = 1.0
_TIMEOUTS_S = (10.0, 60.0)
"""For a connection, and for the next bytes."""


@dataclass(frozen=True)
class NamedWeights:
    """An entry of the table.

    Attributes:
        name: what it is asked for by.
        title: what it is, in a line.
        file: name of the file, without a folder.
        licence: under which it may be used.
        source: page that publishes it.
        citation: paper.
        contract: what the model takes, by the attributes of `Preprocessing`.
        url: where the file is; None for one that ships with the package.
        size: bytes; None where they are not known.
        hash: sha256:... or md5:...; None where none is published.

    Raises:
        ConfigError: the file has a folder, or the hash or address is none.
    """

    name: str
    title: str
    file: str
    licence: str
    source: str
    citation: str
    contract: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    size: int | None = None
    hash: str | None = None

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ConfigError(f"{self.name}: file {self.file!r} must be a bare name.")
        if self.hash is not None and not _HASH.fullmatch(self.hash):
            raise ConfigError(f"{self.name}: {self.hash!r} is no sha256: or md5: hash.")
        if self.url is not None and not self.url.startswith(_SCHEMES):
            raise ConfigError(f"{self.name}: {self.url} is no https address.")

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        if self.url is None:
            return _TABLE.parent / self.file
        return cache_folder() / self.name / self.file

    @property
    def pin(self) -> Path:
        """The file, as of sha256sum, that pins a hash which none has published."""
        return self.path.with_name(self.file + ".sha256")


def list_weights() -> dict[str, NamedWeights]:
    """Return the table, by name."""
    return {
        name: build_config({"name": name, **entry}, NamedWeights, f"{_TABLE}, {name}")
        for name, entry in read_mapping(_TABLE).items()
    }


def find_named(name: str) -> NamedWeights | None:
    """Return the weights of a name, in capitals or not; None if there are none."""
    named = {each.lower(): entry for each, entry in list_weights().items()}
    return named.get(name.lower())


def cache_folder() -> Path:
    """Return where downloads are kept.

    SPECTRALGPT_CACHE, or `spectralgpt` in the folder of Hugging Face, which is HF_HOME,
    or `huggingface` in XDG_CACHE_HOME or ~/.cache.
    """
    own, hub = os.environ.get(_CACHE), os.environ.get("HF_HOME")
    usual = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = own or Path(hub or Path(usual, "huggingface"), "spectralgpt")
    return Path(folder).expanduser()


def fetch(named: NamedWeights) -> Path:
    """Return the file of named weights, which is downloaded if it is not there.

    A download that broke off goes on where it was. The file is compared with its hash;
    where none is published, that of the first file is pinned.

    Raises:
        CheckpointError: it cannot be had, or is another than it was or should be.
    """
    path = named.path
    if not path.is_file():
        if named.url is None:
            raise CheckpointError(
                f"{named.name} ships with the package, but {path} is not there: "
                "install the package again."
            )
        if os.environ.get(_OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise CheckpointError(
                f"{named.name} is not at {path}, and {_OFFLINE} forbids to download "
                f"it: save {named.url} there, or unset {_OFFLINE}."
            )
        _download(named, named.url)
    verify(named)
    return path


def verify(named: NamedWeights) -> str:
    """Compare a file that is there with its size and hash, and pin its hash if need be.

    Returns:
        The hash that it was compared with.

    Raises:
        CheckpointError: it is another file, no weights, or cannot be read.
    """
    try:
        return _check(named, named.path, "Remove it to get it anew.")
    except OSError as error:
        raise CheckpointError(f"{named.path} cannot be read: {error}") from error


def _check(named: NamedWeights, path: Path, remedy: str) -> str:
    """Compare a file with what is known of the weights; see `verify`.

    Args:
        named: what it should be.
        path: their file, or one that is to become it.
        remedy: what to do about another file.
    """
    size = path.stat().st_size
    if named.size is not None and size != named.size:
        raise CheckpointError(
            f"{path} has {size:,} bytes, but {named.name} has {named.size:,}. {remedy}"
        )
    known = named.hash
    if known is None and named.pin.is_file():
        known = f"sha256:{read_text(named.pin).partition(' ')[0]}"
    kind = known.partition(":")[0] if known else "sha256"
    with path.open("rb") as file:
        found = f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"
    if known is None:
        # A page about the file must not become the file.
        check_is_weights(path)
        line = f"{found.removeprefix('sha256:')}  {named.file}\n"
        try:
            write_text(named.pin, line)
        except OutputError as error:
            _log.warning("the hash of %s is not pinned: %s", path, error)
    elif found != known:
        origin = "as published" if named.hash else f"as when first used ({named.pin})"
        raise CheckpointError(
            f"{path} is not {named.name}: its hash is {found}, not {known} {origin}. "
            f"{remedy}"
        )
    return found


def check_is_weights(path: Path) -> None:
    """Refuse what downloads and copies leave in the place of weights.

    Raises:
        CheckpointError: the file is empty, a web page or a Git LFS pointer, or cannot
            be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        raise CheckpointError(f"{path} is empty: download or copy it again.")
    if start.startswith(_LFS_START):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, which only says where the weights are: "
            "run `git lfs pull` in its repository."
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise CheckpointError(
            f"{path} is a web page, no weights: the address led to a page about the "
            "file. Download the file itself (on the Hugging Face Hub `resolve` in "
            "place of `blob` in the address)."
        )
    if start.startswith((b"{", b"[")):
        raise CheckpointError(
            f"{path} is a text (JSON), no weights: it may be a server's error message. "
            "Download the weights again."
        )


def _download(named: NamedWeights, url: str) -> None:
    """Download weights into the cache, in one process at a time.

    Raises:
        CheckpointError: they cannot be had or kept, or are others. What has come of
            the right file stays, to go on from.
    """
    from filelock import FileLock
    from requests import RequestException

    path = named.path
    part = path.with_name(f"{named.file}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{named.file}.lock")):
            if path.is_file():
                return
            _log.warning("%s is downloaded from %s to %s", named.name, url, path)
            _receive_all(named, url, part)
            try:
                _check(named, part, f"It came from {url}, and was removed.")
            except CheckpointError:
                part.unlink()
                raise
            part.replace(path)
            _version_file(part).unlink(missing_ok=True)
    except RequestException as error:
        cause = getattr(error.args[0], "reason", error) if error.args else error
        reason = " ".join(str(cause).split())[:160]
        raise CheckpointError(
            f"{named.name} could not be downloaded from {url}: {reason}"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{named.name} cannot be kept in {path.parent}: {error.strerror or error}. "
            f"Name another folder in {_CACHE}."
        ) from error


def _receive_all(named: NamedWeights, url: str, part: Path) -> None:
    """Receive a file in as many connections as it takes.

    To go on with a download that broke off is left to us by every library that takes
    any address: `requests` only asks, and follows.
    """
    from requests import Session
    from requests.adapters import HTTPAdapter
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("{task.description}", DownloadColumn(), TimeRemainingColumn())
    with (
        Session() as session,
        Progress(*columns, console=console, disable=not console.is_terminal) as bar,
    ):
        session.max_redirects = _MOST_REDIRECTS
        # Without one for http, nothing is redirected there.
        session.adapters.clear()
        for scheme in _SCHEMES:
            session.mount(scheme, HTTPAdapter())
        show = partial(bar.update, bar.add_task(named.name, total=named.size))
        for _ in range(_TRIES):
            if _receive(named, url, part, session, show):
                return
            time.sleep(_PAUSE_S)
    raise CheckpointError(
        f"{named.name}: the connection to {url} broke off {_TRIES} times, last after "
        f"{part.stat().st_size:,} bytes. The same command goes on from there."
    )


def _receive(
    named: NamedWeights,
    url: str,
    part: Path,
    session: "Session",
    show: Callable[..., None],
) -> bool:
    """Receive what is missing of a file, in one connection.

    Returns:
        Whether it is whole; if not, the connection broke off.

    Raises:
        CheckpointError: the server has no such file, or one of another size.
        RequestException: there is no server, and nothing has come from it.
    """
    from requests import ConnectionError, Timeout
    from requests.exceptions import ChunkedEncodingError

    have = part.stat().st_size if part.is_file() else 0
    if have and have == named.size:
        return True
    headers = _asking_for(named, part, have)
    try:
        with session.get(
            url, headers=headers, stream=True, timeout=_TIMEOUTS_S
        ) as response:
            if response.status_code == 416:
                # There is no more of it: it was whole and never checked, or is wrong.
                part.unlink()
                return False
            done, size = _announced(named, url, response, have)
            if not done:
                write_text(_version_file(part), _version_of(response))
            with part.open("ab" if done else "wb") as file:
                for block in response.iter_content(_BLOCK_BYTES):
                    done += len(block)
                    if done > size:
                        break
                    file.write(block)
                    show(completed=done, total=size)
    except (ConnectionError, Timeout, ChunkedEncodingError):
        if not part.is_file():
            raise
        return False
    if done > size:
        part.unlink()
        raise CheckpointError(
            f"{url} sends more than the {size:,} bytes of {named.name}: it was cut "
            "off, and nothing of it is kept."
        )
    return done == size


def _version_file(part: Path) -> Path:
    """Return the file that says of which version of a file on a server a part is."""
    return part.with_name(f"{part.name}.version")


def _version_of(response: "Response") -> str:
    """Return what tells versions of a file apart; "" where the server does not say."""
    version = response.headers.get("ETag", "W/")
    if version.startswith("W/"):  # A weak one says nothing of bytes.
        version = response.headers.get("Last-Modified", "")
    return version if version.isascii() else ""


def _asking_for(named: NamedWeights, part: Path, have: int) -> dict[str, str]:
    """Return the headers that ask for the rest of a file, as it was sent."""
    headers = {"Accept-Encoding": "identity"}
    note = _version_file(part)
    version = read_text(note).strip() if have and note.is_file() else ""
    # Halves of two versions must not be joined where no hash would tell.
    if have and (version or named.hash):
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version
    return headers


def _announced(
    named: NamedWeights, url: str, response: "Response", have: int
) -> tuple[int, int]:
    """Return where an answer starts in a file and how large that is, in bytes."""
    status, headers = response.status_code, response.headers
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if status == 200:
        start, stated = 0, headers.get("Content-Length", "")
    elif status == 206 and found is not None and int(found[1]) == have:
        start, stated = have, found[2]
    else:
        raise CheckpointError(
            f"{url} answered {status} {response.reason}, so {named.name} was not "
            f"downloaded. See {named.source}."
        )
    size = int(stated) if stated.isdecimal() else named.size
    if size is None or size != (named.size or size) or size > _MOST_BYTES:
        wanted = "a size" if named.size is None else f"{named.size:,} bytes"
        raise CheckpointError(
            f"{url} announces {stated or 'no'} bytes, and {named.name} needs {wanted}: "
            f"nothing was downloaded. See {named.source}."
        )
    return start, size
