"""Find many paths in a sorted listing, which skips what nobody asked for.

After each page it goes on at the next path that is wanted, so it takes no more requests than there are paths,
and no more than there are pages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from prefect_wavespeed.storage.backend import Entry

PAGE = 1000
"""Objects on a page of S3's listing."""

ReadPage = Callable[[str], Awaitable[Sequence[Entry]]]
"""Reads the page that follows a path; a page with fewer than ``PAGE`` objects is the last."""


async def seek(read: ReadPage, wanted: Sequence[str]) -> dict[str, list[Entry]]:
    """``Backend.find`` by way of a listing.

    Args:
        read: reads a page of the listing.
        wanted: paths of objects, or of folders with their slash; sorted, and none begins like another.
    """
    found: dict[str, list[Entry]] = {}
    page: Sequence[Entry] = ()
    at, is_last = 0, False
    for path in wanted:
        while True:
            while at < len(page) and page[at].path < path:
                at += 1
            while at < len(page) and page[at].path.startswith(path):
                found.setdefault(path, []).append(page[at])
                at += 1
            if at < len(page) or is_last:
                break
            before = path if path.endswith("/") else path[:-1]
            page, at = await read(max(before, page[-1].path) if page else before), 0
            is_last = len(page) < PAGE
    return found
