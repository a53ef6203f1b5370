"""What set-up says of each thing: whether it was found, made, updated or skipped."""

from __future__ import annotations

from typing import Literal

What = Literal["found", "made", "updated", "skipped"]


def say(what: What, thing: str, more: str) -> None:
    """One line on stdout, such as ``made     work-pool/restyle: for processes``."""
    print(f"{what:8} {thing}: {more}")
