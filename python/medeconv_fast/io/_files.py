"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
        text = str(error).removeprefix(f"{path.name}: ")
        raise next(kind for kind in kinds if isinstance(error, kind))(f"{path}: {text}") from error


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
    if os.path.lexists(path) and not overwrite:  # a link to nothing, too
        raise FileExistsError(
            f"{path}: exists already; overwrite=True (on the command line --overwrite) replaces it"
        )
    if not os.access(parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"{path}: no permission to write there")
    return path


def lock(file: Any, *, shared: bool = False, wait: bool = False) -> bool:
    """Held until the file is closed, or its process ends however it ends; BlockingIOError: another has it.

    False on Windows, where two processes at work on the same are not noticed.
    """
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    return True


def is_at(file: Any, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def write_whole(path: Path, save: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `save` write to a temporary name beside `path` and rename; no failure leaves anything behind."""
    path = check_writable(path, overwrite=overwrite)
    # Libraries choose the format by the ending; given one in mixed case they may write under another name.
    suffix = "".join(path.suffixes[-2:]).lower()
    handle, name = tempfile.mkstemp(prefix=".medeconv-", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            save(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            if temporary.stat().st_size == 0:  # written under another name, and mkstemp's file is still there
                raise OSError(errno.EIO, "nothing was written")
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


def write_whole_together(paths: Sequence[Path], save: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let `save` make files of these names in a temporary folder; all appear, the first last, or none."""
    for path in paths:
        check_writable(path, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix=".medeconv-", dir=paths[0].absolute().parent) as name:
        temporary = Path(name)
        save(temporary)
        moved: list[Path] = []
        try:
            for path in reversed(paths):
                moved.append(path)
                if path.exists():
                    os.replace(path, temporary / f"previous-{path.name}")
                os.replace(temporary / path.name, path)
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    os.replace(temporary / f"previous-{path.name}", path)
            raise


def check_parent(path: Path) -> None:
    """Refuse a folder's name now where no folder could be made.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
    """
    parent = path.absolute().parent
    if not parent.exists():
        raise FileNotFoundError(f"{path}: the directory {parent} does not exist")
    if not parent.is_dir():
        raise NotADirectoryError(f"{path}: {parent} is not a directory")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"{path}: no permission to write there")


def check_folder(
    path: Path, *, overwrite: bool = False, replaceable: Callable[[Path], bool] = lambda _: False
) -> Path:
    """The same for a folder of files that one image becomes.

    An empty folder is as good as none. One with files is replaced as a whole, so with `overwrite` it must
    hold nothing but files that are `replaceable`.

    Raises
    ------
    FileExistsError
        It exists, and `overwrite` is False or something in it is not `replaceable`.
    FileNotFoundError, NotADirectoryError, PermissionError
        Its parent is missing, is a file or cannot be written to.
    """
    if path.exists():
        entries = list(path.iterdir())
        if entries and not overwrite:
            raise FileExistsError(
                f"{path}: exists already and is not empty; overwrite=True (on the command line --overwrite) "
                "replaces it"
            )
        kept = next((entry for entry in entries if not replaceable(entry)), None)
        if kept is not None:
            raise FileExistsError(
                f"{path}: holds {kept.name}, which is not of a series written by this library; replacing the "
                "folder would delete it, choose another name"
            )
    check_parent(path)
    return path


def write_whole_folder(
    path: Path,
    save: Callable[[Path], object],
    *,
    overwrite: bool,
    replaceable: Callable[[Path], bool] = lambda _: False,
) -> None:
    """Let `save` fill a temporary folder beside `path` and rename; no failure leaves anything behind."""
    check_folder(path, overwrite=overwrite, replaceable=replaceable)
    temporary = Path(tempfile.mkdtemp(prefix=".medeconv-", dir=path.absolute().parent))
    try:
        try:
            save(temporary)
            for file in temporary.iterdir():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
        except OSError as error:
            reason = error.strerror or str(error).replace(str(temporary), str(path))
            raise OSError(error.errno or errno.EIO, reason, str(path)) from error
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        previous = None
        if path.exists() and any(path.iterdir()):
            previous = Path(tempfile.mkdtemp(prefix=".medeconv-", dir=path.absolute().parent))
            os.rename(path, previous)  # onto an empty folder
        try:
            os.rename(temporary, path)  # fails if somebody has put files there meanwhile
        except BaseException:
            if previous is not None:
                os.rename(previous, path)
            raise
        if previous is not None:
            shutil.rmtree(previous)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
