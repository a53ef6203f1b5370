"""The emulator's options."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefect_wavespeed.emulator.dialects import Dialects
from prefect_wavespeed.emulator.faults import Script


@dataclass(frozen=True)
class Options:
    """What the emulator is started with.

    Attributes:
        port: on loopback; 0 picks a free one.
        latency: shortest and longest time that a prediction takes, in seconds.
        tier: submissions a minute and predictions in flight; None for no limits.
        faults: the first fault script.
        balance: of the account, in USD.
        price: of one picture, in USD.
        keys: the API keys that are accepted; if empty, any is.
        dialects: those that are spoken first.
        prerendered: serve the same picture for any input, to measure throughput.
    """

    port: int = 0
    latency: tuple[float, float] = (2.0, 4.0)
    tier: tuple[int, int] | None = None
    faults: Script = field(default_factory=Script)
    balance: float = 100.0
    price: float = 0.025
    keys: frozenset[str] = frozenset()
    dialects: Dialects = frozenset()
    prerendered: bool = False
