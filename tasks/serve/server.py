"""The socket and the server loop, which Ctrl-C and SIGTERM end."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from simsiam_eval.errors import DataError
from simsiam_eval.runtime.signals import StopRequest, stop_requests

_SHUTDOWN_SECONDS = 5  # for requests that are being answered
_KEEP_ALIVE_SECONDS = 75  # of a connection without requests; a client that sends one as it is closed gets an error
_BACKLOG = 2048


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound, before the work that would be lost otherwise; with port 0 the system chooses one.

    Raises:
        DataError: the port is taken or not permitted, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise DataError(f"--host {host} is not an address or name that this machine knows.") from error
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise DataError(
                f"--port {port} of {host} is already in use; choose another, or 0 for any free one."
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise DataError(f"--host {host} is not an address of this machine.") from error
        raise DataError(f"--port {port} of {host} cannot be opened: {error.strerror}.") from error
    return opened


def address_of(opened: socket.socket) -> str:
    """The URL of a socket, such as http://127.0.0.1:8000."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: Any, opened: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C or SIGTERM; a second one does not wait for the answers that are being made.

    Args:
        app: an ASGI application.
        ready: called when requests are answered.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="error",  # not the warnings of malformed requests, which name nothing
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    with opened, stop_requests() as request:
        _Server(config, request, ready).run([opened])


class _Server(uvicorn.Server):
    """uvicorn's server with this program's signal handlers: its own would raise the signal again at the end."""

    def __init__(self, config: uvicorn.Config, request: StopRequest, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._request, self._ready = request, ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        return bool(self._request.status) or await super().on_tick(counter)
