"""Reading the account's history to its end, however the API divides it into pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import UnavailableError
from prefect_wavespeed.ledger.history import History, LostSubmission
from prefect_wavespeed.ledger.known_predictions import KnownPredictions
from prefect_wavespeed.ledger.ledger import Ledger
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


def page(*items: dict[str, Any], **more: Any) -> bytes:
    return answer({"page": 1, "items": list(items), **more})


async def search(server: RawServer, tmp_path: Any) -> Prediction | None:
    lost = LostSubmission([LOST], CLAIMED, [CLAIMED], timedelta(seconds=150))
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
        ([page()], 1),
    ],
    ids=["an empty page", "has_more is false", "a page older than the claim", "an empty account"],
)
async def test_it_ends_with(pages: list[bytes], calls: int, tmp_path: Any) -> None:
    async with RawServer(*pages, *pages * 4) as server:
        assert await search(server, tmp_path) is None
        looks = 5  # at once, and four times more
        assert len(server.requests) == calls * looks


async def test_what_is_created_meanwhile_moves_a_page_back_and_ends_nothing(tmp_path: Any) -> None:
    pages = (page(item(1), item(2)), page(item(1), item(2)), page(item(3, LOST)))
    async with RawServer(*pages) as server:
        found = await search(server, tmp_path)
    assert found
    assert found.id == "p3"


async def test_one_that_repeats_itself_for_ever_is_not_believed(tmp_path: Any) -> None:
    async with RawServer(page(item(1))) as server:
        with pytest.raises(UnavailableError, match="the same page again and again"):
            await search(server, tmp_path)
        assert len(server.requests) < 10
