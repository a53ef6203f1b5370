"""Answers of the API, and failures to get one, in a form that may be kept and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import httpx

from prefect_wavespeed.api.base64_stream import NotJsonError, decode
from prefect_wavespeed.api.urls import NotPublicError
from prefect_wavespeed.trust import NOT_TRUSTED

MAX_CHARACTERS = 16_000
"""About how long an answer may be once it is JSON; what is beyond is left out."""

_Value = TypeVar("_Value")

_DEEPEST = 8
_MARK = "…"
# Shorter texts may be base64 by chance, as ids and hashes are, and do no harm.
_BASE64 = 200
_LONGEST_NAME = 24  # of a field, to be taken as it is
_CUT = "?…"

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (httpx.InvalidURL, "not a valid URL"),
    (TimeoutError, "timed out"),
    (asyncio.CancelledError, "timed out"),  # the cause of the TimeoutError of ``asyncio.timeout``
    (aiohttp.ClientConnectorCertificateError, f"the server's certificate is not trusted: {NOT_TRUSTED}"),
    (aiohttp.ClientConnectorDNSError, "unknown host"),
    (ConnectionRefusedError, "connection refused"),
    (aiohttp.ServerDisconnectedError, "the connection was closed without an answer"),
    (aiohttp.ClientPayloadError, "the answer ended early"),
    (ConnectionResetError, "the connection was closed"),
    (BrokenPipeError, "the connection was closed"),
    (NotJsonError, "the answer is not JSON"),
)


def showable(
    answer: Mapping[str, Any], redact: Callable[[object], str], pictures: Mapping[str, bytes]
) -> dict[str, Any]:
    """Return a copy of an answer that is safe to keep.

    URLs lose their queries, which may hold signatures; pictures are replaced by a short mark; long texts are
    cut, and so is what comes after ``MAX_CHARACTERS``.

    Args:
        answer: the object as it was received.
        redact: makes a text safe to show.
        pictures: base64 pictures, by the texts that stand for them in the answer.
    """
    copy: dict[str, Any] = _Copy(redact, pictures).of(answer)
    return copy


class _Copy:
    """One copy, and how many characters it may still take."""

    def __init__(self, redact: Callable[[object], str], pictures: Mapping[str, bytes]) -> None:
        self._redact = redact
        self._pictures = pictures
        self._left = MAX_CHARACTERS

    def of(self, value: Any, depth: int = 0) -> Any:
        match value:
            case None | bool():
                return self._counted(value)
            case int() | float():
                return self._counted(value if abs(value) < 1e300 else str(value))  # NaN is no JSON
            case Mapping() if depth < _DEEPEST:
                copy = {}
                for name, item in value.items():
                    if self._left <= 0:
                        copy[_MARK] = _MARK
                        break
                    plain = len(name) <= _LONGEST_NAME and name.isidentifier()  # as nearly all are
                    copy[self._counted(name) if plain else self._text(name)] = self.of(item, depth + 1)
                return copy
            case list() if depth < _DEEPEST:
                items = []
                for item in value:
                    if self._left <= 0:
                        items.append(_MARK)
                        break
                    items.append(self.of(item, depth + 1))
                return items
            case str():
                return self._text(value)
        return self._counted(_MARK)

    def _text(self, text: str) -> str:
        picture = self._pictures.get(text)
        if picture is None and (len(text) > _BASE64 or text.startswith("data:")):
            picture = decode(text)
        if picture is not None:
            return self._counted(f"(picture, {len(picture)} bytes)")
        shown = self._redact(text)
        return self._counted(_plain(shown) if shown.endswith(_CUT) else shown)

    def _counted(self, value: _Value) -> _Value:
        self._left -= len(str(value)) + 4  # quotes, and what stands between two values
        return value


def _plain(text: str) -> str:
    """A URL without the mark that ``redact`` leaves where a query was; any other text as it is."""
    is_url = " " not in text and urlsplit(text).scheme in ("http", "https")
    return text.removesuffix(_CUT) if is_url else text


def described(error: BaseException) -> str:
    """An error of the libraries below, in one line."""
    error = error.__cause__ or error  # aiohttp's own classes say more than what httpx-aiohttp makes of them
    inner = getattr(error, "os_error", None)
    if refused := next((each for each in (error, inner) if isinstance(each, NotPublicError)), None):
        return f"not a public https URL ({refused})"
    for kind, words in _WORDS:
        if isinstance(error, kind) or isinstance(inner, kind):
            return words
    name = "" if type(error) is ValueError else type(error).__name__  # ours, in our own words
    return f"{name} {error}".strip()
