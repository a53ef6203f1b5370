"""The gallery of a batch: one HTML file that needs no network, each source beside its variations.

It holds the rows as JSON, a hundred to a block, and their thumbnails in blocks of their own that the page
parses when they come into view. Its style and its scripts are the files in ``page/``, put together in their
order. Nothing of a manifest becomes markup: the page inserts it as text, and its security policy runs no
script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from shlex import quote as shell_quote
from typing import Any, get_args
from urllib.parse import quote

from pydantic_core import to_json

from prefect_wavespeed.batch.outcome import Status
from prefect_wavespeed.batch.report.rows import ReportRow, Rows, Summary, Thumbnails
from prefect_wavespeed.reasons import in_words
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import printable

PICTURE_BYTES = 80_000_000  # of thumbnails in a page; beyond that it shows the outputs themselves
_MAX_ROWS = 10_000
_ESCAPE = re.compile(r"(\\\\)|\\u")  # of a backslash, or of another character
_BLOCK_ROWS = 100

_FAILURES = ("failed", "given_up", "open", "invalid")


def write_gallery(path: Path, output: str, folder: str, rows: Rows, summary: Summary) -> None:
    """Write the page, a block of rows at a time.

    Args:
        path: the file to write.
        output: uri of the store, ``s3://bucket/prefix`` or a directory.
        folder: where in the store the page will be: its links to the outputs are relative.
        rows: returns every row with its thumbnails, in order, anew each time it is called.
        summary: the run in figures. Of more than 10,000 rows the page shows so many, failures first.
    """
    head, tail = _template().split("<!-- rows -->")
    title = html.escape(printable(f"{summary.flow_run_name or 'Batch'}: {summary.row_count:,} rows"))
    selected, budget = iter(_selected(rows, summary.row_count)), PICTURE_BYTES
    with path.open("wb") as page:
        page.write(head.replace("{{title}}", title).encode())
        words = {status: in_words(status) for status in get_args(Status)}
        page.write(_json_block("summary", {**summary.model_dump(mode="json"), "words": words}))
        while block := list(islice(selected, _BLOCK_ROWS)):
            pictures = _Pictures(budget)
            page.write(_json_block("rows", [_row(*pair, pictures, output, folder) for pair in block]))
            page.write(_json_block("pictures", list(pictures.indices)))
            budget = pictures.budget
        page.write(tail.encode())


def gallery_command(summary: Summary, store: Store, output: str) -> str:
    """What to type, in any folder, for the gallery of a run.

    Args:
        summary: the run in figures.
        store: where its report is.
        output: the same as the user named it: a block has the credentials.
    """
    named = output if store.access else store.uri
    return f"restyle gallery --out {shell_quote(named)} --run {summary.flow_run_id}"


def _selected(rows: Rows, total: int) -> Iterator[tuple[ReportRow, Thumbnails | None]]:
    """All rows in their order; if there are too many, failures first."""
    return islice(rows() if total <= _MAX_ROWS else _failures_first(rows), _MAX_ROWS)


def _failures_first(rows: Rows) -> Iterator[tuple[ReportRow, Thumbnails | None]]:
    yield from (pair for pair in rows() if pair[0].status in _FAILURES)
    yield from (pair for pair in rows() if pair[0].status not in _FAILURES)


class _Pictures:
    """The thumbnails of a block, each of them once, in base64.

    Args:
        budget: bytes that are left for thumbnails.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.indices: dict[str, int] = {}

    def index(self, picture: bytes | None) -> int | None:
        """The thumbnail's index in the block; None if there is none, or no budget for it."""
        if not picture:
            return None
        text = base64.b64encode(picture).decode()
        if text not in self.indices and len(text) <= self.budget:
            self.budget -= len(text)
            self.indices[text] = len(self.indices)
        return self.indices.get(text)


def _row(
    row: ReportRow, thumbnails: Thumbnails | None, pictures: _Pictures, output: str, folder: str
) -> dict[str, Any]:
    small = thumbnails or Thumbnails()
    outputs = []
    for number, uri in row.numbered:
        quarantined = layout.is_quarantined(uri)
        warned = zip(row.warnings, row.warning_outputs, strict=True)
        outputs.append(
            {
                "number": number,
                "uri": uri,
                "link": _link(uri, output, folder),
                "picture": None if quarantined else pictures.index(small.outputs.get(number)),
                "quarantined": quarantined,
                "flagged": number in row.flagged,
                "warnings": [code for code, about in warned if about == number],
            }
        )
    return {
        **row.model_dump(exclude_none=True),
        "source": pictures.index(small.source),
        "outputs": outputs,
        "dropped": row.dropped,
        "metadata": row.metadata_uri and _link(row.metadata_uri, output, folder),
    }


def _link(uri: str, output: str, folder: str) -> str | None:
    """The relative URL from the page to an object of the same store."""
    if not uri.startswith(f"{output}/"):
        return None
    return "../" * len(folder.split("/")) + quote(uri.removeprefix(f"{output}/"))


def _json_block(kind: str, value: Any) -> bytes:
    """A block of JSON that no text inside can end, with control characters as the escapes that it shows."""
    text = printable(to_json(value, inf_nan_mode="null").decode())
    text = _ESCAPE.sub(lambda found: found[0] if found[1] else f"\\{found[0]}", text).replace("<", "\\u003c")
    return f'<script type="application/json" data-is="{kind}">{text}</script>\n'.encode()


@cache
def _template() -> str:
    """The page, with a policy that allows its own style and script and no other."""
    parts = Path(__file__).with_name("page")
    page = (parts / "gallery.html").read_text(encoding="utf-8")
    style = (parts / "gallery.css").read_text(encoding="utf-8")
    script = "\n".join(part.read_text(encoding="utf-8") for part in sorted(parts.glob("*.js")))
    for kind, place, content in (("style", "css", style), ("script", "js", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        page = page.replace(f"{{{{{kind}}}}}", f"'sha256-{digest}'").replace(f"{{{{{place}}}}}", content)
    return page
