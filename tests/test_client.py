"""WaveSpeedClient over real sockets: against servers that misbehave, and against the emulator."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import pickle
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

import pytest
from PIL import Image
from pydantic import SecretStr

from prefect_wavespeed import errors
from prefect_wavespeed.api.billing import Quote
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.inspect.live.probing_client import ProbingClient
from tests.support.clients import CREATED, KEY, REQUEST, client_of, holds_no_key
from tests.support.emulator_process import Emulator
from tests.support.raw_server import Answer, RawServer, answer, cut, drip, drop, hang, http

Call = Callable[[WaveSpeedClient], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "submit": lambda client: client.submit(REQUEST),
    "result": lambda client: client.result("p1"),
    "history": lambda client: client.history(),
    "delete": lambda client: client.delete(["p1"]),
    "balance": lambda client: client.balance(),
    "billings": lambda client: client.billings(),
    "price": lambda client: client.price(REQUEST),
    "upload": lambda client: client.upload("cat.jpg", b"cat", "image/jpeg"),
    "webhook_secret": lambda client: client.webhook_secret(),
}


# One POST a submission, and what is made of the answer


REFUSALS: dict[str, tuple[Answer, type[errors.RestyleError]]] = {
    "400": (answer(None, status=400, code=400, message="size: out of range"), errors.InvalidRequestError),
    "401": (answer(None, status=401, code=401, message="bad key"), errors.AuthenticationError),
    "402": (answer(None, status=402, code=402, message="pay"), errors.InsufficientCreditsError),
    "403": (answer(None, status=403, code=403, message="role"), errors.AuthenticationError),
    "403 credits": (http(403, '{"message": "Insufficient credits."}'), errors.InsufficientCreditsError),
    "404": (answer(None, status=404, code=404, message="no model"), errors.NotFoundError),
    "429": (http(429, "<html>slow down</html>"), errors.RateLimitedError),
    "429 cut": (cut(http(429, "<html>slow down</html>"), 5), errors.RateLimitedError),
    "200 with code 400": (answer(None, code=400, message="'seed' is wrong"), errors.InvalidRequestError),
    "200 with code 401": (answer(None, code=401), errors.AuthenticationError),
    "200 with code 402": (answer(None, code=402), errors.InsufficientCreditsError),
    "200 with code 429": (answer(None, code=429), errors.RateLimitedError),
    "200 with code 1401": (answer(None, code=1401), errors.InvalidRequestError),
    "200 with code 1300, credits": (
        answer(None, code=1300, message="no credit"),
        errors.InsufficientCreditsError,
    ),
}

DOUBTS: dict[str, Answer] = {
    "301": http(301, Location="https://example.com/"),
    "307": http(307, Location="/api/v3/elsewhere"),
    "500": answer(None, status=500, code=500, message="oops"),
    "500 credits": answer(None, status=500, code=500, message="could not read credits"),
    "502": http(502, "<html>Bad gateway</html>"),
    "503": http(503, "{}", Retry_After="3"),
    "504": http(504, "<html>Gateway timeout</html>"),
    "408": http(408),
    "200 with code 500": answer(None, code=500, message="oops"),
    "200 with code 5004": answer(None, code=5004, message="timeout"),
    "200, garbage": http(200, "<html>welcome</html>"),
    "200, empty": http(200),
    "200, a list": http(200, "[1]"),
    "200, no data": http(200, '{"code": 200, "message": "success"}'),
    "200, no id": answer({"status": "created"}),
    "200, blank id": answer({"id": "", "status": "created"}),
    "200, cut": cut(answer(CREATED), 3),
    "no HTTP": b"220 smtp.example.com ready\r\n",
    "half a head": cut(b"HTTP/1.1 200 OK\r\nContent-", 1),
    "dropped": drop,
    "hangs": hang,
    "never ends": drip,
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refused_submission_is_posted_once_and_raises_its_own_error(case: str) -> None:
    said, kind = REFUSALS[case]
    async with RawServer(said) as server, client_of(server) as client:
        with pytest.raises(errors.RestyleError) as caught:
            await client.submit(REQUEST)
    assert type(caught.value) is kind
    assert len(server.requests) == 1
    holds_no_key(caught.value)


@pytest.mark.parametrize("case", DOUBTS)
async def test_an_answer_that_leaves_doubt_is_posted_once_and_ambiguous(case: str) -> None:
    async with RawServer(DOUBTS[case]) as server, client_of(server, submit_timeout=1) as client:
        with pytest.raises(errors.AmbiguousSubmissionError) as caught:
            await asyncio.wait_for(client.submit(REQUEST), 3)
    assert len(server.requests) == 1
    assert caught.value.retryable
    if case in ("hangs", "never ends"):
        assert "timed out" in caught.value.reason
    holds_no_key(caught.value)


@pytest.mark.parametrize("ending", [drop, cut(b"HTTP/1.1 200 OK\r\n\r\n", 2)], ids=["silent", "half"])
async def test_a_kept_connection_that_dies_under_a_submission_does_not_make_a_second_post(
    ending: Answer,
) -> None:
    """httpx-aiohttp calls this a ConnectTimeout; it is nothing of the kind."""
    async with RawServer(answer(CREATED), ending) as server, client_of(server) as client:
        await client.submit(REQUEST)
        with pytest.raises(errors.AmbiguousSubmissionError):
            await client.submit(REQUEST)
        assert server.connections == 1, "the second submission must have gone over the kept connection"
        assert server.heads == [f"POST /api/v3/{MODEL}"] * 2


async def test_no_connection_means_that_nothing_was_sent() -> None:
    async with RawServer(drop) as server:
        url = server.url
    async with WaveSpeedClient(KEY, url) as client:
        with pytest.raises(errors.UnavailableError) as caught:
            await client.submit(REQUEST)
    assert not caught.value.sent
    assert caught.value.status is None
    holds_no_key(caught.value)


async def test_a_failed_tls_handshake_means_that_nothing_was_sent() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(65536))
        writer.write(http(400))
        writer.close()

    received: list[bytes] = []
    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, WaveSpeedClient(KEY, url) as client:
        with pytest.raises(errors.UnavailableError) as caught:
            await client.submit(REQUEST)
    assert not caught.value.sent
    assert received
    assert KEY.encode() not in b"".join(received)


async def test_waiting_in_vain_for_a_free_connection_means_that_nothing_was_sent() -> None:
    async with RawServer(hang) as server, client_of(server, submit_timeout=1, max_connections=1) as client:
        first = asyncio.create_task(client.submit(REQUEST))
        await asyncio.sleep(0.1)
        with pytest.raises(errors.UnavailableError) as caught:
            await client.submit(REQUEST)
        assert not caught.value.sent
        assert len(server.requests) == 1
        with pytest.raises(errors.AmbiguousSubmissionError):
            await first


@pytest.mark.parametrize(
    "said",
    [
        answer({**CREATED, "status": "processing"}, status=504, code=5004, message="timeout"),
        http(200, json.dumps(CREATED)),
    ],
    ids=["504", "no envelope"],
)
async def test_an_answer_with_an_id_is_a_prediction_whatever_else_it_says(said: bytes) -> None:
    async with RawServer(said) as server, client_of(server) as client:
        assert (await client.submit(REQUEST)).id == "p1"


async def test_a_submission_holds_every_field_and_the_webhook_in_its_query() -> None:
    async with RawServer(answer(CREATED)) as server, client_of(server) as client:
        await client.submit(REQUEST, webhook_url="https://example.com/hook?token=a&b=c")
    head, body = server.requests[0].split(b"\r\n\r\n", 1)
    path, _, query = server.heads[0].partition("?")
    assert path == f"POST /api/v3/{MODEL}"
    assert parse_qs(query) == {"webhook": ["https://example.com/hook?token=a&b=c"]}
    assert f"authorization: bearer {KEY}".encode() in head.lower()
    assert json.loads(body) == REQUEST.model_dump()


# Rate limits


async def test_after_a_429_all_submissions_to_the_api_rest_as_long_as_it_says() -> None:
    async with (
        RawServer(answer(None, status=429, code=429, Retry_After="1"), answer(CREATED)) as server,
        client_of(server) as client,
        client_of(server) as another,
        RawServer(answer(CREATED)) as elsewhere,
        client_of(elsewhere) as third,
    ):
        start = time.monotonic()
        with pytest.raises(errors.RateLimitedError) as caught:
            await client.submit(REQUEST)
        assert caught.value.retry_after == 1
        await third.submit(REQUEST)
        assert time.monotonic() - start < 0.8
        await asyncio.gather(client.submit(REQUEST), another.submit(REQUEST))
        assert 1 <= time.monotonic() - start < 3
        assert len(server.requests) == 3


async def test_a_rest_longer_than_half_the_submit_timeout_raises_at_once_and_nothing_is_sent() -> None:
    async with (
        RawServer(http(429, Retry_After="60")) as server,
        client_of(server, submit_timeout=60) as client,
    ):
        for _ in range(2):
            with pytest.raises(errors.RateLimitedError) as caught:
                await asyncio.wait_for(client.submit(REQUEST), 2)
            assert caught.value.retry_after == pytest.approx(60, abs=2)
        assert len(server.requests) == 1


async def test_other_calls_do_not_rest() -> None:
    async with (
        RawServer(http(429, Retry_After="60"), answer({**CREATED, "status": "completed"})) as server,
        client_of(server) as client,
    ):
        with pytest.raises(errors.RateLimitedError):
            await client.submit(REQUEST)
        assert (await asyncio.wait_for(client.result("p1"), 2)).status == "completed"


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7),
        ({"Retry_After": " 0 "}, 0),
        # By the server's clock, which is years off ours.
        ({"Retry_After": format_datetime(NOON, usegmt=True), "Date": "Thu, 01 Jan 2026 11:59:30 GMT"}, 30),
        ({"Retry_After": format_datetime(NOON, usegmt=True), "Date": "Thu, 01 Jan 2026 12:00:30 GMT"}, 0),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "1e9"}, None),
        ({"Retry_After": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
        ({"Retry_After": "Fri, 31 Dec 2027 23:59:59 +99999999999999999999"}, None),
        ({"Retry_After": "9" * 400}, math.inf),
        ({"Retry_After": "-5"}, None),
        ({"Retry_After": "inf"}, None),
        ({}, None),
    ],
)
async def test_retry_after_is_read_as_seconds_or_as_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    async with RawServer(http(429, **headers)) as server, client_of(server) as client:
        with pytest.raises(errors.RateLimitedError) as caught:
            await client.result("p1")
    assert caught.value.retry_after == seconds


async def test_retry_after_without_a_date_of_the_servers_counts_from_now() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    async with RawServer(http(503, Retry_After=later)) as server, client_of(server) as client:
        with pytest.raises(errors.UnavailableError) as caught:
            await client.result("p1")
    assert caught.value.retry_after == pytest.approx(20, abs=3)
    assert caught.value.status == 503


# Other calls


# What an answer is made of that comes whole is in test_answers.
BROKEN = [
    "301",
    "503",
    "200, garbage",
    "200, cut",
    "no HTTP",
    "half a head",
    "dropped",
    "hangs",
    "never ends",
]


@pytest.mark.parametrize("case", BROKEN)
async def test_other_calls_say_that_the_api_is_unavailable(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_wavespeed.api.client._TRANSFER_SECONDS", 0.5)
    calls = [call for name, call in CALLS.items() if name != "submit"]
    async with RawServer(DOUBTS[case]) as server, client_of(server, timeout=0.5) as client:
        results = await asyncio.wait_for(
            asyncio.gather(*(call(client) for call in calls), return_exceptions=True), 5
        )
    for error in results:
        assert isinstance(error, errors.UnavailableError)
        assert error.retryable
        holds_no_key(error)


async def test_an_unknown_prediction_is_named_in_the_error() -> None:
    async with RawServer(answer(None, status=404, code=404)) as server, client_of(server) as client:
        with pytest.raises(errors.NotFoundError) as caught:
            await client.result("a/b?c")
    assert caught.value.prediction_id == "a/b?c"
    assert server.heads == ["GET /api/v3/predictions/a%2Fb%3Fc/result"]


async def test_balance_and_price_fall_back_to_the_older_calls() -> None:
    missing = answer(None, status=404, code=404)
    async with RawServer(missing, answer({"balance": 12.5})) as server, client_of(server) as client:
        assert await client.balance() == 12.5
        assert server.heads == ["GET /api/v3/balance", "GET /api/v3/account/balance"]
    three = ReduxRequest(image="https://example.com/cat.jpg", num_images=3)
    older = answer({"unit_price": 0.025, "currency": "USD"})
    async with RawServer(missing, older) as server, client_of(server) as client:
        assert (await client.price(three)).usd == pytest.approx(0.075)
        assert server.heads == ["POST /api/v3/model/price", "POST /api/v3/model/pricing"]


@pytest.mark.parametrize(
    ("answers", "usd"),
    [
        ([{"unit_price": 0.025}, {"unit_price": 0.025}], 0.075),  # of one picture, whatever their number
        ([{"unit_price": 0.075}, {"unit_price": 0.025}], 0.075),
        ([{"unit_price": 0.025, "discounted_price": 0.06}], 0.06),
        ([{"unit_price": 0.025, "price": 0.07}], 0.07),
    ],
)
async def test_a_unit_price_is_understood_by_asking_for_one_picture(
    answers: list[dict[str, float]], usd: float
) -> None:
    three = REQUEST.model_copy(update={"num_images": 3})
    async with RawServer(*map(answer, answers)) as server, client_of(server) as client:
        assert (await client.price(three)).usd == pytest.approx(usd)
        assert len(server.requests) == len(answers)


GONE = answer(None, status=404, code=404)
TICKET: dict[str, Any] = {"upload": {"method": "PUT", "headers": {"X-Kind": "photo"}}, "download_url": "u2"}


def ticket(server: RawServer) -> Answer:
    """A ticket for the server itself."""
    return answer({**TICKET, "upload": {**TICKET["upload"], "url": f"{server.url}/put?signature=s3cret"}})


@pytest.mark.parametrize("first", [GONE, http(405), answer({"id": "u1"}), answer(None, code=1400)])
async def test_an_upload_goes_the_other_way_where_the_first_does_not_work_and_then_always(
    first: Answer,
) -> None:
    async with RawServer() as server, client_of(server) as client:
        server.answers = (first, ticket(server), http(200), ticket(server), http(200))
        for _ in range(2):
            assert await client.upload("cat.jpg", b"cat", "image/jpeg") == "u2"
    tickets = ["POST /api/v3/media/uploads", "PUT /put?signature=s3cret"]
    assert server.heads == ["POST /api/v3/media/upload/binary", *tickets, *tickets]
    assert json.loads(server.requests[1].split(b"\r\n\r\n", 1)[1]) == {
        "filename": "cat.jpg",
        "size": 3,
        "content_type": "image/jpeg",
    }
    put = server.requests[2]
    assert put.endswith(b"\r\n\r\ncat")
    assert b"x-kind: photo" in put.lower()
    assert b"content-type: image/jpeg" in put.lower()
    assert KEY.encode() not in put


async def test_an_upload_may_be_answered_with_a_plain_url() -> None:
    async with RawServer(http(200, '{"data": {"url": "u1"}}')) as server, client_of(server) as client:
        assert await client.upload("cat.jpg", b"cat", "image/jpeg") == "u1"


async def test_an_upload_that_neither_way_takes_is_told_by_the_refusal_that_says_why() -> None:
    too_big = answer(None, status=400, code=400, message="larger than 20 MB")
    for answers in ([too_big, GONE], [GONE, too_big]):
        async with RawServer(*answers) as server, client_of(server) as client:
            with pytest.raises(errors.InvalidRequestError, match="larger than 20 MB") as caught:
                await client.upload("cat.jpg", b"cat", "image/jpeg")
            assert len(server.requests) == 2
        holds_no_key(caught.value)


@pytest.mark.parametrize(
    ("put", "kind"),
    [
        (http(503), errors.UnavailableError),
        (drop, errors.UnavailableError),
        (http(403), errors.InvalidRequestError),
    ],
)
async def test_bytes_that_a_ticket_does_not_take_are_an_error_without_its_signature(
    put: Answer, kind: type[errors.RestyleError]
) -> None:
    async with RawServer() as server, client_of(server) as client:
        server.answers = (GONE, ticket(server), put)
        with pytest.raises(errors.RestyleError) as caught:
            await client.upload("cat.jpg", b"cat", "image/jpeg")
    assert type(caught.value) is kind
    assert "s3cret" not in str(caught.value)


async def test_a_busy_upload_is_not_tried_the_other_way() -> None:
    async with RawServer(http(503)) as server, client_of(server) as client:
        with pytest.raises(errors.UnavailableError):
            await client.upload("cat.jpg", b"cat", "image/jpeg")
        assert len(server.requests) == 1


async def test_times_of_a_billings_search_are_written_in_the_other_form_where_one_is_refused() -> None:
    refused = answer(None, status=400, code=400, message="start_time: not a time")
    page = answer({"page": 1, "items": []})
    start = datetime(2026, 1, 1, 13, tzinfo=UTC)
    async with RawServer(refused, page, page) as server, client_of(server) as client:
        for _ in range(2):
            await client.billings(start_time=start)
    bodies = [json.loads(request.split(b"\r\n\r\n", 1)[1]) for request in server.requests]
    rfc3339 = "2026-01-01T13:00:00Z"
    assert [body["start_time"] for body in bodies] == ["1767272400000", rfc3339, rfc3339]


async def test_the_price_is_the_discounted_one_also_where_that_is_nothing() -> None:
    async with (
        RawServer(answer({"price": 0.05, "discounted_price": 0})) as server,
        client_of(server) as client,
    ):
        assert await client.price(REQUEST) == Quote(usd=0.0, currency="USD")


async def test_history_sends_its_arguments_and_none_by_default() -> None:
    page = {"page": 2, "items": [{**CREATED, "inputs": {"seed": 7}}, {**CREATED, "id": "p2"}]}
    async with (
        RawServer(answer(page), answer({"page": 1, "items": None})) as server,
        client_of(server) as client,
    ):
        after = datetime(2026, 1, 1, 13, tzinfo=UTC).astimezone()
        found = await client.history(
            page=2, page_size=50, model=MODEL, created_after=after, include_inputs=True
        )
        assert [item.input for item in found.items] == [{"seed": 7}, None]
        assert (await client.history()).items == []
    bodies = [json.loads(request.split(b"\r\n\r\n", 1)[1]) for request in server.requests]
    assert bodies == [
        {
            "page": 2,
            "page_size": 50,
            "model": MODEL,
            "created_after": "2026-01-01T13:00:00Z",
            "include_inputs": True,
        },
        {"page": 1, "page_size": 100},
    ]


async def test_a_history_that_refuses_to_tell_inputs_is_read_without_them_from_then_on() -> None:
    refused = answer(None, status=400, code=400, message="unknown field include_inputs")
    page = answer({"page": 1, "items": [CREATED]})
    async with RawServer(refused, page, page) as server, client_of(server) as client:
        for _ in range(2):
            assert [item.id for item in (await client.history(include_inputs=True)).items] == ["p1"]
    bodies = [json.loads(request.split(b"\r\n\r\n", 1)[1]) for request in server.requests]
    assert ["include_inputs" in body for body in bodies] == [True, False, False]


async def test_a_history_that_is_known_to_tell_no_inputs_is_not_asked_for_them() -> None:
    page = answer({"page": 1, "items": [CREATED]})
    traits = ApiTraits(history_has_inputs=False)
    async with RawServer(page) as server, client_of(server, traits=traits) as client:
        await client.history(include_inputs=True)
        async with ProbingClient(KEY, server.url, traits=traits) as probing:  # which finds it out anew
            await probing.history(include_inputs=True)
    assert [b"include_inputs" in request for request in server.requests] == [False, True]


async def test_a_history_that_is_refused_for_another_reason_is_asked_for_inputs_again() -> None:
    refused = answer(None, status=400, code=400, message="bad request")
    page = answer({"page": 1, "items": [CREATED]})
    async with RawServer(refused, page, page, refused, refused) as server, client_of(server) as client:
        for _ in range(2):
            assert (await client.history(include_inputs=True)).items
        with pytest.raises(errors.InvalidRequestError):
            await client.history(include_inputs=True)
    bodies = [json.loads(request.split(b"\r\n\r\n", 1)[1]) for request in server.requests]
    assert ["include_inputs" in body for body in bodies] == [True, False, True, True, False]


# The key


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_never_carries_a_call_or_the_key_away(status: int) -> None:
    async with (
        RawServer(answer(CREATED)) as thief,
        RawServer(http(status, Location=f"{thief.url}/api")) as server,
        client_of(server) as client,
    ):
        for call in CALLS.values():
            with pytest.raises((errors.UnavailableError, errors.AmbiguousSubmissionError)):
                await call(client)
        assert not thief.requests
        assert len(server.requests) == len(CALLS)


async def test_downloads_never_carry_the_key_not_even_to_base_url_or_after_a_redirect() -> None:
    async with (
        RawServer(http(200, "picture")) as other,
        RawServer(answer(CREATED, Set_Cookie="a=b"), http(302, Location=f"{other.url}/moved")) as server,
        client_of(server) as client,
    ):
        await client.result("p1")
        assert await client.download(f"{server.url}/out/1.jpeg") == b"picture"
        assert await client.download(f"{other.url}/out/1.jpeg") == b"picture"
    assert KEY.encode() in server.requests[0]
    for request in (server.requests[1], *other.requests):
        assert KEY.encode() not in request
        assert b"authorization" not in request.lower()
        assert b"transfer-encoding" not in request.lower()  # a GET with a body is refused by some


async def test_an_error_that_echoes_the_key_does_not_spread_it() -> None:
    message = f"no luck with Authorization: Bearer {KEY}, key={KEY}"
    async with (
        RawServer(answer(None, status=401, code=401, message=message)) as server,
        client_of(server) as client,
    ):
        for call in CALLS.values():
            with pytest.raises(errors.AuthenticationError) as caught:
                await call(client)
            assert "no luck with Authorization: Bearer *** key=***" in str(caught.value)
            holds_no_key(caught.value)


async def test_a_client_shows_no_key_and_cannot_be_pickled() -> None:
    async with WaveSpeedClient(SecretStr(KEY)) as client:
        assert KEY not in f"{client!r} {client} {vars(client)} {vars(client._transport)}"
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(client)


async def test_logs_hold_neither_the_key_nor_a_signature(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with RawServer(answer(CREATED)) as server, client_of(server) as client:
            await client.submit(REQUEST, webhook_url="https://example.com/?token=signature")
            await client.download(f"{server.url}/1.jpeg?X-Amz-Signature=signature")
    assert "/1.jpeg" in caplog.text
    assert KEY not in caplog.text
    assert "signature" not in caplog.text


async def test_a_proxy_never_gets_what_is_meant_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(http(502)) as proxy, RawServer(answer(CREATED)) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client_of(server) as client:
            await client.submit(REQUEST)
        assert not proxy.requests


async def test_a_proxy_is_asked_for_a_tunnel_and_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(http(403)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with WaveSpeedClient(KEY, "https://api.example.com") as client:
            with pytest.raises(errors.UnavailableError) as caught:
                await client.submit(REQUEST)
        assert not caught.value.sent
        assert proxy.heads == ["CONNECT api.example.com:443"]
        assert KEY.encode() not in proxy.requests[0]
        holds_no_key(caught.value)


async def test_outputs_and_uploads_go_through_the_proxy_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(http(403)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with WaveSpeedClient(KEY, "https://api.example.com") as client:
            with pytest.raises(errors.OutputError):
                await client.download("https://cdn.example.com/1.jpeg")
            assert not await client.is_gone("https://cdn.example.com/1.jpeg")
        assert proxy.heads == ["CONNECT cdn.example.com:443"] * 2


@pytest.mark.parametrize(
    "url",
    [
        "http://api.wavespeed.ai",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://10.0.0.1",
        "ftp://127.0.0.1",
        "https://user:password@api.wavespeed.ai",
        "https://127.0.0.1@example.com",
        "https://api.wavespeed.ai/?key=x",
        "https://api.wavespeed.ai/#x",
        "https://",
        "api.wavespeed.ai",
        "https://api.wavespeed.ai:port",
        "",
    ],
)
def test_a_base_url_that_is_no_safe_place_for_the_key_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        WaveSpeedClient(KEY, url)
    assert "password" not in str(caught.value).replace("a password", "")
    assert "key=x" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.wavespeed.ai/",
        "http://127.0.0.1:8080",
        "http://127.9.9.9",
        "http://[::1]:80",
        "http://localhost",
    ],
)
async def test_a_base_url_is_https_or_loopback(url: str) -> None:
    async with WaveSpeedClient(KEY, url) as client:
        assert not client.base_url.endswith("/")


@pytest.mark.parametrize("key", ["", "  ", "two words", "naïve", "line\nbreak", "nul\0"])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        WaveSpeedClient(key)
    assert not key.strip() or key not in str(caught.value)


# Against the emulator


def a_photo() -> bytes:
    photo = BytesIO()
    Image.effect_noise((320, 240), 80).convert("RGB").save(photo, "JPEG")
    return photo.getvalue()


async def completed(client: WaveSpeedClient, prediction_id: str) -> Any:
    for _ in range(200):
        if (prediction := await client.result(prediction_id)).terminal:
            return prediction
        await asyncio.sleep(0.05)
    raise TimeoutError


async def test_a_picture_goes_all_the_way(emulator: Emulator) -> None:
    async with WaveSpeedClient(KEY, emulator.url) as client:
        balance = await client.balance()
        url = await client.upload("photo.jpg", a_photo(), "image/jpeg")
        request = ReduxRequest(image=url, size="256*320", seed=7, num_images=2, output_format="png")
        price = await client.price(request)
        started = datetime.now(UTC) - timedelta(minutes=1)
        submitted = await client.submit(request)
        prediction = await completed(client, submitted.id)
        assert (prediction.status, prediction.model) == ("completed", MODEL)
        assert prediction.inference_ms
        pictures = [Image.open(BytesIO(await client.download(output))) for output in prediction.outputs]
        assert [(picture.format, picture.size) for picture in pictures] == [("PNG", (256, 320))] * 2
        assert await client.balance() == pytest.approx(balance - price.usd)
        page = await client.history(model=MODEL, created_after=started, include_inputs=True)
        assert [(item.id, (item.input or {}).get("seed")) for item in page.items] == [(submitted.id, 7)]
        assert await client.delete([submitted.id]) == 1
        assert (await client.webhook_secret()).get_secret_value().startswith("whsec_")
    assert emulator.ledger()["billed"] == 1
    assert not emulator.ledger()["keys_seen_on_cdn"]


async def test_sync_mode_with_base64_outputs_brings_the_pictures_with_the_answer(emulator: Emulator) -> None:
    async with WaveSpeedClient(KEY, emulator.url) as client:
        url = await client.upload("photo.jpg", a_photo(), "image/jpeg")
        options: dict[str, Any] = {"image": url, "size": "256*256", "seed": 7, "output_format": "webp"}
        inline = await client.submit(
            ReduxRequest(**options, enable_sync_mode=True, enable_base64_output=True)
        )
        assert inline.outputs == ["inline:0"]
        by_url = await client.submit(ReduxRequest(**options, enable_sync_mode=True))
        assert inline.inline("inline:0") == await client.download(by_url.outputs[0])
