"""The report of a batch: complete, readable by other tools, and safe to open."""

from __future__ import annotations

import html.parser
import io
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_wavespeed.batch.outcome import Status
from prefect_wavespeed.batch.report import gallery
from prefect_wavespeed.batch.report.rows import (
    ReportRow,
    Summary,
    Thumbnails,
    encode_part,
)
from prefect_wavespeed.batch.report.write import write_report
from prefect_wavespeed.inspect.schemas import schema
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import printable
from tests.support.engine import PHOTO
from tests.support.records import report_rows
from tests.support.s3_servers import S3Server
from tests.support.schemas import check

FOLDER = "runs/dt=2026-01-01/5f3c"
STATUSES: list[Status] = ["stored", "done", "submitted", "failed", "open", "unsubmitted", "invalid"]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\"'`${1}{{title}}<!-- rows -->",
    "=cmd|'/C calc'!A0",
    "\u2028\u2029\u202e\ufeff é 🦊\\u003c",
    "line\nbreak\ttab\x00",
    "\x1b]8;;https://evil.example\x07a\x9b2J \\u001b \\",
]


@pytest.fixture(params=["directory", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path, moto: S3Server) -> Store:
    if request.param == "directory":
        return directory_store(tmp_path / "out")
    return s3_store(moto.bucket, uuid.uuid4().hex, moto.session(), endpoint_url=moto.endpoint)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


def row(number: int, store: Store, status: Status = "stored", **fields: Any) -> ReportRow:
    key = f"{number:064x}"
    values: dict[str, Any] = {"row": number, "image": f"https://example.com/{number}.jpg", "status": status}
    if status in ("stored", "done"):
        folder = f"{store.uri}/images/a b-{key[:16]}"
        values |= {
            "id": f"no. {number}",
            "job_key": key,
            "prediction_id": f"p{number}",
            "seed": 2_147_483_647,
            "outputs": [f"{folder}/1.jpeg", f"{folder}/2.jpeg"],
            "metadata_uri": f"{folder}/metadata.json",
            "cost_usd": 0.025,
            "attempts": 1,
            "seconds": 2.5,
        }
    if status == "failed":
        values |= {"error_type": "PredictionFailedError", "error_message": "it failed: try another picture"}
    return ReportRow(**{**values, **fields})


def summary(rows: Sequence[ReportRow], **fields: Any) -> Summary:
    ended = datetime(2026, 1, 1, 12, tzinfo=UTC)
    values: dict[str, Any] = {
        "flow_run_id": "5f3c",
        "flow_run_name": "amber-falcon",
        "manifest": "images.jsonl",
        "output": "s3://bucket/out",
        "started": ended - timedelta(seconds=60),
        "ended": ended,
        "rows": len(rows),
        "counts": Counter(row.status for row in rows),
        "jobs": len({row.job_key for row in rows}),
        "spent_usd": sum(row.cost_usd or 0 for row in rows),
        "images": sum(len(row.outputs) for row in rows),
        "seconds": 60,
    }
    return Summary(**{**values, **fields})


async def write(
    store: Store, rows: Sequence[ReportRow], thumbnails: Thumbnails | None = None, **fields: Any
) -> None:
    await write_report(store, FOLDER, lambda: ((row, thumbnails) for row in rows), summary(rows, **fields))


async def read(store: Store, name: str) -> bytes:
    data = await store.get(f"{FOLDER}/{name}")
    assert data is not None
    return data


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, and the JSON in it by its kind."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.data: dict[str, list[Any]] = {"summary": [], "rows": [], "pictures": [], "page": []}
        self._kind = ""
        self.feed(data.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self._kind = dict(attrs).get("data-is") or ""

    def handle_data(self, data: str) -> None:
        if self._kind:
            self.data[self._kind].append(json.loads(data))
            self._kind = ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for block in self.data["rows"] for row in block]


async def page(store: Store) -> Page:
    return Page(await read(store, "gallery.html"))


async def test_the_report_has_the_same_rows_in_lines_of_json_and_in_parquet(store: Store) -> None:
    carried: list[dict[str, Any]] = [{"sku": "007", "price": 19.9, "stock": 3, "new": True}, {"price": 5.0}]
    rows = [row(1, store, carried=carried[0]), row(2, store, "failed", carried=carried[1])]
    rows += [row(number, store, status) for number, status in enumerate(STATUSES, 3)]
    types = {"sku": "string", "price": "number", "stock": "integer", "new": "boolean"}
    await write(store, rows, carried=types)
    lines = await read(store, "report.jsonl")
    assert report_rows(lines) == rows
    for line in lines.splitlines():
        check("report", line)
    table = pq.read_table(io.BytesIO(await read(store, "report.parquet")))
    own = [f"carried.{name}" for name in types]
    assert [ReportRow(**columns) for columns in table.drop_columns(own).to_pylist()] == [
        one.model_copy(update={"carried": {}}) for one in rows
    ]
    assert table.select(own).slice(0, 2).to_pylist() == [
        {f"carried.{name}": values.get(name) for name in types} for values in carried
    ]
    assert [str(table.schema.field(name).type) for name in own] == ["string", "double", "int64", "bool"]
    assert table.schema.names == [*(name for name in ReportRow.model_fields if name != "carried"), *own]
    assert table.schema.field("outputs").type.value_type == pa.string()
    written = await read(store, "summary.json")
    check("summary", written)
    assert Summary.model_validate_json(written) == summary(rows, carried=types)
    assert json.loads(written)["schema"] == 1


async def test_a_batch_without_rows_that_ended_well_has_typed_columns_too(local: Store) -> None:
    await write(local, [row(1, local, "invalid")])
    table = pq.read_table(io.BytesIO(await read(local, "report.parquet")))
    assert table.schema.field("seed").type == pa.int64()
    assert table.schema.field("cost_usd").type == pa.float64()


async def test_objects_on_s3_bear_their_type(moto: S3Server) -> None:
    store = s3_store(moto.bucket, uuid.uuid4().hex, moto.session(), endpoint_url=moto.endpoint)
    await write(store, [row(1, store)])
    prefix = store.uri.removeprefix(f"s3://{moto.bucket}/")
    objects = moto.client().list_objects_v2(Bucket=moto.bucket, Prefix=prefix)["Contents"]
    types = {
        entry["Key"].rpartition("/")[2]: moto.client().head_object(Bucket=moto.bucket, Key=entry["Key"])
        for entry in objects
    }
    assert {name: head["ContentType"] for name, head in types.items()} == {
        "report.jsonl": "application/x-ndjson",
        "report.parquet": "application/vnd.apache.parquet",
        "gallery.html": "text/html; charset=utf-8",
        "summary.json": "application/json",
    }


async def test_a_report_is_written_over_that_of_an_earlier_try(store: Store) -> None:
    await write(store, [row(1, store, "open"), row(2, store)])
    await write(store, [row(1, store)])
    assert [row.status for row in report_rows(await read(store, "report.jsonl"))] == ["stored"]
    assert json.loads(await read(store, "summary.json"))["rows"] == 1


async def test_a_big_report_goes_to_s3_in_parts_and_arrives_whole(moto: S3Server) -> None:
    store = s3_store(moto.bucket, uuid.uuid4().hex, moto.session(), endpoint_url=moto.endpoint)
    rows = [row(number, store, error_message="x" * 500) for number in range(1, 12_001)]
    await write(store, rows)
    lines = await read(store, "report.jsonl")
    assert len(lines) > 10_000_000
    assert report_rows(lines) == rows
    table = pq.read_table(io.BytesIO(await read(store, "report.parquet")), columns=["row"])
    assert table["row"].to_pylist() == list(range(1, 12_001))


def test_a_part_is_lines_of_json(local: Store) -> None:
    rows = [row(1, local), row(2, local, "failed", error_message="\u2028\n")]
    assert encode_part(rows).count(b"\n") == 2
    assert report_rows(encode_part(rows)) == rows


@pytest.mark.parametrize("text", HOSTILE)
async def test_nothing_in_a_manifest_becomes_markup(text: str, local: Store) -> None:
    await write(local, [row(1, local)])
    plain = await page(local)
    hostile = row(1, local, "failed", id=text, image=text, error_type=text, error_message=text)
    await write(local, [hostile], flow_run_name=text, manifest=text)
    seen = await page(local)
    assert seen.elements == plain.elements
    shown = printable(text, keep="\n\t")
    assert (seen.rows[0]["id"], seen.rows[0]["image"], seen.rows[0]["error_message"]) == (shown, shown, shown)
    assert seen.data["summary"][0]["manifest"] == shown
    assert report_rows(await read(local, "report.jsonl")) == [hostile]
    (in_table,) = pq.read_table(io.BytesIO(await read(local, "report.parquet"))).to_pylist()
    assert in_table["id"] == text


async def test_the_gallery_needs_nothing_from_elsewhere_and_runs_only_its_own_script(local: Store) -> None:
    await write(local, [row(1, local)])
    text = (await read(local, "gallery.html")).decode()
    assert not re.findall(r"<(?:link|script[^>]*\ssrc|iframe)|@import|url\((?!\"data:)", text)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert re.search(r"default-src 'none';.* style-src 'sha256-[^']+'; script-src 'sha256-[^']+'$", policy)


async def test_the_gallery_leads_to_the_outputs_from_where_it_lies(local: Store) -> None:
    await write(local, [row(1, local), row(2, local, outputs=["s3://other/1.jpeg"], metadata_uri=None)])
    seen = await page(local)
    first, second = seen.rows
    folder = "./images/a b-0000000000000000"
    assert first["outputs"] == [f"{folder}/1.jpeg", f"{folder}/2.jpeg"]
    assert first["metadata_uri"] == f"{folder}/metadata.json"
    assert {name: seen.data["summary"][0][name] for name in ("root", "up")} == {
        "root": local.uri,
        "up": "../../../",
    }
    assert second["outputs"] == ["s3://other/1.jpeg"]


async def test_the_gallery_says_what_is_wrong_with_which_picture_and_shows_none_from_quarantine(
    local: Store,
) -> None:
    folder = "photo-0000000000000001"
    outputs = [
        local.uri_of(f"images/{folder}/1.jpeg"),
        local.uri_of(f"quarantine/{folder}/2.png"),
    ]
    warned = row(
        1,
        local,
        outputs=outputs,
        warnings=["missing_outputs", "format_differs", "not_checked"],
        warning_outputs=[None, 2, 2],
    )
    await write(local, [warned, row(2, local)], Thumbnails(b"source", {1: b"first", 2: b"second"}))
    seen = await page(local)
    first, second = seen.rows
    assert (first["warnings"], first["warning_outputs"]) == (warned.warnings, warned.warning_outputs)
    assert first["quarantined"] == [2]
    assert [picture is None for picture in first["pictures"]] == [False, True]
    assert first["outputs"][1] == f"./quarantine/{folder}/2.png", "a person may open it"
    assert [picture is None for picture in second["pictures"]] == [False, False]
    assert [seen.data["page"][0][name] for name in ("rows", "warned", "flagged", "most")] == [2, 1, 0, 2]
    table = pq.read_table(io.BytesIO(await read(local, "report.parquet"))).to_pylist()
    assert table[0]["warnings"] == ["missing_outputs", "format_differs", "not_checked"]
    assert table[0]["warning_outputs"] == [None, 2, 2]


async def test_a_picture_that_many_rows_share_is_in_the_gallery_once(local: Store) -> None:
    small = thumbnail(PHOTO.read_bytes())
    await write(
        local, [row(number, local) for number in range(1, 51)], Thumbnails(small, {1: small, 2: b"other"})
    )
    seen = await page(local)
    assert len(seen.data["pictures"][0]) == 2
    assert {(row["source"], *row["pictures"]) for row in seen.rows} == {(0, 0, 1)}


async def test_a_gallery_holds_no_more_pictures_than_a_browser_likes(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PICTURE_BYTES", 100_000)
    rows = [row(number, local) for number in range(1, 301)]

    def pairs() -> Iterator[tuple[ReportRow, Thumbnails]]:
        return ((row, Thumbnails(row.row.to_bytes(2, "big") * 300)) for row in rows)

    await write_report(local, FOLDER, pairs, summary(rows))
    seen = await page(local)
    assert sum(len(picture) for block in seen.data["pictures"] for picture in block) == 100_000
    places = [row.get("source") for row in seen.rows]
    assert None not in places[:125]
    assert set(places[125:]) == {None}


async def test_of_very_many_rows_the_gallery_shows_the_failures_first(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "_MAX_ROWS", 1_000)
    rows = [row(n, local, "failed" if n % 100 == 0 else "unsubmitted") for n in range(1, 1_201)]
    await write(local, rows)
    seen = await page(local)
    shown = [row["row"] for row in seen.rows]
    assert len(shown) == 1_000
    assert shown[:12] == list(range(100, 1_300, 100))
    assert shown[12:14] == [1, 2]
    assert seen.data["page"][0]["counts"] == {"failed": 12, "unsubmitted": 988}
    assert len(report_rows(await read(local, "report.jsonl"))) == 1_200


async def test_rows_full_of_text_end_the_gallery_before_it_is_too_big_for_a_browser(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "ROW_BYTES", 1_000_000)
    await write(local, [row(n, local, "failed", error_message="x" * 5_000) for n in range(1, 1_001)])
    seen = await page(local)
    assert [row["row"] for row in seen.rows] == list(range(1, 201))
    assert (seen.data["page"][0]["rows"], seen.data["page"][0]["order"]) == (200, "first")
    assert len(await read(local, "gallery.html")) < 1_600_000


async def test_figures_that_are_no_numbers_do_not_break_the_gallery(local: Store) -> None:
    await write(local, [row(1, local, seconds=float("nan"))], images_per_minute=float("inf"))
    seen = await page(local)
    assert seen.rows[0]["seconds"] is None
    assert seen.data["summary"][0]["images_per_minute"] is None


def test_every_field_of_the_report_is_described() -> None:
    for name in ("report", "summary"):
        described = {
            field: "description" in rules
            or field in ("schema", "flow_run_id", "flow_run_name", "started", "ended")
            for field, rules in schema(name)["properties"].items()
        }
        assert all(described.values()), described
