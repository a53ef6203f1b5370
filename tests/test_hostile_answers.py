"""Whatever the API or a sender of notifications says: a result or one plain error, and nothing that acts."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from prefect_wavespeed.api.answers import Balance, Price, Reply, read_answer
from prefect_wavespeed.api.base64_stream import Sieve
from prefect_wavespeed.api.billing import BillingsPage
from prefect_wavespeed.api.predictions import HistoryPage, Prediction
from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.deployments.cli.shared.terminal import printable_streams
from prefect_wavespeed.deployments.receiver.events import object_created
from prefect_wavespeed.deployments.receiver.notifications import (
    InvalidNotificationError,
    parse_json,
    parse_notification,
)
from prefect_wavespeed.errors import RestyleError, redact
from prefect_wavespeed.words import markdown, printable
from tests.support.cases import many
from tests.support.notifications import aws, ceph, eventbridge, minio

# What acts on a terminal, in a log or in the direction of a text; as Unicode's categories have it.
ACTIVE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
NASTY = st.sampled_from(
    [
        "\x1b[2J\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;https://evil.example\x1b\\link", "\x9b2J",
        "\u202egpj.exe", "\u2066a\u2069", "a\r\nHTTP/1.1 200", "\u2028", "\x00", "\ufeff", "\ud800", "\u200b",
        "<script>alert(1)</script>", "[bold]", "[/]", "![](https://evil.example)", "../../balance", "%s%n{0}",
    ]
)  # fmt: skip
TEXT = st.lists(NASTY | st.text(st.characters(codec=None), max_size=12), max_size=4).map("".join)
NUMBER = (
    st.integers()
    | st.floats()
    | st.sampled_from([10**30, -(10**400), 2**63, 2**64, float("inf"), float("nan"), 1e308])
)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "id", "status", "outputs", "urls", "has_nsfw_contents", "created_at", "error", "code", "timings",
        "executionTime", "input", "model", "data", "items", "page", "has_more", "price", "unit_price",
        "balance", "message", "detail", "errors", "prediction", "task", "total", "uuid",
    ]
)  # fmt: skip
IDS = st.sampled_from(["p-1", "0a1b2c", "..", "a/b", "a?b", "a b", "", "p\n", "é", "x" * 200]) | TEXT | NUMBER
PREDICTION = st.fixed_dictionaries(
    {"id": IDS, "status": st.sampled_from(["completed", "created", "failed", "odd"]) | VALUE},
    optional={
        "outputs": st.lists(TEXT | st.none() | VALUE, max_size=4) | VALUE,
        "error": TEXT,
        **dict.fromkeys(("code", "urls", "timings", "created_at", "input", "has_nsfw_contents"), VALUE),
    },
)
ANSWER = st.one_of(
    VALUE,
    st.dictionaries(FIELDS, VALUE | PREDICTION, max_size=6),
    st.fixed_dictionaries({"code": NUMBER | st.just(200), "data": PREDICTION | VALUE}),
    st.fixed_dictionaries({"data": st.fixed_dictionaries({"items": st.lists(PREDICTION, max_size=3)})}),
)
OPEN = st.sampled_from([("[", "]"), ('{"data":', "}"), ("[", ""), ('{"id":"a","x":', "}")])
DEEP = st.tuples(st.integers(1, 3000), OPEN).map(lambda d: d[1][0] * d[0] + "1" + d[1][1] * d[0])
LONG = st.integers(1, 6000).map(lambda digits: f'{{"data": {{"id": "p", "code": {"9" * digits}}}}}')
DOCUMENT = st.one_of(
    (ANSWER.map(json.dumps) | DEEP | LONG).map(str.encode),
    st.binary(max_size=60),
    st.tuples(ANSWER.map(json.dumps), st.binary(min_size=1, max_size=3)).map(lambda d: d[0].encode() + d[1]),
)
STATUS = st.sampled_from([200, 200, 202, 400, 404, 429, 500, 503])
SHAPES: list[type[BaseModel]] = [Prediction, HistoryPage, BillingsPage, Balance, Price]


def is_plain(text: str) -> bool:
    return not ACTIVE.search(text)


@many(200)
@given(DOCUMENT, STATUS, st.sampled_from(SHAPES), st.sampled_from([None, "p-1"]))
def test_any_answer_is_a_result_or_an_error_in_one_plain_line(
    document: bytes, status: int, shape: type[BaseModel], asked_for: str | None
) -> None:
    found, problem = _read(document, status, shape, asked_for)
    assert is_plain(problem)
    assert len(problem) < 1500
    if isinstance(found, Prediction):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:~=@+-]*", found.id)
        assert is_plain(found.error)
        json.dumps(found.answer, allow_nan=False).encode()
        Prediction.model_validate_json(found.model_dump_json())


def _read(
    document: bytes, status: int, shape: type[BaseModel], asked_for: str | None
) -> tuple[BaseModel | None, str]:
    """What is read, or why nothing is."""
    sieve = Sieve()
    try:
        for start in range(0, len(document), 700):
            sieve.feed(document[start : start + 700])
        body, pictures = sieve.close()
    except ValueError as error:
        return None, redact(error)
    reply = Reply(status=status, body=body, pictures=pictures)
    try:
        return read_answer(reply, shape, call="GET /", redact=redact, prediction_id=asked_for), ""
    except RestyleError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def shown() -> Iterator[io.StringIO]:
    """What ``print`` and Rich write to a terminal's standard output, inside of a command."""
    stdout, stream = sys.stdout, io.StringIO()
    sys.stdout = stream
    with printable_streams():
        yield stream
    sys.stdout = stdout


