"""A submission whose answer was lost is found again with whatever the API tells.

Where it tells nothing, nothing is sent until a person has looked it up.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import (
    ConfigurationError,
    InvalidRequestError,
    PredictionFailedError,
    PredictionTimeoutError,
    UnsureSubmissionError,
)
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.settling.resolution import Resolution
from prefect_wavespeed.settling.settle import settle
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from prefect_wavespeed.storage.open_store import open_store
from tests.support.emulator_client import Api
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.in_process import restyle as run_command
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended

LOST = [{"on": "submit", "fault": "drop_after"}]
NEVER_ARRIVED = [{"on": "submit", "fault": "drop_before"}]
SILENT = ("history-without-inputs", "result-without-inputs")

TELLING: list[tuple[str, ...]] = [
    (),
    ("history-says-inputs",),
    ("result-without-inputs",),
    ("image-moved",),
    ("history-refuses-inputs",),
    ("history-without-inputs", "result-says-inputs"),
    ("history-without-inputs", "image-moved"),
    ("image-moved", "result-without-inputs", "history-says-inputs"),
]


def submit_foreign(emulator: Emulator, count: int = 3) -> None:
    """Predictions of somebody else on the same account, at the same time."""
    api = Api(emulator.url)
    image = api.upload()
    for seed in range(count):
        assert api.submit(image=image, seed=seed).status_code == 200


@pytest.mark.parametrize("dialects", TELLING, ids=lambda dialects: " + ".join(dialects) or "as recorded")
async def test_a_lost_submission_is_found_whichever_call_tells_what_was_asked_for(
    dialects: tuple[str, ...], emulator: Emulator, tmp_path: Path
) -> None:
    emulator.dialects(*dialects)
    submit_foreign(emulator)
    emulator.faults(LOST)
    restyled = await restyle(emulator.url, str(tmp_path))
    assert len(emulator.ledger()["predictions"]) == 3 + 1
    assert restyled.prediction_id == emulator.ledger()["predictions"][-1]["id"]
    assert not list(tmp_path.glob("open/*/*"))


@pytest.mark.parametrize("dialects", TELLING[-3:], ids=" + ".join)
async def test_predictions_of_others_do_not_keep_a_job_from_being_submitted_again(
    dialects: tuple[str, ...], emulator: Emulator, tmp_path: Path
) -> None:
    emulator.dialects(*dialects)
    submit_foreign(emulator)
    emulator.faults(NEVER_ARRIVED)
    await restyle(emulator.url, str(tmp_path))
    assert len(emulator.ledger()["predictions"]) == 3 + 1


async def test_with_a_seed_of_ones_own_a_moved_image_is_no_proof(emulator: Emulator, tmp_path: Path) -> None:
    emulator.dialects("image-moved")
    submit_foreign(emulator)  # with the seeds 0, 1 and 2
    emulator.faults(LOST)
    with pytest.raises(UnsureSubmissionError) as caught:
        await restyle(emulator.url, str(tmp_path), params=SMALL.model_copy(update={"seed": 1}))
    _, same_seed, _, ours = emulator.ledger()["predictions"]
    assert set(caught.value.candidates) == {same_seed["id"], ours["id"]}


async def test_where_nothing_tells_the_job_stays_open_and_the_message_says_what_it_may_be(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.dialects(*SILENT)
    emulator.faults(LOST)
    for _ in range(2):
        with pytest.raises(UnsureSubmissionError, match="restyle resolve") as caught:
            await restyle(emulator.url, str(tmp_path))
        (prediction,) = emulator.ledger()["predictions"]
        assert caught.value.candidates == (prediction["id"],)
        assert prediction["id"] in caught.value.message
        files = {path.name for path in tmp_path.glob("open/*/*")}
        assert files == {"1.claim.json", "1.candidates.json", "1.error.json"}
    settled = await settle_all(emulator, tmp_path)
    assert settled.unsure == 1
    assert prediction["id"] in settled.problems[0].message
    assert not list(tmp_path.glob("failed/*"))


async def test_predictions_that_the_ledger_knows_are_not_taken_for_a_lost_one(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.dialects(*SILENT)
    await asyncio.gather(*(restyle(emulator.url, str(tmp_path), variant=n) for n in range(1, 4)))
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200}])
    with pytest.raises(PredictionFailedError):
        await restyle(emulator.url, str(tmp_path), variant=4)
    emulator.faults([{"on": "prediction", "fault": "stuck"}])
    impatient = QUICK.model_copy(update={"poll_timeout_seconds": 0.5})
    with pytest.raises(PredictionTimeoutError):
        await restyle(emulator.url, str(tmp_path), variant=5, settings=impatient)
    emulator.faults(NEVER_ARRIVED)
    await restyle(emulator.url, str(tmp_path))
    assert len(emulator.ledger()["predictions"]) == 6


async def test_a_webhook_that_names_the_job_tells(emulator: Emulator, tmp_path: Path) -> None:
    emulator.dialects(*SILENT)
    emulator.faults(LOST)
    inbox = WebhookInbox()
    running = asyncio.create_task(restyle(emulator.url, str(tmp_path), inbox=inbox))
    while not (created := emulator.ledger()["predictions"]):
        await asyncio.sleep(0.02)
    job = await make_job(str(PHOTO), SMALL, 0, open_store(str(tmp_path)))
    inbox.deliver(Prediction.model_validate({"id": created[0]["id"], "status": "completed"}), job.key)
    assert (await running).prediction_id == created[0]["id"]
    assert len(emulator.ledger()["predictions"]) == 1


async def test_a_prediction_that_a_person_names_is_stored_and_not_paid_again(
    emulator: Emulator, tmp_path: Path
) -> None:
    key, prediction_id = await left_in_doubt(emulator, tmp_path)
    with pytest.raises(ConfigurationError, match="may still be submitting"):
        await resolution(emulator, tmp_path, key, prediction_id)
    await asyncio.sleep(QUICK.lease_seconds + 1)
    await resolution(emulator, tmp_path, key, prediction_id)
    assert (await settle_all(emulator, tmp_path)).stored == 1
    restyled = await restyle(emulator.url, str(tmp_path))
    assert (restyled.cached, restyled.prediction_id) == (True, prediction_id)
    assert len(emulator.ledger()["predictions"]) == 1
    assert not list(tmp_path.glob("open/*/*"))
    with pytest.raises(ConfigurationError, match="not open"):
        await resolution(emulator, tmp_path, key, None)


@pytest.mark.e2e
async def test_what_a_person_found_not_to_be_submitted_is_submitted_by_the_next_run(
    emulator: Emulator, tmp_path: Path
) -> None:
    submit_foreign(emulator, 1)
    key, _ = await left_in_doubt(emulator, tmp_path, NEVER_ARRIVED)
    await asyncio.sleep(QUICK.lease_seconds + 1)
    await resolution(emulator, tmp_path, key, None)
    assert (await settle_all(emulator, tmp_path)).not_submitted == 1
    restyled = await restyle(emulator.url, str(tmp_path))
    assert len(emulator.ledger()["predictions"]) == 2
    attempts = json.loads(Path(restyled.metadata_uri).read_text())["attempts"]
    assert len(attempts) == 2
    assert not list(tmp_path.glob("open/*/*"))


@pytest.mark.e2e
async def test_a_prediction_that_cannot_be_the_jobs_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    other = await restyle(emulator.url, str(tmp_path), variant=1)
    submit_foreign(emulator, 1)
    foreign = emulator.ledger()["predictions"][-1]["id"]
    lost_key, _ = await left_in_doubt(emulator, tmp_path, variant=2)
    key, _ = await left_in_doubt(emulator, tmp_path, NEVER_ARRIVED)
    await asyncio.sleep(QUICK.lease_seconds + 1)
    with pytest.raises(InvalidRequestError, match="does not know it"):
        await resolution(emulator, tmp_path, key, "no-such-prediction")
    with pytest.raises(InvalidRequestError, match="a job has it already"):
        await resolution(emulator, tmp_path, key, other.prediction_id)
    emulator.dialects()  # now the result call tells
    with pytest.raises(InvalidRequestError, match="something else"):
        await resolution(emulator, tmp_path, key, foreign)
    with pytest.raises(InvalidRequestError, match="WaveSpeed says that it was submitted"):
        await resolution(emulator, tmp_path, lost_key, None)
    assert not list(tmp_path.glob("open/*/*.prediction.json"))


async def left_in_doubt(
    emulator: Emulator, output: Path, faults: list[dict[str, Any]] | None = None, variant: int = 0
) -> tuple[str, str]:
    """Leave a job in doubt; return its key and the newest prediction."""
    emulator.dialects(*SILENT)
    emulator.faults(faults or LOST)
    with pytest.raises(UnsureSubmissionError) as caught:
        await restyle(emulator.url, str(output), variant=variant)
    assert caught.value.job_key
    return caught.value.job_key, emulator.ledger()["predictions"][-1]["id"]


async def resolution(emulator: Emulator, output: Path, key: str, prediction_id: str | None) -> None:
    async with WaveSpeedClient("test-key", emulator.url, submit_timeout=1) as client:
        resolution = Resolution(client, open_store(str(output)), key, QUICK)
        if prediction_id:
            await resolution.is_prediction(prediction_id)
        else:
            await resolution.is_not_submitted()


async def settle_all(emulator: Emulator, output: Path) -> Any:
    async with WaveSpeedClient("test-key", emulator.url, submit_timeout=1) as client:
        return await settle(client, open_store(str(output)), RunInfo(package_version="test"), QUICK)


def test_the_command_tells_a_person_what_to_do_and_records_what_came_of_it(
    emulator: Emulator, tmp_path: Path, prefect: PrefectServer
) -> None:
    key, prediction_id = asyncio.run(left_in_doubt(emulator, tmp_path))
    env = {
        "WAVESPEED_API_KEY": "test-key",
        "WAVESPEED_BASE_URL": emulator.url,
        "RESTYLE_LEASE_SECONDS": f"{QUICK.lease_seconds}",
        "RESTYLE_SUBMIT_TIMEOUT_SECONDS": "1",
        "RESTYLE_RECONCILE_SECONDS": "1",
    }

    def run(*arguments: str) -> Ended:
        return run_command(*arguments, "--out", str(tmp_path), prefect=prefect, env=env)

    shown = run("show", key[:8]).stdout
    assert "not known whether attempt 1 was submitted" in shown
    assert f"may be      {prediction_id}" in shown
    assert f"restyle resolve {key[:16]} --out {tmp_path} --not-submitted" in shown
    for refused in ([], ["--prediction", prediction_id, "--not-submitted"]):
        ended = run("resolve", key[:8], *refused)
        assert (ended.status, ended.stdout) == (1, "")
        assert "give either --prediction ID or --not-submitted" in ended.stderr
    assert "no such job" in run("resolve", "deadbeef", "--not-submitted").stderr
    time.sleep(QUICK.lease_seconds + 1)
    ended = run("resolve", key[:8], "--prediction", prediction_id, "--json")
    assert (ended.status, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["job_key"] == key
    assert "is submitted" in run("show", key[:8]).stdout
    assert run("settle").status == 0
    assert json.loads(run("show", key[:8], "--json").stdout)["status"] == "done"
    assert len(emulator.ledger()["predictions"]) == 1
