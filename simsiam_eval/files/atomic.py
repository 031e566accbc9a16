"""Atomic writes: a file or folder is replaced completely, or not at all if anything goes wrong."""

import contextlib
import csv
import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from simsiam_eval.errors import DataError

_WRITE_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file, open for reading and writing, that replaces `path` when the block ends without an exception.

    It is a temporary file in the folder of `path`, created if missing, which is synced to the disk and then renamed to
    `path`. On any exception, including Ctrl-C, it is removed and the old file stays. If `path` is a symbolic link, the file
    that it points to is replaced.

    Raises:
        DataError: the file cannot be written: full disk, no permission, or as `make_folder`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(f"{folder}/a.bin") as file:
    ...         written = file.write(b"whole")
    ...     os.listdir(folder)
    ['a.bin']
    """
    target = _target(path)
    temporary = _temporary(target)
    make_folder(target.parent)
    try:
        # tempfile would ignore the umask and create files that only their owner can read.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from error
    file = os.fdopen(descriptor, "w+b")
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        system_error = _write_error(error, temporary)
        if system_error is None:
            raise
        raise cannot_write(path, system_error) from error
    sync_folder(target.parent)


def write_csv(path: Path, names: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV, atomically, line by line as `rows` yields them. Raises DataError as `atomic_write`."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows(rows)
        text.detach()


def make_folder(folder: Path) -> None:
    """Create a folder for outputs, and its parents; the one rule for the outputs of all commands.

    A folder of the root is not created: such a path is misspelled, or its disk is not mounted.

    Raises:
        DataError: it cannot be created.
    """
    try:
        _existing_parent(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _existing_parent(folder: Path) -> Path:
    """The innermost of the folder and its parents that exists. Raises FileNotFoundError if that is the root."""
    missing = None
    for parent in (folder.absolute(), *folder.absolute().parents):
        if os.path.lexists(parent):
            break
        missing = parent
    if missing is not None and parent == parent.parent:
        raise FileNotFoundError(errno.ENOENT, f"{missing} does not exist")
    return parent


def reject_unwritable(path: str | os.PathLike[str]) -> None:
    """Check by a temporary file that `atomic_write` can write `path`, before any work is done; no folder is created.

    Raises:
        DataError: `path` is a folder, or its folder is not writable or cannot be created.
    """
    target = _target(path)
    try:
        temporary = _temporary(_existing_parent(target.parent) / target.name)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        temporary.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder that is renamed to `path`, which must not exist, when the block ends without an exception.

    Its files are synced to the disk first. On any exception it is removed.

    Raises:
        DataError: the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with atomic_folder(f"{parent}/a") as folder:
    ...         written = (folder / "b.txt").write_text("whole")
    ...     os.listdir(f"{parent}/a")
    ['b.txt']
    """
    target = Path(path)
    temporary = _temporary(target)
    make_folder(target.parent)
    try:
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                with open(os.path.join(folder, name), "rb+") as file:
                    os.fsync(file.fileno())
            sync_folder(Path(folder))
        os.rename(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise cannot_write(path, error) from error
        raise
    sync_folder(target.parent)


@contextlib.contextmanager
def atomic_files(*paths: Path) -> Iterator[Path]:
    """A new folder for files that belong together, which replace `paths` when the block ends without an exception.

    For writers that need a path with the final name. In the folder every file has the name that it has in `paths`, all of
    which are in one folder. On any exception the old files stay.

    Raises:
        DataError: a file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with atomic_files(Path(parent, "a.xml"), Path(parent, "a.bin")) as folder:
    ...         written = [(folder / name).write_text("whole") for name in ("a.xml", "a.bin")]
    ...     sorted(os.listdir(parent))
    ['a.bin', 'a.xml']
    """
    targets = [_target(path) for path in paths]
    temporary = _temporary(targets[0])
    make_folder(targets[0].parent)
    try:
        temporary.mkdir()
        yield temporary
        for path in paths:
            with open(temporary / path.name, "rb+") as file:
                os.fsync(file.fileno())
        for path, target in zip(paths, targets, strict=True):
            os.replace(temporary / path.name, target)
    except BaseException as error:
        system_error = _write_error(error, temporary)
        if system_error is None:
            raise
        raise cannot_write(paths[0], system_error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(targets[0].parent)


def _temporary(target: Path) -> Path:
    """A hidden name next to `target`."""
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")


def _target(path: str | os.PathLike[str]) -> Path:
    """`path` with symbolic links resolved.

    Raises:
        DataError: it exists and is not a regular file; renaming would replace a folder or device.
    """
    target = Path(os.path.realpath(path))
    try:
        os.lstat(target)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise cannot_write(path, error) from error
    if os.path.exists(target) and not os.path.isfile(target):
        kind = "a folder" if os.path.isdir(target) else "not a regular file"
        raise DataError(f"{os.fspath(path)} cannot be written: it is {kind}.")
    return target


def _write_error(error: BaseException, temporary: Path) -> OSError | None:
    """The OSError of writing `temporary` that caused `error`, if any; torch.save turns a full disk into a RuntimeError."""
    if isinstance(error, OSError):
        # An error about another file opened in the block has the name of that file; a failed write has none.
        ours = error.filename is None or Path(str(error.filename)).is_relative_to(temporary)
        return error if error.errno is not None and ours else None
    cause: BaseException | None = error if isinstance(error, RuntimeError) else None
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _WRITE_FAILED:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def cannot_write(path: str | os.PathLike[str], error: OSError) -> DataError:
    """The DataError for a file or folder `path` that cannot be written."""
    reason = error.strerror or str(error)
    return DataError(
        f"{os.fspath(path)} cannot be written ({reason[:1].lower()}{reason[1:]}): choose a path in a writable folder with "
        "free space; existing files were not changed"
    )


def sync_folder(folder: Path) -> None:
    """Sync a folder to the disk, so that a rename in it survives a power failure."""
    # Some file systems (network, overlay) cannot sync a folder; the rename has happened nevertheless.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
