"""What the emulator can be told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefect_wavespeed.emulator.faults import Script


@dataclass(frozen=True)
class Options:
    """The command's options.

    Attributes:
        port: on loopback; 0 takes a free one.
        latency: shortest and longest time that a prediction takes, in seconds.
        tier: submissions a minute and predictions in flight; None for no limits.
        faults: what goes wrong from the start.
        balance: of the account, in USD.
        price: of one picture, in USD.
        keys: the API keys that are accepted; none means that any is.
        prerendered: serve one picture, made beforehand, whatever the input (for measuring throughput).
    """

    port: int = 0
    latency: tuple[float, float] = (2.0, 4.0)
    tier: tuple[int, int] | None = None
    faults: Script = field(default_factory=Script)
    balance: float = 100.0
    price: float = 0.025
    keys: frozenset[str] = frozenset()
    prerendered: bool = False
