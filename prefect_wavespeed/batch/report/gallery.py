"""The gallery of a batch: one HTML file that needs no network, each source beside its variations.

It holds the rows as JSON, a hundred to a block, each followed by a block of their thumbnails. The page parses
a block when one of its rows comes into view, and the others afterwards: a hundred thousand rows open within a
second. What it says before that, such as how many rows failed, is in a last block.

Its style and its scripts are the files in ``page/``, put together in their order. Nothing of a manifest
becomes markup: the page inserts it as text, and its security policy runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from shlex import quote as shell_quote
from typing import Any, get_args

from pydantic_core import to_json

from prefect_wavespeed.batch.outcome import Status
from prefect_wavespeed.batch.report.rows import ReportRow, Rows, Summary, Thumbnails
from prefect_wavespeed.reasons import in_words
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import printable

# Chromium reads some 150 MB of such a page a second. Of more pictures it shows the outputs themselves.
PICTURE_BYTES, ROW_BYTES = 40_000_000, 50_000_000
_MAX_ROWS = 100_000  # a browser's tallest element holds them, with those of a phone as well
_ESCAPE = re.compile(r"(\\\\)|\\u")  # of a backslash, or of another character
_BLOCK_ROWS = 100

_FAILURES: tuple[Status, ...] = ("failed", "given_up", "open", "invalid")


def write_gallery(path: Path, output: str, folder: str, rows: Rows, summary: Summary) -> None:
    """Write the page, a block of rows at a time.

    Args:
        path: the file to write.
        output: uri of the store, ``s3://bucket/prefix`` or a directory.
        folder: where in the store the page will be: its links to the outputs are relative.
        rows: returns every row with its thumbnails, in order, anew each time it is called.
        summary: the run in figures. Of more than 100,000 rows the page shows so many, failures first; and
            no more than fit into 50 MB.
    """
    head, tail = _template().split("<!-- rows -->")
    title = html.escape(printable(f"{summary.flow_run_name or 'Batch'}: {summary.row_count:,} rows"))
    words = {status: in_words(status) for status in get_args(Status)}
    place = {"root": output, "up": "../" * len(folder.split("/"))}
    selected, budget, size, figures = _selected(rows, summary), PICTURE_BYTES, 0, _Figures()
    with path.open("wb") as page:
        page.write(head.replace("{{title}}", title).encode())
        page.write(_json_block("summary", {**summary.model_dump(mode="json"), "words": words, **place}))
        while size < ROW_BYTES and (block := list(islice(selected, _BLOCK_ROWS))):
            pictures = _Pictures(budget)
            size += page.write(_json_block("rows", [_row(*pair, pictures, output) for pair in block]))
            page.write(pictures.block())
            budget = pictures.budget
            figures.add(row for row, _ in block)
        is_first = "failures" if summary.row_count > _MAX_ROWS else "first"
        page.write(_json_block("page", {**vars(figures), "block": _BLOCK_ROWS, "order": is_first}))
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


def _selected(rows: Rows, summary: Summary) -> Iterator[tuple[ReportRow, Thumbnails | None]]:
    """All rows in their order; if there are too many, failures first."""
    return (
        iter(rows()) if summary.row_count <= _MAX_ROWS else islice(_failures_first(rows, summary), _MAX_ROWS)
    )


def _failures_first(rows: Rows, summary: Summary) -> Iterator[tuple[ReportRow, Thumbnails | None]]:
    failures = sum(summary.counts.get(status, 0) for status in _FAILURES)
    yield from islice((pair for pair in rows() if pair[0].status in _FAILURES), failures)
    yield from (pair for pair in rows() if pair[0].status not in _FAILURES)


@dataclass
class _Figures:
    """What the page shows before it has parsed its rows.

    Attributes:
        rows: on the page.
        counts: of rows by status.
        warned, flagged: rows with warnings, and with flagged pictures.
        most: pictures of the row that has most of them.
    """

    rows: int = 0
    counts: Counter[Status] = field(default_factory=Counter)
    warned: int = 0
    flagged: int = 0
    most: int = 1

    def add(self, rows: Iterator[ReportRow]) -> None:
        for row in rows:
            self.rows += 1
            self.counts[row.status] += 1
            self.warned += bool(row.warnings)
            self.flagged += bool(row.flagged)
            self.most = max(self.most, len(row.outputs) + (len(row.dropped) if row.flagged else 0))


class _Pictures:
    """The thumbnails of a block, each of them once, in base64.

    Args:
        budget: bytes that are left for thumbnails.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._indices: dict[str, int] = {}

    def index(self, picture: bytes | None) -> int | None:
        """The thumbnail's index in the block; None if there is none, or no budget for it."""
        if not picture or self.budget <= 0:
            return None
        text = base64.b64encode(picture).decode()
        if text not in self._indices and len(text) <= self.budget:
            self.budget -= len(text)
            self._indices[text] = len(self._indices)
        return self._indices.get(text)

    def block(self) -> bytes:
        """The block: base64 has nothing to escape."""
        listed = '","'.join(self._indices)
        return _block("pictures", f'["{listed}"]' if listed else "[]")


def _row(row: ReportRow, thumbnails: Thumbnails | None, pictures: _Pictures, output: str) -> dict[str, Any]:
    """A row as the page reads it: without what is empty, its pictures by their paths in the output."""
    told = {name: value for name, value in vars(row).items() if value or value == 0}
    if numbered := row.numbered:
        told["outputs"] = [_path(uri, output) for _, uri in numbered]
        numbers = [number for number, _ in numbered]
        if numbers != list(range(1, len(numbers) + 1)):
            told["numbers"] = numbers
        if quarantined := [number for number, uri in numbered if layout.is_quarantined(uri)]:
            told["quarantined"] = quarantined
        if thumbnails and thumbnails.outputs:
            kept = (None if n in quarantined else thumbnails.outputs.get(n) for n in numbers)
            told["pictures"] = [pictures.index(picture) for picture in kept]
    if row.metadata_uri:
        told["metadata_uri"] = _path(row.metadata_uri, output)
    if thumbnails and (source := pictures.index(thumbnails.source)) is not None:
        told["source"] = source
    return told


def _path(uri: str, output: str) -> str:
    """An object of the same store by its path, ``./images/…``; any other by its uri."""
    return f"./{uri[len(output) + 1 :]}" if uri.startswith(f"{output}/") else uri


def _json_block(kind: str, value: Any) -> bytes:
    """A block of JSON that no text inside can end, with control characters as the escapes that it shows."""
    text = printable(to_json(value, inf_nan_mode="null").decode())
    text = _ESCAPE.sub(lambda found: found[0] if found[1] else f"\\{found[0]}", text).replace("<", "\\u003c")
    return _block(kind, text)


def _block(kind: str, text: str) -> bytes:
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
