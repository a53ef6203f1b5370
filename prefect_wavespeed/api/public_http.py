"""A client for URLs that others name: it connects to public addresses only, by certificates that we trust.

Each redirect is checked, and each address that a host's name has, as the connection is made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import ResolveResult
from httpx_aiohttp import AiohttpTransport, HttpxAiohttpClient

from prefect_wavespeed.api.urls import check_reachable, check_url, is_loopback, trusted_authorities
from prefect_wavespeed.errors import redact

FAILURES = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError)
"""What a request raises: httpx-aiohttp lets some of aiohttp's own errors through."""


MAY_PASS = (
    *(httpx.TimeoutException, httpx.ReadError, httpx.RemoteProtocolError),
    *(aiohttp.ClientResponseError, aiohttp.ClientPayloadError, aiohttp.ServerConnectionError),
)
"""Those of them that the next request may not meet."""


async def check_coding(response: httpx.Response) -> None:
    """Refuse an answer that is packed otherwise than once by gzip: of others, kilobytes unpack to gigabytes.

    Raises:
        ValueError: it is.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip"):
        raise ValueError(f"unexpected Content-Encoding {redact(coding)}")


def public_client(own_host: str, max_connections: int = 1, **options: Any) -> httpx.AsyncClient:
    """A client that opens no server of the network that it is in.

    Args:
        own_host: if this is loopback, as in tests, other addresses of this machine may be opened, too.
        max_connections: most connections open at once.
        options: those of httpx.

    Raises:
        ConfigurationError: AWS_CA_BUNDLE names a file that cannot be used.
    """
    return _client(own_host, partial(_Resolver, own_host), max_connections, options)


def client_beside(base_host: str, max_connections: int, **options: Any) -> httpx.AsyncClient:
    """``public_client`` for what an API names, which may name its own host, whatever address that has."""
    return _client(base_host, partial(_Resolver, base_host, trusted=base_host), max_connections, options)


def _client(
    host: str, resolver: Callable[[], _Resolver], max_connections: int, options: dict[str, Any]
) -> _Client:
    trusted = trusted_authorities()

    def session() -> aiohttp.ClientSession:  # once a request is made: it belongs to an event loop
        connector = aiohttp.TCPConnector(resolver=resolver(), ssl=trusted, limit=max_connections)
        return aiohttp.ClientSession(connector=connector)

    return _Client(
        session,
        verify=trusted,
        event_hooks={"request": [_without_body, partial(_check_url, host)], "response": [check_coding]},
        # A proxy from the environment must not get what is meant for loopback, in the clear.
        mounts={f"all://[{host}]" if ":" in host else f"all://{host}": None} if is_loopback(host) else None,
        **options,
    )


class _Client(HttpxAiohttpClient):
    """A client whose direct connections are checked; a proxy of the environment is used like any client's.

    Args:
        session: makes the session for connections without a proxy.
        options: those of httpx.
    """

    def __init__(self, session: Callable[[], aiohttp.ClientSession], **options: Any) -> None:
        self._session = session
        super().__init__(**options)

    def _init_transport(self, *_: Any, **__: Any) -> httpx.AsyncBaseTransport:
        # told whom to trust, or it reads all certificates once more
        return AiohttpTransport(client=self._session, verify=trusted_authorities())


class _Resolver(aiohttp.ThreadedResolver):
    """Names of hosts as addresses, without those that must not be connected to.

    Args:
        own_host: loopback addresses are taken if this is one.
        trusted: a host that may have any address.
    """

    def __init__(self, own_host: str, trusted: str | None = None) -> None:
        super().__init__()
        self._own_host = own_host
        self._trusted = trusted

    async def resolve(self, host: str, *args: Any, **options: Any) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            NotPublicError: one of them must not be connected to.
        """
        found = await super().resolve(host, *args, **options)
        if host != self._trusted:
            for each in found:
                check_reachable(each["host"], self._own_host)
        return found


async def _check_url(host: str, request: httpx.Request) -> None:
    """Of every request, also after a redirect."""
    check_url(request.url, host)


async def _without_body(request: httpx.Request) -> None:
    """Keep httpx-aiohttp from sending an empty body after a redirect: some servers refuse that."""
    await request.aread()
