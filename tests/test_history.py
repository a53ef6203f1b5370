"""Reading the account's history to its end, however the API divides it into pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import UnavailableError, UnsureSubmissionError
from prefect_wavespeed.ledger.history import History, LostSubmission
from prefect_wavespeed.ledger.known_predictions import KnownPredictions
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.ledger.records import Record
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.raw_server import RawServer, answer

CLAIMED = datetime(2026, 1, 2, 12, tzinfo=UTC)
LOST = ReduxRequest(image="https://bucket.example/lost.jpg", seed=7)


def item(number: int, request: ReduxRequest | None = None, hours: float = 0) -> dict[str, Any]:
    asked = request or LOST.model_copy(update={"seed": 1000 + number})
    return {
        "id": f"p{number}",
        "model": MODEL,
        "status": "completed",
        "created_at": (CLAIMED + timedelta(seconds=5, hours=hours)).isoformat(),
        "input": asked.model_dump(),
    }


def silent(number: int, **more: Any) -> dict[str, Any]:
    return {**item(number), "input": None, **more}


def page(*items: Any, **more: Any) -> bytes:
    return answer({"page": 1, "items": list(items), **more})


async def search(server: RawServer, tmp_path: Any, **more: Any) -> Prediction | None:
    lost = LostSubmission([LOST], CLAIMED, [CLAIMED], timedelta(seconds=150), job_key="f" * 64, **more)
    async with WaveSpeedClient("test-key", server.url) as client:
        history = History(client, KnownPredictions(Ledger(directory_store(tmp_path))))
        return await history.search(lost, seconds=0.0)


async def test_a_short_page_is_not_the_last_one(tmp_path: Any) -> None:
    async with RawServer(page(item(1), item(2)), page(item(3)), page(item(4, LOST))) as server:
        found = await search(server, tmp_path)
    assert found
    assert found.id == "p4"


@pytest.mark.parametrize(
    ("pages", "calls"),
    [
        ([page(item(1)), page()], 2),
        ([page(item(1), has_more=False)], 1),
        ([page(item(1), item(2, hours=-3)), page(item(3, hours=-3))], 2),
        ([page(), page()], 2),  # asked once more without a filter
    ],
    ids=["an empty page", "has_more is false", "a page older than the claim", "an empty account"],
)
async def test_it_ends_with(pages: list[bytes], calls: int, tmp_path: Any) -> None:
    async with RawServer(*pages, *pages * 4) as server:
        assert await search(server, tmp_path) is None
        looks = 5  # at once, and four times more
        assert len(server.requests) == calls * looks


OURS = item(7, LOST)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        "p7",
        [],
        {},
        {**OURS, "id": None},
        {**OURS, "id": "../7", "created_at": "yesterday"},
        {**OURS, "id": "", "input": None},
        {**OURS, "id": None, "input": [LOST.model_dump()]},
    ],
)
async def test_an_item_without_an_id_that_may_be_the_lost_one_leaves_doubt_and_hides_no_other(
    odd: Any, tmp_path: Any
) -> None:
    async with RawServer(page(odd, item(1), odd, OURS)) as server:
        found = await search(server, tmp_path)
        assert found
        assert found.id == "p7"
    async with RawServer(*[page(item(1), odd, item(2)), page(odd), page()] * 5) as server:
        with pytest.raises(UnsureSubmissionError, match="restyle resolve") as caught:
            await search(server, tmp_path)
        assert len(server.requests) == 3 * 5
    (candidate,) = caught.value.candidates
    assert candidate.startswith("an item without an id: ")


@pytest.mark.parametrize(
    "odd",
    [
        {**item(7), "id": None},
        {**item(7), "id": {}, "created_at": None},
        {**silent(7), "id": "", "created_at": (CLAIMED - timedelta(minutes=8)).isoformat()},
        {**OURS, "id": None, "status": "failed"},
        {"model": "somebody/else"},
    ],
    ids=["other inputs", "at an unknown time", "another time", "failed", "another model"],
)
async def test_an_item_without_an_id_that_cannot_be_the_lost_one_leaves_none(odd: Any, tmp_path: Any) -> None:
    async with RawServer(*[page(odd, item(1)), page()] * 5) as server:
        assert await search(server, tmp_path) is None


async def test_a_prediction_that_may_be_listed_without_its_id_is_not_lost(tmp_path: Any) -> None:
    ledger = Ledger(directory_store(tmp_path))
    for odd, is_sure in (
        (None, False),
        ({**OURS, "id": None}, False),
        (item(1, hours=-3) | {"id": 0.5}, True),
    ):
        async with (
            RawServer(page(odd, item(2)), page()) as server,
            WaveSpeedClient("test-key", server.url) as client,
        ):
            history = History(client, KnownPredictions(ledger))
            if is_sure:
                assert await history.find("p7", CLAIMED) is None
            else:
                with pytest.raises(UnsureSubmissionError):
                    await history.find("p7", CLAIMED)


async def test_what_is_created_meanwhile_moves_a_page_back_and_ends_nothing(tmp_path: Any) -> None:
    pages = (page(item(1), item(2)), page(item(1), item(2)), page(item(3, LOST)))
    async with RawServer(*pages) as server:
        found = await search(server, tmp_path)
    assert found
    assert found.id == "p3"


async def test_one_that_repeats_itself_for_ever_is_not_believed(tmp_path: Any) -> None:
    async with RawServer(page(item(1))) as server:
        with pytest.raises(UnavailableError, match="the same page over and over"):
            await search(server, tmp_path)
        assert len(server.requests) < 10


async def test_a_filter_that_is_not_understood_hides_nothing(tmp_path: Any) -> None:
    async with RawServer(page(), page(item(1), item(2, LOST)), page()) as server:
        found = await search(server, tmp_path)
        assert found
        assert found.id == "p2"
        assert b'"model"' in server.requests[0]
        assert b'"model"' not in server.requests[1]


async def test_a_candidate_that_the_result_call_does_not_know_leaves_doubt(tmp_path: Any) -> None:
    unknown = answer(None, status=404, code=404, message="not found")
    looks = [page(silent(1)), page(), unknown] * 5
    async with RawServer(*looks) as server:
        with pytest.raises(UnsureSubmissionError) as caught:
            await search(server, tmp_path)
    assert caught.value.candidates == ("p1",)


async def test_one_of_another_time_leaves_none(tmp_path: Any) -> None:
    early = silent(1, created_at=(CLAIMED - timedelta(minutes=8)).isoformat())
    async with RawServer(*[page(early), page()] * 5) as server:
        assert await search(server, tmp_path) is None
    answers = [page(early), page(), answer(early)] * 5
    async with RawServer(*answers) as server:
        with pytest.raises(UnsureSubmissionError):  # the clocks may be ten minutes apart
            await search(server, tmp_path, slack=timedelta(minutes=10))


@pytest.mark.parametrize("job_key", ["a" * 64, "f" * 64], ids=["another job's", "its own"])
async def test_what_another_job_has_recorded_is_not_taken_for_the_lost_one(
    job_key: str, tmp_path: Any
) -> None:
    record = Record(prediction_id="p1", submitted_at=None, quoted_usd=None, base_url="https://x")
    ledger = Ledger(directory_store(tmp_path))
    await ledger.record(job_key, 1, record)
    (tmp_path / "images" / f"odd-{'b' * 16}").mkdir(parents=True)
    (tmp_path / "images" / f"odd-{'b' * 16}" / "metadata.json").write_text('{"of": "another version"}')
    since = datetime.now(UTC) - timedelta(minutes=1)
    lost = LostSubmission([LOST], since, [CLAIMED], timedelta(seconds=150), job_key="f" * 64)
    async with (
        RawServer(*[page(item(1, LOST, hours=9999)), page()] * 20) as server,
        WaveSpeedClient("test-key", server.url) as client,
    ):
        found = await History(client, KnownPredictions(ledger)).search(lost, seconds=0.0)
    assert (found is not None) is (job_key == "f" * 64)
