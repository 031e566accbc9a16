"""embedding-atlas: its command line as a process, which writes the application or serves the table."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.files.atomic import atomic_folder
from simsiam_eval.runtime.progress import say
from simsiam_eval.runtime.signals import stop_requests

_HOST = "127.0.0.1"
_METADATA = Path("data", "metadata.json")  # by which a folder is known as an application
_POLL_SECONDS, _END_SECONDS = 0.1, 5.0


def require_embedding_atlas(option: str) -> None:
    """Raise UsageError if embedding-atlas is not installed."""
    if find_spec("embedding_atlas") is None:
        raise UsageError(
            f'{option} requires embedding-atlas: pip install "simsiam-eval[atlas]". The Parquet file does not: leave '
            f"{option} out."
        )


def arguments(table: Path, with_images: bool) -> list[str]:
    """Arguments of `embedding-atlas` that open a table."""
    columns = ["--x", "x", "--y", "y", "--neighbors", "neighbors", "--text", "id"]
    return [str(table), *columns, *(["--image", "image"] if with_images else []), "--disable-projection"]


def command(table: Path, with_images: bool) -> str:
    """The command line that opens a table, to paste into a shell."""
    return shlex.join(["embedding-atlas", *arguments(table, with_images)])


def write_application(folder: Path, table: Path, with_images: bool) -> None:
    """Write a web application with all data; an application that is there is replaced.

    Raises:
        DataError: the folder is something else, cannot be written, or embedding-atlas fails.
    """
    reject_other_folder(folder)
    say(f"Writing {folder}")
    with atomic_folder(folder) as temporary, _environment() as environment:
        made = subprocess.run(
            [*_program(), *arguments(table, with_images), "--export-application", str(temporary)],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if made.returncode:
            raise DataError(f"embedding-atlas could not write {folder}: {_last_line(made.stderr)}")
        if folder.exists():
            shutil.rmtree(folder)


def reject_other_folder(folder: Path) -> None:
    """Raise DataError if a path is taken by something that is not an application."""
    if os.path.lexists(folder) and not (folder / _METADATA).is_file():
        raise DataError(f"{folder} exists and is not an application of embedding-atlas: choose another --out.")


def show(table: Path, with_images: bool, port: int) -> None:
    """Serve a table with embedding-atlas on this machine until Ctrl-C or SIGTERM.

    Raises:
        DataError: the server cannot start, or ends by itself.
    """
    with tempfile.TemporaryFile("w+") as messages, _environment() as environment, stop_requests() as request:
        server = subprocess.Popen(
            [*_program(), *arguments(table, with_images), "--host", _HOST, "--port", str(port), "--no-auto-port"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages,
            start_new_session=True,  # so that the Ctrl-C of a terminal reaches only this process
        )  # fmt: skip
        try:
            ready = False
            while server.poll() is None and not request.status:
                if not ready and _answers(port):
                    ready = True
                    say(f"embedding-atlas shows {table} at http://{_HOST}:{port} (Ctrl-C to stop)")
                time.sleep(_POLL_SECONDS)
        finally:
            _end(server)
        if not request.status:
            messages.seek(0)
            raise DataError(f"embedding-atlas ended by itself: {_last_line(messages.read())}")
    say("embedding-atlas has stopped.")


def free_port(port: int) -> int:
    """The port, if it is free; 0: any free one. Raises DataError."""
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((_HOST, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DataError(
                f"--port {port} cannot be used ({reason}); choose another, or 0 for any free one."
            ) from error
        return int(opened.getsockname()[1])


def _program() -> Sequence[str]:
    return [sys.executable, "-m", "embedding_atlas.cli"]


@contextmanager
def _environment() -> Iterator[dict[str, str]]:
    """Nothing is downloaded, and what embedding-atlas remembers of a table is not that of an earlier one."""
    with tempfile.TemporaryDirectory() as cache:
        yield os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "XDG_CACHE_HOME": cache}


def _answers(port: int) -> bool:
    with socket.socket() as opened:
        return opened.connect_ex((_HOST, port)) == 0


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it gave no reason."
