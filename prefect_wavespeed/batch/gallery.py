"""The gallery of a batch: one HTML file that needs no network, each source beside its variations.

The rows lie in it as JSON, a hundred to a block, and the small pictures in blocks of their own that the page
reads when they come into view. Nothing of a manifest becomes markup: the page makes text of it, and its
security policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic_core import to_json

from prefect_wavespeed.batch.report import AccountRow, Rows, Summary, Thumbs

SHOWN = 10_000  # rows in a page at most
BLOCK = 100  # rows
PICTURE_BYTES = 80_000_000  # of small pictures in a page; beyond them it shows the outputs themselves

_FAILURES = ("failed", "open", "invalid")


def write_gallery(path: Path, output: str, folder: str, rows: Rows, summary: Summary) -> None:
    """Write the page, a block of rows at a time.

    Args:
        path: the file to write.
        output: uri of the store, ``s3://bucket/prefix`` or a directory.
        folder: where the page is to lie in the store: its links to the outputs are relative.
        rows: gives every row with its small pictures, in options, anew each time it is called.
        summary: the run in figures. Of more than 10,000 rows, the page shows as many, failures first.
    """
    head, tail = _template().split("<!-- rows -->")
    title = html.escape(f"{summary.flow_run_name or 'Batch'}: {summary.rows:,} rows")
    chosen, left = iter(_chosen(rows, summary.rows)), PICTURE_BYTES
    with path.open("wb") as page:
        page.write(head.replace("{{title}}", title).encode())
        page.write(_data("summary", summary.model_dump(mode="json")))
        while block := list(islice(chosen, BLOCK)):
            pictures = _Pictures(left)
            page.write(_data("rows", [_row(row, thumbs, pictures, output, folder) for row, thumbs in block]))
            page.write(_data("pictures", list(pictures.places)))
            left = pictures.left
        page.write(tail.encode())


def _chosen(rows: Rows, total: int) -> Iterator[tuple[AccountRow, Thumbs | None]]:
    """All rows in their order; of too many the failures, and then the others."""
    if total <= SHOWN:
        return islice(rows(), SHOWN)
    return islice(_failures_first(rows), SHOWN)


def _failures_first(rows: Rows) -> Iterator[tuple[AccountRow, Thumbs | None]]:
    yield from (pair for pair in rows() if pair[0].status in _FAILURES)
    yield from (pair for pair in rows() if pair[0].status not in _FAILURES)


class _Pictures:
    """The small pictures of a block, each of them once, in base64."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.places: dict[str, int] = {}

    def place(self, picture: bytes | None) -> int | None:
        """Where the picture lies in the block; None where there is none, or no room for it."""
        if not picture:
            return None
        text = base64.b64encode(picture).decode()
        if text not in self.places and len(text) <= self.left:
            self.left -= len(text)
            self.places[text] = len(self.places)
        return self.places.get(text)


def _row(
    row: AccountRow, thumbs: Thumbs | None, pictures: _Pictures, output: str, folder: str
) -> dict[str, Any]:
    small = thumbs or Thumbs()
    outputs = [
        {"uri": uri, "link": _link(uri, output, folder), "picture": pictures.place(picture)}
        for uri, picture in _beside(row.outputs, small.outputs)
    ]
    return {
        **row.model_dump(exclude_none=True),
        "source": pictures.place(small.source),
        "outputs": outputs,
        "metadata": row.metadata_uri and _link(row.metadata_uri, output, folder),
    }


def _beside(outputs: list[str], pictures: Iterable[bytes]) -> Iterator[tuple[str, bytes | None]]:
    small = iter(pictures)
    return ((uri, next(small, None)) for uri in outputs)


def _link(uri: str, output: str, folder: str) -> str | None:
    """The way from the page to an object of the same store."""
    if not uri.startswith(f"{output}/"):
        return None
    return "../" * len(folder.split("/")) + quote(uri.removeprefix(f"{output}/"))


def _data(kind: str, value: Any) -> bytes:
    """A block of JSON that no text in it can end."""
    text = to_json(value, inf_nan_mode="null").replace(b"<", b"\\u003c")
    return b'<script type="application/json" data-is="%s">%s</script>\n' % (kind.encode(), text)


@cache
def _template() -> str:
    """The page, with a policy that allows its own style and script and no other."""
    page = Path(__file__).with_name("gallery.html").read_text(encoding="utf-8")
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        page = page.replace(f"{{{{{kind}}}}}", f"'sha256-{digest}'")
    return page
