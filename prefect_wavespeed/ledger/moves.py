"""What there is to do next about a job: the answers of ``rules.next_move``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Done:
    """Return what is stored, and remove what is left open."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Raise the dead letter's error."""


@dataclass(frozen=True, slots=True)
class Join:
    """Poll the prediction that is recorded for an attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again later.

    Attributes:
        seconds: how much later; None: the runner chooses.
    """

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """Look for the prediction of the newest attempts: their late records, then whatever the API tells."""


@dataclass(frozen=True, slots=True)
class AskForOldPrediction:
    """Ask the API for the prediction that the dead letter names."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Create the claim of an attempt, if there is none.

    Attributes:
        attempt: its number.
        takes_over: the abandoned attempt before it, if there is one.
    """

    attempt: int
    takes_over: int | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """Send the request, under the claim that is held."""


@dataclass(frozen=True, slots=True)
class Record:
    """Record the prediction of the claim that is held."""


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """Drop the claim that is held: it gets no prediction. The next attempt has its own claim."""


@dataclass(frozen=True, slots=True)
class LeaveOpen:
    """Stop here and leave the job open.

    Attributes:
        reason: ``unknown``: the API could not be asked what was submitted. ``unsure``: it does not tell
            enough. ``unanswered``: several submissions were not answered, and created nothing.
            ``unsubmitted``: nothing was submitted, and the runner must not.
    """

    reason: Literal["unknown", "unsure", "unanswered", "unsubmitted"]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Write the dead letter.

    Attributes:
        attempt: the attempt at which the job ends.
        reason: ``attempts_used_up``, or ``never_submitted``: the newest claim got no prediction for so
            long that the history would have forgotten one.
    """

    attempt: int
    reason: Literal["attempts_used_up", "never_submitted"]


Move = (
    Done
    | Failed
    | Join
    | Wait
    | Search
    | AskForOldPrediction
    | Claim
    | Post
    | Record
    | NextAttempt
    | LeaveOpen
    | GiveUp
)
