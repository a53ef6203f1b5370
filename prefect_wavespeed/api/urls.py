"""URLs that the client may talk to, and URLs as they may be shown."""

from __future__ import annotations

import ipaddress
import urllib.request

import httpx

from prefect_wavespeed.errors import ConfigurationError, redact


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
