"""Programs on a terminal, for tests."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_SECONDS = 120.0  # without output
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ROOT = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """Return an environment that sets neither colours nor widths."""
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**inherited, "PYTHONPATH": str(_ROOT), "TERM": "xterm-256color", **more}


def open_terminal(columns: int) -> tuple[int, int]:
    """Open a terminal of this width; return our end and the program's."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return ours, theirs


def plain(shown: str) -> str:
    """Return the output without colours and cursor movements."""
    return _ESCAPE.sub("", shown)


def on_terminal(
    command: Sequence[str],
    *,
    typed: str = "",
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Return what a program shows on a terminal of this width when the given text is typed."""
    ours, theirs = open_terminal(columns)
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=env or environment(),
        cwd=cwd,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    with suppress(OSError):  # which is how a terminal reports its end
        while select.select([ours], [], [], _SECONDS)[0] and (more := os.read(ours, 65536)):
            shown += more
    os.close(ours)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it does not end: {shown.decode()}") from None
    return shown.decode().replace("\r\n", "\n")
