"""The state with which a flow run ends."""

from __future__ import annotations

from typing import TypeVar, cast

from prefect.states import Completed

_Value = TypeVar("_Value")


def completed(value: _Value, message: str) -> _Value:
    """Return this from a flow, and its run is completed with a message that says more than that.

    Prefect takes a state that a flow returns for the run's own, and gives its data to callers of the flow: so
    for them, and for a type checker, it is the value.
    """
    return cast("_Value", Completed(message=message, data=value))
