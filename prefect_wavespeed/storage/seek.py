"""Find many paths in a sorted listing, which skips what nobody asked for.

After each page it goes on at the next path that is wanted, so it takes no more requests than there are pages,
and no more than there are paths, unless a page ends before or inside a folder that it has been asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from prefect_wavespeed.errors import StoreError
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

    Raises:
        StoreError: the server answers with the same page again and again.
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
            before = path[:-1]  # of a folder as well: obstore asks for what follows without its slash
            if page:
                before = max(before, page[-1].path)
            page, at = await read(before), 0
            is_last = len(page) < PAGE
            if not is_last and page[-1].path <= before:
                raise StoreError(
                    f"the server ignores start-after: listing of {path}, asked for what follows {before}: "
                    "use a server that obeys it"
                )
    return found
