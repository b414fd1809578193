"""The ``medeconv`` command.

Exit status: 0 done; 2 bad arguments or bad input; 3 failed while running; 130 stopped by Ctrl-C, 143 by
SIGTERM. Errors are one line on stderr; other statuses than 2 also say what was written, if anything.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
import zlib
from collections.abc import Sequence

from ._cli.parser import build_parser, join_numbers
from ._cli.session import (
    STDOUT,
    OutputError,
    Session,
    Terminated,
    UserError,
    give_up,
    hearing_sigterm,
    one_line,
    tell,
)

# What bad arguments and unreadable input raise, here and in the library. Anything else is a failure.
_BAD_INPUT = (
    UserError,
    ValueError,
    TypeError,
    NotImplementedError,
    ImportError,
    OSError,
    EOFError,
    zlib.error,
)

_MODULES = {
    "restore": "restore",
    "plan": "planning",
    "info": "inspect",
    "compare": "inspect",
    "backends": "inspect",
    "bench": "bench",
    "calibrate": "calibrate",
    "psf": "psf",
    "simulate": "make",
    "train": "nets",
    "predict": "nets",
    "demo": "demo",
}


def _complain(text: str) -> None:
    tell(f"medeconv: {text}")


def _refuse_empty(arguments: argparse.Namespace) -> None:
    """An empty name, as of a shell's variable that is not set, would be the folder that one is in."""
    for name, value in vars(arguments).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise UserError(f"{name.replace('_', '-')}: got an empty text")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process when None.

    Returns
    -------
    int
        Exit status: 0, 2, 3, 130 or 143.
    """
    from . import __version__

    words = join_numbers(sys.argv[1:] if argv is None else argv)
    try:
        arguments = build_parser(__version__).parse_args(words)
        _refuse_empty(arguments)
    except UserError as error:
        _complain(f"error: {error}")
        return 2
    except SystemExit as leaving:  # --help and --version
        return int(leaving.code or 0)
    except OSError as error:
        give_up(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            _complain(f"failed: {STDOUT}: {error.strerror or error}")
        return 3

    session = Session(
        json_target=arguments.json, overwrite=getattr(arguments, "overwrite", False), quiet=arguments.quiet
    )
    try:
        with session.warnings_as_lines(), hearing_sigterm():
            command = importlib.import_module(f"._cli.{_MODULES[arguments.command]}", __package__)
            getattr(command, arguments.command)(arguments, session)
        return 0
    except KeyboardInterrupt as stopped:
        _complain(f"stopped; {session.what_was_written()}")
        return 143 if isinstance(stopped, Terminated) else 130
    except BrokenPipeError:
        # The reader of our output went away (a pipe into `head`): nothing to tell it.
        give_up(sys.stdout)
        return 3
    except OutputError as error:
        give_up(sys.stdout)
        _complain(f"failed: {error}; {session.what_was_written()}")
        return 3
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        if isinstance(error, _BAD_INPUT) and not session.writing and not session.written:
            _complain(f"error: {one_line(error)}")
            return 2
        text = one_line(error)
        if not isinstance(error, OSError | ValueError | MemoryError):
            text = f"{type(error).__name__}: {text}"
        if isinstance(error, MemoryError):
            text = f"not enough memory: {text}"
        _complain(f"failed: {text}; {session.what_was_written()}")
        return 3


if __name__ == "__main__":
    sys.exit(main())
