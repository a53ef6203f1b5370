"""Failures grouped by reason: a line for each, however many there are."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

MAX_REASONS = 20
"""Reasons that are listed, the most frequent ones; the others are counted together."""
NAMES = 10
"""Names of the first failures of each reason."""
_MAX_GROUPS = 10_000  # in memory
_OTHERS = "other reasons"

# What differs from one failure to the next of the same reason: addresses, ids, keys.
_DIFFERENT = re.compile(
    r"(?i)\b(?:https?|s3|file)://[^\s'\"]+[^\s'\":;,.)]|\b[0-9a-f]{16,64}\b|\b[0-9a-f-]{36}\b"
)

_WORDS = {
    "done": "stored earlier",
    "given_up": "given up earlier",
    "open": "left open",
    "unsubmitted": "not submitted",
    "invalid": "ignored",
}


def in_words(status: str) -> str:
    """A status of a row or a job as people read it."""
    return _WORDS.get(status, status.replace("_", " "))


class Reason(BaseModel):
    """A reason, and how many failed for it."""

    status: str = Field(description="The status that they have.")
    reason: str = Field(description="Why they failed. What differs from one to the next is left out: …")
    count: int
    first: list[str] = Field(description=f"Names of the first {NAMES}.")

    @property
    def line(self) -> str:
        """All of it in one line."""
        more = self.count - len(self.first)
        names = f": {', '.join(self.first)}{f' and {more:,} more' if more else ''}" if self.first else ""
        return f"{self.count:,} {in_words(self.status)}: {self.reason}{names}"


def shared(reason: str, about: str = "") -> str:
    """A reason without what differs from one failure to the next.

    Args:
        reason: why something failed.
        about: what the reason may name and others of its group do not, such as the image.
    """
    return _DIFFERENT.sub("…", reason.replace(about, "…") if about else reason)


@dataclass
class Reasons:
    """Groups failures as they come."""

    _groups: dict[tuple[str, str], Reason] = field(default_factory=dict)
    _others: Counter[str] = field(default_factory=Counter)  # by status

    def add(self, status: str, reason: str, name: str, about: str = "", *, count: int = 1) -> None:
        """Add a failure, or as many alike.

        Args:
            status: its status.
            reason: why it failed.
            name: how a person finds it.
            about: as in ``shared``.
            count: how many.
        """
        common = shared(reason, about)
        group = self._groups.get((status, common))
        if group is None and len(self._groups) < _MAX_GROUPS:
            # as it came, as long as it is the only one
            self._groups[status, common] = Reason(status=status, reason=reason, count=count, first=[name])
            return
        if group is None:
            self._others[status] += count
            return
        group.reason = common
        group.count += count
        if len(group.first) < NAMES:
            group.first.append(name)

    def listed(self) -> list[Reason]:
        """The reasons, the most frequent ones first, with one entry for those that are too many to list."""
        groups = sorted(self._groups.values(), key=lambda group: -group.count)
        others = self._others.copy()
        for group in groups[MAX_REASONS:]:
            others[group.status] += group.count
        return groups[:MAX_REASONS] + [
            Reason(status=status, reason=_OTHERS, count=count, first=[]) for status, count in others.items()
        ]
