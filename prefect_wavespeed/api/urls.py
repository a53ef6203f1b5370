"""Whom the client may talk to, by URL, address and certificate; and URLs as they may be shown."""

from __future__ import annotations

import ipaddress
import ssl
import urllib.request
from contextlib import suppress
from functools import lru_cache

import httpx

from prefect_wavespeed.errors import ConfigurationError, redact
from prefect_wavespeed.trust import CA_BUNDLE, ca_bundle

# Ways from IPv6 to IPv4, which Python's is_global does not follow: RFC 6052, 8215, 4291.
_ENDS_IN_IPV4 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_reachable(address: str, base_host: str) -> None:
    """Refuse an address that an answer of the API must not make us connect to.

    Public ones may be; those of this machine only if the API itself is on it. An answer could otherwise make
    a worker fetch from, or upload to, a server of the network that it is in.

    Args:
        address: an IP address.
        base_host: the API's host.

    Raises:
        NotPublicError: it is neither.
    """
    ip = ipaddress.ip_address(address)
    if not (_is_public(ip) or (ip.is_loopback and is_loopback(base_host))):
        raise NotPublicError(f"{ip} is not a public address")


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is on the internet; one that leads on to an IPv4 address counts as that one."""
    if ip.version == 6:
        if ip in _LOCAL_NAT64:
            return False
        if any(ip in network for network in _ENDS_IN_IPV4):
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def check_url(url: httpx.URL, base_host: str) -> None:
    """Refuse a URL that an answer of the API must not make us open; what its host means, the resolver checks.

    Raises:
        NotPublicError: it is not https, or http on loopback with the API there, too; or an address that
            ``check_reachable`` refuses.
    """
    is_own = is_loopback(url.host) and is_loopback(base_host)
    if url.scheme != "https" and not (url.scheme == "http" and is_own):
        raise NotPublicError("it is not https")
    with suppress(ValueError):  # a name
        ipaddress.ip_address(url.host)
        check_reachable(url.host, base_host)


class NotPublicError(OSError):
    """An answer of the API names an address that it must not."""


def checked_base_url(base_url: str) -> tuple[str, str]:
    """Return a base URL without its trailing slash, and its host.

    Raises:
        ConfigurationError: it is not a URL that the key may be sent to: https, or http on loopback.
    """
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL:
        raise ConfigurationError("base_url is not a valid URL") from None
    if url.userinfo or url.query or url.fragment:
        raise ConfigurationError("base_url must not contain a user, a password, a query or a fragment")
    if not url.host or not (url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host))):
        raise ConfigurationError(f"base_url must be https, or http on loopback: not {redact(url)}")
    return str(url).rstrip("/"), url.host


def trusted_authorities() -> ssl.SSLContext:
    """Whose certificates are taken: the usual authorities, and those that AWS_CA_BUNDLE names.

    Raises:
        ConfigurationError: the file that it names cannot be read, or holds no certificates.
    """
    return _trusting(ca_bundle())


@lru_cache(1)  # reading the usual authorities takes 20 ms
def _trusting(more: str | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if more:
        try:
            context.load_verify_locations(cadata=more)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"no certificates in the file that {CA_BUNDLE} names ({error.reason})"
            ) from None
    return context


def proxy_for(base_url: str, host: str) -> httpx.Proxy | None:
    """Return the proxy that the environment names for a URL.

    None for loopback: a proxy would get those requests, key included, in the clear.
    """
    proxies = urllib.request.getproxies()
    address = proxies.get(base_url.partition(":")[0]) or proxies.get("all")
    if not address or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return httpx.Proxy(address if "://" in address else f"http://{address}")


def without_query(url: str) -> str:
    """Return a URL fit to be shown: without its query, which may hold a signature."""
    return redact(url.partition("?")[0].partition("#")[0])
