"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before errors about what it holds, or cannot hold, where they lack it."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        if str(path) in str(error):
            raise
        kinds = (
            NotImplementedError,
            ImportError,
            TypeError,
            ValueError,
        )  # a subclass may not take a text alone
        raise next(kind for kind in kinds if isinstance(error, kind))(f"{path}: {error}") from error


def check_writable(path: Any, *, overwrite: bool = False) -> Path:
    """Refuse a destination now that would fail after the work is done.

    Parameters
    ----------
    path : path-like
    overwrite : bool
        Allow an existing file.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileExistsError
        It exists and `overwrite` is False.
    IsADirectoryError, FileNotFoundError, NotADirectoryError, PermissionError
        It is a directory; its directory is missing, is a file or cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory, expected a file name")
    parent = path.parent
    if not parent.exists():
        raise FileNotFoundError(f"{path}: the directory {parent} does not exist")
    if not parent.is_dir():
        raise NotADirectoryError(f"{path}: {parent} is not a directory")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path}: exists already; overwrite=True (on the command line --overwrite) replaces it"
        )
    if not os.access(parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"{path}: no permission to write there")
    return path


def write_whole(path: Path, save: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `save` write to a temporary name beside `path` and rename; no failure leaves anything behind."""
    path = check_writable(path, overwrite=overwrite)
    # The suffix stays the same: libraries choose the format by it.
    suffix = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(prefix=".medeconv-", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            save(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        except OSError as error:  # "No space left on device" alone does not say where
            reason = error.strerror or str(error).replace(str(temporary), str(path))
            raise OSError(error.errno or errno.EIO, reason, str(path)) from error
        # mkstemp's files are private; a result is as readable as any new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        if overwrite:
            os.replace(temporary, path)
        else:
            try:
                os.link(temporary, path)  # unlike a rename, it fails if the name has been taken meanwhile
            except FileExistsError:
                raise FileExistsError(
                    f"{path}: exists already; overwrite=True (--overwrite) replaces it"
                ) from None
            except OSError:  # a file system without hard links
                os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
