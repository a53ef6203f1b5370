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
_ABSENT = r"not[ _]?found|could not be found|does not exist|doesn't exist"
_UNKNOWN = re.compile(rf"(?i)\b({_ABSENT}|no such)\b")
_UNKNOWN_PREDICTION = re.compile(
    rf"(?i)\b(prediction|task)([ _]?id)?[^\w]*(was |is )?_?({_ABSENT})\b|\bno such (prediction|task)\b"
)
# What is missing is then something between us and the predictions, or behind them.
_ON_THE_WAY = re.compile(r"(?i)\b(hosts?|upstream|backend|gateway|route|dns|dial|file|socket)\b")
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
            return NotFoundError(f"WaveSpeed does not know this prediction or model (404): {reason}")
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


def says_unknown(status: int | None, body: Any, prediction_id: str) -> bool:
    """Whether the answer to a question about one prediction says that there is no such prediction.

    A 404 does, if the API itself has written it; any other refusal only by a text about the prediction. That
    a host, a record or a page is not found says nothing about what was paid for.

    Args:
        status: the HTTP status, or the code of the envelope where that reports a problem.
        body: the decoded answer; None where it is no JSON.
        prediction_id: what was asked for.
    """
    text = explanation_of(body)
    if status is None or _ON_THE_WAY.search(text):
        return False
    if status == 404:
        return bool(text or codes_of(body))
    if not (400 <= status < 501 or 1000 <= status < 2000) or status in (401, 402, 403, 429):
        return False
    names_it = re.search(rf"(?<![\w/-]){re.escape(prediction_id)}(?![\w/-])", text)
    return bool(_UNKNOWN_PREDICTION.search(text) or (names_it and _UNKNOWN.search(text)))


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
