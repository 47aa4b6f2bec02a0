"""A local web page to look at scenes, maps, reconstructions and likeness.

`open_sources` tells what paths are, `Viewer` holds what the page shows, `serving`
answers a browser on this machine, and nobody else. The page itself lies in `static`,
with Leaflet, the map library. Needs `spectralgpt[view]`.
"""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectralgpt.errors import ConfigError, require
from spectralgpt.viewer.contents import Viewer, open_sources, take_models
from spectralgpt.viewer.model import ViewModel

__all__ = [
    "ViewModel",
    "Viewer",
    "open_sources",
    "serving",
    "take_models",
]


if TYPE_CHECKING:
    import uvicorn

_HOST = "127.0.0.1"
_LAST_PORT = 65535
_WAIT_S = 2
"""For answers under way, before the server ends."""


@dataclass(frozen=True)
class _PageServer:
    """A page that is ready to be served."""

    url: str
    server: "uvicorn.Server"
    listener: socket.socket

    def run(self) -> None:
        """Answer until `stop` is called or the user interrupts."""
        self.server.run(sockets=[self.listener])

    def stop(self) -> None:
        """End `run`, from another thread."""
        self.server.should_exit = True


@contextlib.contextmanager
def serving(viewer: Viewer, port: int) -> Iterator[_PageServer]:
    """Take a port of 127.0.0.1; `run` of what is yielded then serves the page.

    Args:
        viewer: what is shown.
        port: 0 takes any free one.

    Raises:
        ConfigError: the port is taken or none, or a package is missing.
    """
    require("starlette", "uvicorn")
    import uvicorn

    from spectralgpt.viewer.app import make_app

    with contextlib.closing(_listen(port)) as listener:
        taken = listener.getsockname()[1]
        config = uvicorn.Config(
            make_app(viewer, taken),
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_WAIT_S,
        )
        url = f"http://{_HOST}:{taken}/"
        yield _PageServer(url, uvicorn.Server(config), listener)


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"--port {port}: ports are 0 (any free one) to {_LAST_PORT}.")
    listener = socket.socket()
    # Without this a port stays taken for a minute after a server has ended.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        # From now on browsers wait for answers, where they were refused.
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror}): choose another with "
            "--port, or 0 for any free one."
        ) from None
    return listener
