"""A job against each way in which the API may answer, over sockets: what becomes of it, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed import errors
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.inspect.costs import costs
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.clients import CREATED
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.raw_server import RawServer, answer

FAILS = {"on": "prediction", "fault": "failed"}
REFUSED = {"on": "submit", "fault": "refused", "status": 400, "message": "seed: no luck"}


def side_car(output: Path) -> dict[str, Any]:
    (path,) = output.rglob("metadata.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    "dialects",
    [
        ("nsfw-list",),
        ("nsfw-boolean", "outputs-string"),
        ("outputs-objects", "upload-tickets-only"),
        ("upload-binary-only", "price-unit"),
        ("upload-url", "price-legacy-only"),
        ("submit-error-with-task",),
        ("submit-error-with-task", "error-is-task", "text-in-errors", "result-says-inputs"),
        ("strict",),
    ],
    ids="+".join,
)
async def test_a_picture_is_stored_and_billed_once(
    emulator: Emulator, tmp_path: Path, dialects: tuple[str, ...]
) -> None:
    emulator.dialects(*dialects)
    restyled = await restyle(emulator.url, str(tmp_path))
    assert len(restyled.outputs) == 1
    (created,) = emulator.ledger()["predictions"]
    assert (created["billed"], restyled.prediction_id) == (True, created["id"])
    flag = False if any(name.startswith("nsfw-") or name == "strict" for name in dialects) else None
    assert side_car(tmp_path)["prediction"]["has_nsfw_contents"] == [flag]
    assert restyled.cost_usd == 0.025


@pytest.mark.parametrize("dialects", [(), ("error-with-task",), ("error-is-task",), ("failed-without-code",)])
@pytest.mark.parametrize(("code", "submissions"), [(1200, 1), (5000, 2), (1406, 2)])
async def test_a_failure_is_believed_and_tried_again_where_that_may_help(
    emulator: Emulator, tmp_path: Path, dialects: tuple[str, ...], code: int, submissions: int
) -> None:
    emulator.dialects(*dialects)
    emulator.faults([{**FAILS, "code": code}])
    if submissions == 1:
        with pytest.raises(errors.PredictionFailedError, match="code 1200"):
            await restyle(emulator.url, str(tmp_path))
    else:
        await restyle(emulator.url, str(tmp_path))
    assert [one["billed"] for one in emulator.ledger()["predictions"]] == [False, True][:submissions]


@pytest.mark.parametrize(
    "dialects",
    [
        ("text-in-error",),
        ("text-in-detail",),
        ("text-in-detail-list",),
        ("text-in-errors",),
        ("refusals-enveloped",),
        ("refusals-enveloped", "text-in-error"),
    ],
    ids="+".join,
)
async def test_a_refusal_says_why_and_is_not_searched_for(
    emulator: Emulator, tmp_path: Path, dialects: tuple[str, ...]
) -> None:
    emulator.dialects(*dialects)
    emulator.faults([REFUSED])
    with pytest.raises(errors.InvalidRequestError, match="seed: no luck") as caught:
        await restyle(emulator.url, str(tmp_path))
    assert caught.value.field == "seed"
    assert emulator.ledger()["calls"]["history"] == 0


@pytest.mark.parametrize(
    "dialects",
    [(), ("credits-402",), ("credits-1407",), ("credits-1407-enveloped",), ("text-in-detail",)],
    ids="+".join,
)
async def test_an_empty_account_is_one_error(
    emulator: Emulator, tmp_path: Path, dialects: tuple[str, ...]
) -> None:
    emulator.dialects(*dialects)
    emulator.price(1000)
    with pytest.raises(errors.InsufficientCreditsError):
        await restyle(emulator.url, str(tmp_path))
    assert emulator.ledger()["calls"]["submit"] == 1


@pytest.mark.parametrize("dialect", ["unknown-is-400", "unknown-is-500"])
async def test_an_unknown_prediction_is_missing(emulator: Emulator, dialect: str) -> None:
    emulator.dialects(dialect, "text-in-error")
    async with WaveSpeedClient("key", emulator.url) as client:
        with pytest.raises(errors.NotFoundError):
            await client.result("nobody")


@pytest.mark.parametrize("dialect", ["price-unit", "price-legacy-only"])
async def test_a_price_is_that_of_all_pictures(emulator: Emulator, dialect: str) -> None:
    emulator.dialects(dialect)
    async with WaveSpeedClient("key", emulator.url) as client:
        for count in (1, 3):
            request = ReduxRequest(image="https://example.com/cat.jpg", num_images=count)
            assert (await client.price(request)).usd == pytest.approx(0.025 * count)


async def test_a_deletion_may_not_say_how_many(emulator: Emulator) -> None:
    emulator.dialects("delete-null")
    async with WaveSpeedClient("key", emulator.url) as client:
        assert await client.delete(["nobody"]) is None


@pytest.mark.parametrize(
    "dialects",
    [
        ("billing-millionths", "billing-milliseconds"),
        ("billing-millionths", "billing-rfc3339", "billing-total"),
        ("billing-final-price", "billing-milliseconds"),
        ("billing-millionths", "billing-final-price", "billing-total"),
    ],
    ids="+".join,
)
async def test_costs_are_the_same_in_every_way_of_billing(
    emulator: Emulator, tmp_path: Path, dialects: tuple[str, ...]
) -> None:
    emulator.dialects(*dialects)
    emulator.faults([{**FAILS, "code": 5000}])
    store = directory_store(tmp_path)
    await restyle(emulator.url, store)
    await restyle(emulator.url, store, params=SMALL.model_copy(update={"num_images": 2}))
    async with WaveSpeedClient("key", emulator.url) as client:
        url = await client.upload("a.jpg", PHOTO.read_bytes(), "image/jpeg")
        foreign = await client.submit(ReduxRequest(image=url, size="256*256", seed=1))
        report = await costs(client, store)
    assert (report.agreed, report.billed_usd, report.differ.predictions) == (2, 0.075, 0)
    assert [one.belongs_to for one in report.refunded.items] == ["earlier attempt"]
    (other,) = report.without_side_car["not of this output"].items
    assert (other.prediction_id, other.billed_usd) == (foreign.id, 0.025)


@pytest.mark.parametrize("enveloped", [False, True])
async def test_a_submission_that_was_tried_too_often_is_searched_for_before_the_next(
    emulator: Emulator, tmp_path: Path, enveloped: bool
) -> None:
    emulator.faults([{**REFUSED, "code": 1406, "enveloped": enveloped}])
    await restyle(emulator.url, str(tmp_path))
    ledger = emulator.ledger()
    assert (ledger["calls"]["submit"], ledger["billed"]) == (2, 1)
    assert ledger["calls"]["history"]


async def test_paid_outputs_that_cannot_be_read_leave_the_job_open_and_are_shown(tmp_path: Path) -> None:
    completed = {**CREATED, "status": "completed", "outputs": [{"uri": "https://example.com/1?sig=s3cret"}]}
    price = answer({"price": 0.025})
    async with RawServer(price, answer(CREATED), answer(completed)) as server:
        with pytest.raises(errors.OutputError, match=r'"uri": "https://example.com/1"') as caught:
            await restyle(server.url, str(tmp_path), "https://example.com/cat.jpg")
        assert not caught.value.retryable
        assert "s3cret" not in caught.value.message
        assert sum(head.startswith(f"POST /api/v3/{MODEL}") for head in server.heads) == 1
    assert len(list(tmp_path.rglob("*.prediction.json"))) == 1
    assert not list(tmp_path.rglob("failed/*"))


async def test_a_status_that_is_not_known_leaves_the_job_open_and_is_shown(tmp_path: Path) -> None:
    succeeded = answer({**CREATED, "status": "succeeded"})
    impatient = QUICK.model_copy(update={"poll_timeout_seconds": 1.0})
    async with RawServer(answer({"price": 0.025}), answer(CREATED), succeeded) as server:
        with pytest.raises(errors.PredictionTimeoutError, match="its status is 'succeeded', which is not"):
            await restyle(server.url, str(tmp_path), "https://example.com/cat.jpg", settings=impatient)
    assert len(list(tmp_path.rglob("*.prediction.json"))) == 1
