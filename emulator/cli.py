"""``python -m prefect_wavespeed.emulator``: the command line."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from typing import NoReturn

from prefect_wavespeed.emulator.app import serve
from prefect_wavespeed.emulator.faults import Script, ScriptError
from prefect_wavespeed.emulator.options import Options


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _number(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(text)
    return value


# argparse names the type in its message: "invalid number value: 'x'".
_number.__name__, _count.__name__, _port.__name__ = "number", "count", "port"


def parser(prog: str = "emulator") -> argparse.ArgumentParser:
    """The options of the emulator."""
    made = _Parser(prog=prog, description="A stand-in for the WaveSpeedAI v3 API, on this machine only.")
    made.add_argument("--port", type=_port, default=0, help="port on 127.0.0.1; 0 (default) takes a free one")
    made.add_argument(
        "--latency",
        type=_number,
        nargs=2,
        default=(2.0, 4.0),
        metavar=("LOW", "HIGH"),
        help="seconds that a prediction takes, evenly spread (default: 2 4)",
    )
    made.add_argument(
        "--tier",
        type=_count,
        nargs=2,
        metavar=("RPM", "IN_FLIGHT"),
        help="submissions a minute and predictions in flight; more is answered with 429 (default: no limits)",
    )
    made.add_argument(
        "--faults", metavar="FILE", help="what goes wrong: JSON, described in emulator/faults.py"
    )
    made.add_argument(
        "--balance", type=_number, default=100.0, metavar="USD", help="of the account (default: 100)"
    )
    made.add_argument(
        "--price", type=_number, default=0.025, metavar="USD", help="of one picture (default: 0.025)"
    )
    made.add_argument(
        "--key", action="append", default=[], help="accept this API key only; may be repeated (default: any)"
    )
    made.add_argument(
        "--prerendered",
        action="store_true",
        help="serve one picture made beforehand, whatever the input, to measure throughput",
    )
    return made


def main(argv: Sequence[str] | None = None, *, prog: str = "emulator") -> int:
    """Run the emulator until it is told to stop.

    Args:
        argv: the options; those of the process by default.
        prog: what the command is called in messages.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 when the port cannot be had. Options that cannot be
        used exit with status 2 and one line on stderr.
    """
    command = parser(prog)
    told = command.parse_args(argv)
    low, high = told.latency
    if low > high:
        command.error("argument --latency: LOW must not be greater than HIGH")
    try:
        script = Script.read(told.faults) if told.faults else Script()
    except ScriptError as error:
        command.error(f"argument --faults: {error}")
    options = Options(
        port=told.port,
        latency=(low, high),
        tier=(told.tier[0], told.tier[1]) if told.tier else None,
        faults=script,
        balance=told.balance,
        price=told.price,
        keys=frozenset(told.key),
        prerendered=told.prerendered,
    )
    try:
        asyncio.run(serve(options))
    except OSError as error:
        print(f"{prog}: cannot listen on port {options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0
