"""Levels of a WaveSpeedAI account and the limits to set for them. Imports nothing that is slow."""

from __future__ import annotations

from typing import Literal, NamedTuple

Tier = Literal["bronze", "silver", "gold", "ultra"]


class Limits(NamedTuple):
    """What an account may do."""

    requests_per_minute: int
    in_flight: int


TIERS: dict[Tier, Limits] = {
    "bronze": Limits(2, 2),
    "silver": Limits(500, 300),
    "gold": Limits(3_000, 3_000),
    "ultra": Limits(5_000, 10_000),
}
"""Presets, lowest level first: WaveSpeedAI's pages differ and change, so they can be edited once saved."""
