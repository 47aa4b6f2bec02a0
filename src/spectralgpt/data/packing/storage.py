"""Where the files of a pack lie: on disk, or in object storage through fsspec.

Shards in object storage are fetched whole, once, into a folder on disk, under the names
of their checksums: images are drawn in any order, and a request for each would cost
more than its bytes.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from spectralgpt.atomic_files import replace_file
from spectralgpt.data.packing.manifest import PackFile, is_remote
from spectralgpt.errors import DataError, DatasetNotFoundError
from spectralgpt.rasters import locations

__all__ = ["Storage", "digest_of"]

_FETCH_AGAIN = "Copy or fetch it again, or pack the images again."


class Storage:
    """The folder of a pack.

    Args:
        location: a path, or an address that fsspec understands, such as
            `s3://bucket/pack` (its own package, such as s3fs, must be installed).
        cache: folder for shards fetched from an address; None takes
            `spectralgpt/packs` in the user's folder for caches.
    """

    def __init__(self, location: str | Path, cache: Path | None = None) -> None:
        self.location = str(location).rstrip("/")
        self._cache = cache or _default_cache()

    @property
    def is_remote(self) -> bool:
        """Whether it is an address."""
        return is_remote(self.location)

    def where(self, file: str) -> str:
        """Return the path or address of a file, for messages."""
        return f"{self.location}/{file}"

    def read(self, file: str) -> bytes:
        """Read a small file whole.

        Raises:
            DatasetNotFoundError: there is none.
            DataError: it cannot be read.
        """
        try:
            if not self.is_remote:
                return Path(self.location, file).read_bytes()
            system, path = self._system()
            return bytes(system.cat_file(f"{path}/{file}"))
        except FileNotFoundError:
            raise DatasetNotFoundError(
                f"{self.where(file)} does not exist. Give the folder of a pack."
            ) from None
        except Exception as error:
            raise self._failed(file, error) from None

    def check(self, file: PackFile) -> None:
        """Refuse a file on disk that is missing or has another size; reads nothing.

        Raises:
            DataError: it does.
        """
        if self.is_remote:
            return
        path = Path(self.location, file.file)
        if not path.is_file():
            raise DataError(f"{path} is missing. {_FETCH_AGAIN}")
        if path.stat().st_size != file.bytes:
            raise DataError(
                f"{path} is truncated or changed: {path.stat().st_size} bytes where "
                f"{file.bytes} were written. {_FETCH_AGAIN}"
            )

    def verify(self, file: PackFile) -> None:
        """Read a file to its end and compare its checksum.

        Raises:
            DataError: it differs.
        """
        self.check(file)
        path = Path(self.fetch(file))
        if not self.is_remote and digest_of(path) != file.sha256:
            raise self._corrupt(file)

    def fetch(self, file: PackFile) -> Path:
        """Return a file's path on disk; from an address it is fetched if need be.

        Raises:
            DataError: it cannot be fetched, or what came has another checksum.
        """
        if not self.is_remote:
            return Path(self.location, file.file)
        path = self._cache / f"{file.sha256}{Path(file.file).suffix}"
        if path.is_file() and path.stat().st_size == file.bytes:
            return path

        def write(temporary: Path) -> None:
            system, folder = self._system()
            system.get_file(f"{folder}/{file.file}", str(temporary))
            if digest_of(temporary) != file.sha256:
                raise self._corrupt(file)

        try:
            # Loader processes may fetch one at the same time: each in its own place.
            replace_file(path, write)
        except DataError:
            raise
        except Exception as error:
            # Each file system has errors of its own.
            raise self._failed(file.file, error) from None
        return path

    def _system(self) -> tuple[Any, str]:
        import fsspec

        options = {}
        for scheme in ("http", "https"):
            if f"{scheme}://" in self.location:
                import aiohttp

                # Its own limit is the time of a whole file, however large.
                wait_s = locations.NO_ANSWER_S
                limits = {"sock_connect": wait_s, "sock_read": wait_s}
                timeout = aiohttp.ClientTimeout(total=None, **limits)
                options[scheme] = {"client_kwargs": {"timeout": timeout}}
        system, path = fsspec.core.url_to_fs(self.location, **options)
        return system, path

    def _corrupt(self, file: PackFile) -> DataError:
        return DataError(
            f"{self.where(file.file)} is corrupt: its checksum is not the one that was "
            f"written. {_FETCH_AGAIN}"
        )

    def _failed(self, file: str, error: Exception) -> DataError:
        if self.is_remote and isinstance(error, TimeoutError):
            silent = locations.no_answer(self.location)
            return DataError(f"{self.where(file)} cannot be read: {silent}")
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{self.where(file)} cannot be read: {reason}")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spectralgpt" / "packs"
