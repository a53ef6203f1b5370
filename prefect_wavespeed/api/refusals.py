"""Refusals of the API: what they say, wherever they say it, and the error for each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    RestyleError,
)

RETRY_EXHAUSTED = 1406
"""WaveSpeedAI's code for a task that it tried several times: it may exist, and another one may succeed."""
INSUFFICIENT_CREDITS = 1407

_WORDS = {"retry_exhausted": RETRY_EXHAUSTED, "insufficient_credits": INSUFFICIENT_CREDITS}
# Most answers report missing credits by text alone: as a 400, among other statuses.
_CREDITS = re.compile(
    r"(?i)\bcredits?\b|\b(insufficient|low|no|not enough)[ _](balance|credits?|funds)\b|\btop.?up\b"
)
_URL = re.compile(r"https?://\S+")
_UNKNOWN = re.compile(r"(?i)\bnot[ _]?found\b|\b(does not|doesn't) exist\b|\bno such\b")
_FIELD = r"\b({})\b".format("|".join(sorted(ReduxRequest.model_fields, key=len, reverse=True)))
_QUOTED_FIELD = re.compile(f"[\"'`]{_FIELD}[\"'`]")
_NAMED_FIELD = re.compile(_FIELD)
_FIRST_TOP_UP = "keys work only after the account's first top-up"


def refusal(status: int | None, reason: str, codes: tuple[int, ...] = ()) -> RestyleError | None:
    """Return the error for an answer that says clearly that nothing was done; None for any other.

    Args:
        status: the HTTP status, or the code of the envelope where that reports a problem.
        reason: the vendor's explanation.
        codes: all codes that the answer holds.
    """
    codes = (*codes, status or 0)
    if RETRY_EXHAUSTED in codes:
        return None
    if INSUFFICIENT_CREDITS in codes:
        return InsufficientCreditsError(f"top up the WaveSpeed account ({INSUFFICIENT_CREDITS}): {reason}")
    if any(5000 <= code < 6000 for code in codes):
        return None
    match status:
        case 429:
            return RateLimitedError(f"WaveSpeed asks to slow down (429): {reason}")
        case 401:
            return AuthenticationError(f"WaveSpeed refused the API key (401): {reason}; {_FIRST_TOP_UP}")
        case 404:
            return NotFoundError(f"WaveSpeed knows no such prediction or model (404): {reason}")
        case 402:
            return InsufficientCreditsError(f"top up the WaveSpeed account (402): {reason}")
        case None | 408 | 425:
            return None
        case _ if (400 <= status < 500 or 1000 <= status < 2000) and _CREDITS.search(_URL.sub("", reason)):
            return InsufficientCreditsError(f"top up the WaveSpeed account ({status}): {reason}")
        case 403:
            return AuthenticationError(
                f"the WaveSpeed key's account may not do this (403): {reason}; {_FIRST_TOP_UP}"
            )
        case _ if 400 <= status < 500 or 1000 <= status < 2000:
            named = _QUOTED_FIELD.search(reason) or _NAMED_FIELD.search(_URL.sub("", reason))
            return InvalidRequestError(
                f"WaveSpeed refused the request ({status}): {reason}", field=named[1] if named else None
            )
    return None


def says_unknown(status: int | None, explanation: str) -> bool:
    """Whether the answer to a question about one id says, other than by a 404, that there is no such id."""
    refused = status is not None and (400 <= status < 501 or 1000 <= status < 2000)
    return refused and status not in (401, 402, 403, 429) and bool(_UNKNOWN.search(explanation))


def codes_of(body: Any) -> tuple[int, ...]:
    """Return the codes by which an answer reports problems, the envelope's own first."""
    return tuple(dict.fromkeys(_codes(body)))


def explanation_of(body: Any) -> str:
    """Return what an answer says about what is wrong: all of it, in one text; empty where it says nothing."""
    return ": ".join(dict.fromkeys(_texts(body)))


def _codes(body: Any) -> Iterator[int]:
    for part in _parts(body):
        for name in ("code", "error_code"):
            code = part.get(name)
            if isinstance(code, str):
                code = int(code) if code.isdecimal() and len(code) < 9 else _WORDS.get(code.lower())
            if isinstance(code, int) and not isinstance(code, bool) and code and not 200 <= code < 300:
                yield code


def _texts(body: Any) -> Iterator[str]:
    for part in _parts(body):
        text = part.get("message") or part.get("msg")
        if isinstance(text, str) and (text := text.strip()):
            place = part.get("loc")
            if isinstance(place, list | tuple):
                yield f"{'.'.join(str(step) for step in place if step != 'body')}: {text}"
            else:
                yield text
        for name in ("error", "detail"):
            if isinstance(text := part.get(name), str) and text.strip():
                yield text.strip()
        for each in _items(part.get("errors")):
            if isinstance(each, str) and each.strip():
                yield each.strip()


def _parts(body: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of an answer that may say what is wrong, the outermost first."""
    if not isinstance(body, Mapping):
        return
    yield body
    for name in ("error", "detail", "errors"):
        for part in _items(body.get(name)):
            if isinstance(part, Mapping):
                yield part


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
