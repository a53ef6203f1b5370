"""The ledger on a real S3 server: runners race, are killed, live in other times; each job is billed once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.ceph import CephGateway
from tests.support.emulator_process import Emulator
from tests.support.engine import restyle
from tests.support.interruption_cases import CASES
from tests.support.interruptions import CaseOutcome, World, rules, selected
from tests.support.runners import running
from tests.support.s3_servers import S3Server

SHOWN = [case for case in CASES if case.on_s3]


@pytest.fixture(scope="module")
def server(ceph: CephGateway) -> S3Server:
    return S3Server(ceph.endpoint, ceph.bucket, ceph.access_key, ceph.secret_key, ceph.region)


@pytest.fixture(scope="module")
def world(emulator_process: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    emulator_process.reset()
    with running() as runners:
        yield World(emulator_process, runners, tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, world: World, server: S3Server) -> dict[int, CaseOutcome]:
    """What came of all that are selected, carried out at once. A case's seed is its number."""
    world.emulator.faults(rules([(case, seed) for seed, case in enumerate(SHOWN)]))

    async def one(turn: int, seed: int) -> CaseOutcome:
        await asyncio.sleep(turn * 0.5)
        return await world.carry_out(SHOWN[seed], f"case-{seed}", server, seed)

    async def all_of_them(seeds: list[int]) -> dict[int, CaseOutcome]:
        outcomes = await asyncio.gather(*(one(turn, seed) for turn, seed in enumerate(seeds)))
        return dict(zip(seeds, outcomes, strict=True))

    return asyncio.run(all_of_them(selected(request)))


@pytest.mark.parametrize("number", range(len(SHOWN)), ids=[case.name for case in SHOWN])
async def test_whatever_happens_to_its_runners_a_job_is_billed_once_and_done(
    number: int, outcomes: dict[int, CaseOutcome]
) -> None:
    await outcomes[number].prove()


async def test_objects_bear_their_type_and_what_made_them(
    emulator: Emulator, world: World, server: S3Server, ceph: CephGateway
) -> None:
    output = world.output("objects", server)
    restyled = await restyle(emulator.url, output.store, run_id="run-1")
    await output.pictures()
    for uri, content_type in (
        (restyled.outputs[0].uri, "image/jpeg"),
        (restyled.metadata_uri, "application/json"),
    ):
        assert uri
        head = ceph.client().head_object(Bucket=ceph.bucket, Key=uri.removeprefix(f"s3://{ceph.bucket}/"))
        assert head["ContentType"] == content_type
        assert head["Metadata"] == {
            "job-key": restyled.job_key,
            "prediction-id": restyled.prediction_id,
            "flow-run-id": "run-1",
            "seed": str(restyled.seed),
        }
