"""Every way in which the API may answer, and everything that may go wrong with it.

Billed at most once, nothing paid lost, and every job ends or says what a person must do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.emulator.dialects import DIALECTS, DialectError, parse
from prefect_wavespeed.errors import (
    InsufficientCreditsError,
    InvalidRequestError,
    PredictionFailedError,
    RestyleError,
    UnsureSubmissionError,
)
from prefect_wavespeed.inspect.costs import costs
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.steps.run_job import make_job, run_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import open_store
from tests.support.emulator_client import Api
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, SMALL, restyle

TOGETHER = [
    ("strict",),
    ("strict", "history-without-inputs"),  # nothing tells what a prediction was asked for
    ("history-without-inputs", "result-without-inputs", "image-moved", "error-is-task"),
    ("history-refuses-inputs", "result-says-inputs", "unknown-is-500", "text-in-detail-list", "nsfw-boolean"),
    ("image-moved", "error-with-task", "submit-error-with-task", "credits-1407-enveloped", "outputs-objects"),
    ("refusals-enveloped", "failed-without-code", "results-limited", "upload-tickets-only", "price-unit"),
]
BATCH = 200


def is_silent(dialects: Sequence[str]) -> bool:
    """Whether nothing tells what a prediction was asked for."""
    spoken = set(dialects)
    in_history = not spoken & {"history-without-inputs", "history-refuses-inputs"}
    in_result = not spoken & {"result-without-inputs", "strict"} or "result-says-inputs" in spoken
    return not (in_history or in_result)


def packed() -> list[tuple[str, ...]]:
    """Each dialect once, in as few sets as can be spoken together and in which something tells."""
    packs: list[tuple[str, ...]] = []
    for name in DIALECTS:
        for number, pack in enumerate(packs):
            if not is_silent((*pack, name)) and can_be_spoken((*pack, name)):
                packs[number] = (*pack, name)
                break
        else:
            packs.append((name,))
    return packs


def can_be_spoken(names: Sequence[str]) -> bool:
    try:
        parse(list(names))
    except DialectError:
        return False
    return True


# Many at once in `make test`, and each alone in `make e2e`.
ALONE = [pytest.param((name,), marks=pytest.mark.e2e) for name in DIALECTS]
every_dialect = pytest.mark.parametrize("dialects", [(), *packed(), *TOGETHER, *ALONE], ids="+".join)


@every_dialect
async def test_one_job_after_another_whatever_goes_wrong(
    dialects: tuple[str, ...], emulator: Emulator, tmp_path: Path
) -> None:
    foreign = submit_foreign(emulator)
    emulator.dialects(*dialects)
    output = str(tmp_path)

    emulator.faults([{"on": "submit", "fault": "drop_after"}])
    if is_silent(dialects):
        with pytest.raises(UnsureSubmissionError, match="restyle resolve") as caught:
            await restyle(emulator.url, output)
        lost = emulator.ledger()["predictions"][-1]["id"]
        assert {*caught.value.candidates} == {*foreign, lost}
        await restyle(emulator.url, output, variant=9)  # the others go on
    else:
        assert not (await restyle(emulator.url, output)).cached
    assert mine(emulator, foreign) == Counter(completed=2 if is_silent(dialects) else 1)

    emulator.faults([{"on": "submit", "fault": "refused", "status": 400, "message": "bad size"}])
    with pytest.raises(InvalidRequestError, match="bad size"):
        await restyle(emulator.url, output, variant=1)

    emulator.faults([{"on": "prediction", "fault": "cancelled"}])
    with pytest.raises(PredictionFailedError, match="cancelled"):
        await restyle(emulator.url, output, variant=2)

    emulator.faults([{"on": "prediction", "fault": "failed", "code": 5000}])
    await restyle(emulator.url, output, variant=3)

    emulator.price(1_000.0)
    with pytest.raises(InsufficientCreditsError, match="top up"):
        await restyle(emulator.url, output, variant=4)
    emulator.price(0.025)

    billed = 2 + is_silent(dialects)
    assert mine(emulator, foreign) == Counter(completed=billed, cancelled=1, failed=1)
    assert len(list(tmp_path.glob("open/*/*.claim.json"))) == is_silent(dialects)
    async with WaveSpeedClient("test-key", emulator.url) as client:
        report = await costs(client, open_store(output))
    recorded = billed - is_silent(dialects)  # of the lost one nothing knows that it is this output's
    assert report.billed_usd == pytest.approx(0.025 * recorded), report
    assert (report.agreed, report.differ.predictions) == (recorded, 0), report


@pytest.mark.e2e
@pytest.mark.parametrize("dialects", [(), *packed(), *TOGETHER[:2]], ids="+".join)
def test_a_batch_under_limits_in_which_answers_get_lost(dialects: tuple[str, ...], tmp_path: Path) -> None:
    limits = ("--tier", "100000", "20", "--latency", "0.05", "0.1", "--prerendered")
    with Emulator(*limits, "--balance", "1000") as emulator:
        foreign = submit_foreign(emulator)
        emulator.dialects(*dialects)
        emulator.faults([{"on": "submit", "fault": "drop_after", "times": None, "probability": 0.03}])
        errors = asyncio.run(run_batch(emulator, tmp_path))
        if is_silent(dialects):
            assert all(isinstance(error, UnsureSubmissionError) for error in errors), errors
            assert 0 < len(errors) < BATCH / 10
        else:
            assert errors == []
        assert mine(emulator, foreign) == Counter(completed=BATCH)
        stored = len(list(tmp_path.glob("images/*/metadata.json")))
        assert stored == BATCH - len(errors)


def submit_foreign(emulator: Emulator) -> set[str]:
    """Three predictions of somebody else on the same account, at the same time."""
    emulator.faults([])
    api = Api(emulator.url)
    image = api.upload()
    for seed in range(3):
        api.submit(image=image, seed=seed)
    api.close()
    return {each["id"] for each in emulator.ledger()["predictions"]}


def mine(emulator: Emulator, foreign: set[str]) -> Counter[str]:
    return Counter(each["status"] for each in emulator.ledger()["predictions"] if each["id"] not in foreign)


async def run_batch(emulator: Emulator, output: Path) -> list[RestyleError]:
    """Restyle a picture in 200 variants, 50 at once; return what went wrong."""
    store, run = open_store(str(output)), RunInfo(package_version="test")
    settings = Settings(
        lease_seconds=60, submit_timeout_seconds=5, reconcile_seconds=1, poll_timeout_seconds=60
    )
    async with WaveSpeedClient("test-key", emulator.url, submit_timeout=5) as client:
        steps = StepSet(client, store, settings)

        async def one(variant: int) -> RestyleError | None:
            job = await make_job(str(PHOTO), SMALL, variant, store)
            try:
                await run_job(
                    job,
                    lambda job, *, after: steps.submit(job, run=run, after=after),
                    steps.poll,
                    lambda job, submitted: steps.download(job, submitted, run=run),
                )
            except RestyleError as error:
                return error
            return None

        return [error for error in await map_all(one, range(BATCH), 50) if error]
