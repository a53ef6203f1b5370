"""The emulator's command line."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage."""

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


# argparse shows the name of the type: "invalid number value: 'x'"
_number.__name__, _count.__name__, _port.__name__ = "number", "count", "port"


def make_parser(prog: str = "emulator") -> argparse.ArgumentParser:
    """Build the parser of the emulator's options."""
    parser = _Parser(prog=prog, description="A stand-in for the WaveSpeedAI v3 API, on this machine only.")
    parser.add_argument("--port", type=_port, default=0, help="port on 127.0.0.1; 0 (default): a free one")
    parser.add_argument(
        "--latency",
        type=_number,
        nargs=2,
        default=(2.0, 4.0),
        metavar=("LOW", "HIGH"),
        help="seconds that a prediction takes, uniformly distributed (default: 2 4)",
    )
    parser.add_argument(
        "--tier",
        type=_count,
        nargs=2,
        metavar=("RPM", "IN_FLIGHT"),
        help="submissions a minute and predictions in flight; beyond that 429 (default: no limits)",
    )
    parser.add_argument(
        "--faults", metavar="FILE", help="fault script in JSON, as described in emulator/faults.py"
    )
    parser.add_argument(
        "--dialect",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="answer as described in emulator/dialects.py, not as recorded answers do; may be repeated",
    )
    parser.add_argument(
        "--balance", type=_number, default=100.0, metavar="USD", help="balance of the account (default: 100)"
    )
    parser.add_argument(
        "--price", type=_number, default=0.025, metavar="USD", help="price of one picture (default: 0.025)"
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        help="accept only this API key; may be repeated (default: any)",
    )
    parser.add_argument(
        "--prerendered",
        action="store_true",
        help="serve the same picture for any input, to measure throughput",
    )
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = "emulator") -> int:
    """Run the emulator until it is stopped.

    Args:
        argv: the options; those of the process by default.
        prog: what the command is called in messages.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 if the port is not available. Invalid options exit with
        status 2 and one line on stderr.
    """
    parser = make_parser(prog)
    arguments = parser.parse_args(argv)  # ends here for --help, which must not wait for the imports below
    from prefect_wavespeed.emulator.app import serve
    from prefect_wavespeed.emulator.dialects import DialectError, parse
    from prefect_wavespeed.emulator.faults import Script, ScriptError
    from prefect_wavespeed.emulator.options import Options

    low, high = arguments.latency
    if low > high:
        parser.error("argument --latency: LOW must not be greater than HIGH")
    try:
        script = Script.read(arguments.faults) if arguments.faults else Script()
    except ScriptError as error:
        parser.error(f"argument --faults: {error}")
    try:
        dialects = parse(arguments.dialect)
    except DialectError as error:
        parser.error(f"argument --dialect: {error}")
    options = Options(
        port=arguments.port,
        latency=(low, high),
        tier=(arguments.tier[0], arguments.tier[1]) if arguments.tier else None,
        faults=script,
        balance=arguments.balance,
        price=arguments.price,
        keys=frozenset(arguments.key),
        dialects=dialects,
        prerendered=arguments.prerendered,
    )
    try:
        asyncio.run(serve(options))
    except OSError as error:
        print(f"{prog}: cannot listen on port {options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0
