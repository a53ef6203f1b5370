"""What a flow run says: the lines of its log, and the state with which it ends."""

from __future__ import annotations

from logging import Logger, LoggerAdapter
from typing import Any, TypeVar, cast

from prefect import get_run_logger
from prefect.states import Completed

from prefect_wavespeed.words import printable

_Value = TypeVar("_Value")


class PrintableLog(LoggerAdapter[Logger | LoggerAdapter[Any]]):
    """A log in which control characters of others are escapes."""

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log one line."""
        self.logger.log(level, "%s", printable(str(msg) % args if args else str(msg)), **options)


def run_log() -> PrintableLog:
    """The log of the present run, which Prefect keeps and shows."""
    return PrintableLog(get_run_logger(), {})


def completed(value: _Value, message: str) -> _Value:
    """Return this from a flow, and its run is completed with a message that says more than that.

    Prefect takes a state that a flow returns for the run's own, and gives its data to callers of the flow: so
    for them, and for a type checker, it is the value.
    """
    return cast("_Value", Completed(message=message, data=value))
