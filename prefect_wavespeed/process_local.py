"""What goes with a value in this process only, such as the open store that its rows are read from."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class ProcessLocal(Generic[_T]):
    """A model's private attribute that is no part of its value: it is neither compared nor pickled.

    Args:
        value: what it holds; None where there is nothing, and in another process.
    """

    def __init__(self, value: _T | None = None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessLocal)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> ProcessLocal[_T]:
        return self

    def __reduce__(self) -> tuple[type[ProcessLocal[_T]], tuple[()]]:
        return ProcessLocal, ()
