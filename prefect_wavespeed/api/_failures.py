"""Why a connection failed, in words for people."""

from __future__ import annotations

import aiohttp

from prefect_wavespeed.trust import NOT_TRUSTED

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "timed out"),
    (aiohttp.ClientConnectorCertificateError, f"the server's certificate is not trusted: {NOT_TRUSTED}"),
    (aiohttp.ClientConnectorDNSError, "unknown host"),
    (ConnectionRefusedError, "connection refused"),
    (aiohttp.ServerDisconnectedError, "the connection was closed without an answer"),
    (aiohttp.ClientPayloadError, "the answer ended early"),
    (ConnectionResetError, "the connection was closed"),
    (BrokenPipeError, "the connection was closed"),
)


def described(error: BaseException) -> str:
    """An error of the libraries below, in one line."""
    error = error.__cause__ or error  # aiohttp's own classes say more than what httpx-aiohttp makes of them
    for each in (error, getattr(error, "os_error", None)):
        for kind, words in _WORDS:
            if isinstance(each, kind):
                return words
    return f"{type(error).__name__} {error}".strip()
