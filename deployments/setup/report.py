"""The lines that set-up prints."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["found", "created", "updated", "skipped"]


def report(outcome: Outcome, thing: str, details: str) -> None:
    """Print a line such as ``created  work-pool/restyle: of type process``."""
    print(f"{outcome:8} {thing}: {details}")
