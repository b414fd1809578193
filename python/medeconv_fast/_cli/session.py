"""What every command shares: messages, progress, JSON, and what is known when something goes wrong."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..io._files import write_whole

# Options and arguments that name what is read.
INPUTS = ("input", "first", "second", "truth", "psf", "mask", "images", "targets", "net")
OF_JOBS = (".job.json", ".job.log", ".partial")  # what a run in tiles keeps beside its result
STDOUT = "standard output"
WAY_OUT = "; overwrite=True (on the command line --overwrite) replaces it"


class OutputError(Exception):
    """Standard output cannot be written to: a failure, whatever had been done before."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, heard like Ctrl-C."""


class UserError(Exception):
    """Bad arguments or bad input: one line for the user, exit status 2."""


def one_line(error: BaseException) -> str:
    """Text of an error without line breaks; its type where it says nothing else."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError) or not text:
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text


def give_up(stream: Any) -> None:
    """Keep Python from trying to write the rest at exit, and from failing with a status of its own."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell(text: str) -> None:
    """A line on stderr. Where that cannot be written to, nobody is left to be told, and the work goes on."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


class Session:
    """State of one command: what was written so far, warnings, and where messages go.

    ``writing`` is True while an output file is being written: errors from then on are failures, not bad
    input.
    """

    def __init__(
        self,
        *,
        json_target: str | None = None,
        overwrite: bool = False,
        quiet: bool = False,
        to_stderr: bool = False,
    ) -> None:
        self.json_target = json_target
        self.to_stderr = to_stderr or json_target == "-"
        self.kept: str | None = None  # of a run that can be gone on with
        self.overwrite = overwrite
        self.quiet = quiet
        self.written: list[str] = []
        self.warnings: list[str] = []
        self.writing = False
        self._claimed: dict[str, str] = {}  # real path -> what is written there

    # ------------------------------------------------------------ messages

    def _print(self, text: str) -> None:
        try:
            try:
                print(text, flush=True)
            except UnicodeEncodeError as error:  # a name or a µ that the terminal's encoding lacks
                print(text.encode(error.encoding, "backslashreplace").decode(error.encoding), flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"{STDOUT}: {error.strerror or error}") from error

    def say(self, text: str = "") -> None:
        """A line of the result; goes to stderr when stdout carries the JSON."""
        if self.quiet:
            return
        if self.to_stderr:
            tell(text)
        else:
            self._print(text)

    def note(self, text: str) -> None:
        """Something that was decided for the user and that changes the result."""
        self.warnings.append(text)
        tell(f"medeconv: note: {text}")

    @contextlib.contextmanager
    def warnings_as_lines(self) -> Iterator[None]:
        """Python warnings become one line each, without source lines, and are kept for the JSON."""

        def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
            text = " ".join(str(message).split())
            if text not in self.warnings:
                self.warnings.append(text)
                tell(f"medeconv: warning: {text}")

        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.simplefilter("default", RuntimeWarning)
            warnings.showwarning = show  # type: ignore[assignment]
            yield

    # ------------------------------------------------------------ outputs

    def claim(self, arguments: argparse.Namespace, *names: str) -> None:
        """Check before any work that every output can be written, and that no two are the same file.

        `names` are those of the options; None and "-" are skipped. The image (``output``) may take more than
        one file. What the command reads is no place for an output either, whatever ``--overwrite`` says.
        """
        from medeconv_fast import io

        for name in names:
            given = getattr(arguments, name)
            if given is None or given == "-":
                continue
            paths = io.destinations(given) if name == "output" else (Path(given),)
            check = io.check_destination if name == "output" else io.check_writable
            try:
                check(given, overwrite=self.overwrite)
            except FileExistsError as error:
                if self.overwrite and len(paths) > 1:  # another header's values: of one that is read?
                    self.spare_inputs(arguments, *names)
                text = str(error).replace(WAY_OUT, "; --overwrite replaces it")
                raise UserError(text) from error
            for path in paths:
                other = self._claimed.setdefault(_place(path), f"--{name} {given}")
                if other != f"--{name} {given}":
                    raise UserError(f"--{name} {given}: {other} writes to the same file; choose another name")
        self.spare_inputs(arguments, *names)

    def reserve(self, given: str | os.PathLike[str]) -> None:
        """An image that is written in tiles or by a batch, and not claimed: no place for another output."""
        from medeconv_fast import io

        places = [*io.destinations(given), *(Path(f"{given}{ending}") for ending in OF_JOBS)]
        self._claimed |= {_place(path): f"--output {given}" for path in places}

    def spare_inputs(self, arguments: argparse.Namespace, *names: str) -> None:
        """Refuse outputs of these options that would take the place of what the command reads."""
        from medeconv_fast import io

        read: dict[str, str] = {}
        for name in set(INPUTS) - set(names):
            given = getattr(arguments, name, None)
            for path in given if isinstance(given, list) else [given]:
                if isinstance(path, str):
                    read |= {_place(each): path for each in io.sources(path) if each.exists()}
        for name in names:
            given = getattr(arguments, name)
            for path in io.destinations(given) if given is not None and given != "-" else ():
                place = Path(_place(path))
                # A slice of a series and a chunk of a Zarr are the image that is read as well.
                around = place.parents if place.is_file() else ()
                folders = [str(p) for p in around if str(p) in read and io.is_part(place, p)]
                for found in (str(place), *folders):
                    if found in read:
                        part = "" if found == str(place) else "a file of "
                        raise UserError(
                            f"--{name} {given}: would replace {part}{read[found]}, which is read; choose "
                            "another name"
                        )

    @contextlib.contextmanager
    def output(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Around the writing of one output file."""
        self.writing = True
        yield
        self.writing = False
        self.written.append(str(path))

    @contextlib.contextmanager
    def report(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Around the writing of a report on what is written already, and stands whatever becomes of it."""
        try:
            yield
        except Exception as error:
            self.note(f"the report {path} was not written ({one_line(error)}); the result is whole")
            return
        self.written.append(str(path))
        self.say(f"wrote     {path}")

    def write_json(self, record: dict[str, Any]) -> None:
        """Write the machine-readable record where ``--json`` says; no effect without it."""
        if self.json_target is None:
            return
        text = json.dumps(jsonable({**record, "warnings": self.warnings}), indent=2, allow_nan=False)
        if self.json_target == "-":
            if sys.stdout is None:  # Python drops without a word what is printed to a closed one
                raise OutputError(f"{STDOUT}: is closed")
            self._print(text)
            return
        with self.output(self.json_target):
            write_text(self.json_target, text + "\n", overwrite=self.overwrite)

    def what_was_written(self) -> str:
        if self.kept is not None and not self.written:
            return self.kept
        return "written: " + ", ".join(self.written) if self.written else "nothing was written"


@contextlib.contextmanager
def hearing_sigterm() -> Iterator[None]:
    """A batch system's request to end is heard like Ctrl-C: the command says what it wrote."""

    def end(*_: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _place(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool) -> None:
    """Write a text file that appears under its name only when whole."""
    write_whole(Path(path), lambda p: p.write_text(text, encoding="utf-8"), overwrite=overwrite)


def jsonable(value: Any) -> Any:
    """NumPy scalars, arrays and paths as JSON knows them; what JSON lacks becomes "inf", "-inf" or "nan"."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.bool_ | bool):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating | float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, int | str):
        return value
    return str(value)


class Progress:
    """A bar on stderr when it is a terminal, silent otherwise."""

    def __init__(self, label: str, total: int, *, enabled: bool = True) -> None:
        self.label, self.total, self.done = label, max(total, 1), 0
        self.enabled = enabled and sys.stderr.isatty()
        self.started = self.drawn = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def step(self, *_: object, **__: object) -> None:
        """One unit done; accepts and ignores what a callback is given."""
        self.done += 1
        now = time.monotonic()
        if not self.enabled or (now - self.drawn < 0.1 and self.done < self.total):
            return
        self.drawn = now
        filled = 30 * min(self.done, self.total) // self.total
        left = (now - self.started) / self.done * max(self.total - self.done, 0)
        bar = "#" * filled + "-" * (30 - filled)
        sys.stderr.write(f"\r{self.label} [{bar}] {self.done}/{self.total}, {left:.0f} s left\x1b[K")
        sys.stderr.flush()


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
