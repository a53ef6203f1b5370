"""An event loop whose time passes at once, for tests of when things happen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

PATIENCE = 900.0


class QuickLoop(asyncio.SelectorEventLoop):
    """Instead of waiting, it moves its clock on."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        self._look = selector.select
        selector.select = self._select

    def time(self) -> float:
        return self._passed

    def _select(self, timeout: float | None) -> Any:
        self._passed += timeout or 0
        return self._look(0)


def run(main: Coroutine[Any, Any, None]) -> None:
    random.seed(1)
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        runner.run(main)


def evenly(low: float, high: float, count: int) -> Iterator[float]:
    chance = random.Random(1)
    return (chance.uniform(low, high) for _ in range(count))