@many(150)
@given(TEXT)
def test_any_text_on_the_terminal_does_nothing(shown: io.StringIO, text: str) -> None:
    shown.seek(0)
    shown.truncate()
    print(text)
    table = Table.grid()
    table.add_row(text, Text(text))
    console = Console(width=80)
    console.print(table)
    console.print(f"made of {text}")
    assert is_plain(shown.getvalue().replace("\n", "").replace("\t", ""))


@many(150)
@given(VALUE)
def test_json_on_the_terminal_means_the_same(value: Any) -> None:
    line = json.dumps(value, ensure_ascii=False)
    assert json.loads(printable(line)) == value or value != value or "nan" in repr(value)
    assert is_plain(printable(line))


@many(150)
@given(TEXT, st.sampled_from(["", "k" * 20]))
def test_any_text_in_an_error_is_one_plain_line(text: str, key: str) -> None:
    for error in (RestyleError(text), RestyleError(redact(f"{text}{key}", key))):
        assert is_plain(str(error))
    assert not key or key not in redact(f"{text}{key}", key)


LINKS = st.sampled_from(
    ["https://evil.example/a", "HTTP://evil.example", "www.evil.example", "me@evil.example", "ftp://evil.example",
     "[a](https://evil.example)", "<https://evil.example>", "<img src=x>", "&lt;", "`code`", "| a |", "- a"]
)  # fmt: skip


@many(150)
@given(st.lists(TEXT | LINKS, max_size=4).map("".join))
def test_any_text_on_a_page_of_prefect_is_text(text: str) -> None:
    shown = markdown(text)
    for page in (f"# {shown}", f"- {shown}", f"| a |\n| --- |\n| {shown} |"):
        tokens = MarkdownIt("commonmark").enable("table").parse(page)
        found = {child.type for token in tokens for child in token.children or ()}
        assert found <= {"text", "text_special"}
    # what renderers that look for links by themselves take for one
    assert not re.search(r"(?i)(?:https?|ftp)://|\bwww\.|[\w.]@\w", shown)
    assert is_plain(shown)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A notification with one value in it replaced."""
    message = json.loads(json.dumps(draw(st.sampled_from([aws(), minio(), ceph(), eventbridge()]))))
    node: Any = message
    while True:
        at = draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.just(0))
        if isinstance(node[at], dict | list) and node[at] and draw(st.integers(0, 4)):
            node = node[at]
            continue
        node[at] = draw(VALUE)
        return message


@many(200)
@given(damaged().map(json.dumps).map(str.encode) | DOCUMENT)
def test_any_notification_is_events_or_an_error_in_one_plain_line(body: bytes) -> None:
    created, problem = _parse(body)
    assert is_plain(problem)
    for each in created:
        object_created(each).model_dump_json()


def _parse(body: bytes) -> tuple[list[ObjectCreated], str]:
    try:
        return parse_notification(parse_json(body)).created, ""
    except InvalidNotificationError as error:
        return [], str(error)
