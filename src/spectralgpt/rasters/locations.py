"""Files that are not on this machine's disk by themselves: members of zips, addresses.

Only `spectralgpt.rasters` makes them, after checking where they lead; GDAL's own way to
say such things (/vsizip/, /vsicurl/) is never taken from a user or a file.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

__all__ = [
    "NO_ANSWER_S",
    "Location",
    "VirtualFile",
    "http_file",
    "http_settings",
    "no_answer",
    "zip_member",
]

NO_ANSWER_S = 30
"""Seconds after which a server that sends nothing is given up."""
_RETRIES = 2
_LEAST_BYTES_A_SECOND = 100


@dataclass(frozen=True)
class VirtualFile:
    """A raster inside of an archive, or at an address.

    Args:
        address: how GDAL calls it.
        shown: how people call it, for messages.
    """

    address: str
    shown: str

    def __str__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.shown.partition("?")[0]).name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's ending with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def is_remote(self) -> bool:
        """Whether reading it needs the network."""
        return self.address.startswith("/vsicurl/")

    @property
    def driver(self) -> str:
        """The one GDAL driver that may open it."""
        is_jpeg = self.suffix.lower() in (".jp2", ".j2k")
        return "JP2OpenJPEG" if is_jpeg else "GTiff"


Location = Path | VirtualFile
"""Where a raster file is."""


def zip_member(archive: Path, name: str) -> VirtualFile:
    """Return a member of a zip archive; its pixels are read without unpacking it."""
    return VirtualFile(f"/vsizip/{{{archive.absolute()}}}/{name}", f"{archive}/{name}")


def http_file(address: str) -> VirtualFile:
    """Return a file at an http or https address, of which only parts are fetched."""
    # What signs a request must not get into messages and logs.
    return VirtualFile(f"/vsicurl/{address}", address.partition("?")[0])


def http_settings() -> dict[str, str | int | float]:
    """Return GDAL's settings for addresses.

    A busy server is asked again soon. One that takes the call and then says nothing is
    not: it would take the wait each time. Who cannot be connected to is tried again
    within the same wait.
    """
    return {
        "GDAL_HTTP_LOW_SPEED_TIME": NO_ANSWER_S,
        "GDAL_HTTP_LOW_SPEED_LIMIT": _LEAST_BYTES_A_SECOND,
        # Newer versions try it all twice.
        "GDAL_HTTP_CONNECTTIMEOUT": NO_ANSWER_S / (_RETRIES + 1) / 2,
        "GDAL_HTTP_MAX_RETRY": _RETRIES,
        "GDAL_HTTP_RETRY_DELAY": 1,
        "CPL_VSIL_CURL_USE_HEAD": "NO",
    }


def no_answer(address: str) -> str:
    """Say in one line that the server at an address said nothing for too long."""
    parts = urlsplit(address)
    # Without what signs in.
    server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return (
        f"the server at {server} did not answer within {NO_ANSWER_S} s. Try again "
        "later, or fetch the files to this machine."
    )
