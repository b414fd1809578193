"""``medeconv demo``."""

from __future__ import annotations

import argparse

from .. import demo as scans
from .session import Session


def demo(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments.json)
    report = scans.run(
        arguments.out,
        backend=arguments.backend,
        num_threads=arguments.threads,
        overwrite=arguments.overwrite,
        say=session.say,
        written=session.written,
    )
    session.write_json(report)
