"""A job is billed once, whatever is killed, raced, paused, set wrong or cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.errors import UnsafeStoreError
from tests.support.emulator_process import Emulator
from tests.support.engine import SMALL, restyle
from tests.support.interruption_cases import ASLEEP, CASES, KILLED
from tests.support.interruptions import CaseOutcome, World, rules, selected
from tests.support.runners import running
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

KINDS = ("directory", "moto")
LISTED = "directory, listed as new"
"""There each runner goes by a listing that held nothing of the job, whatever has become of it since."""
QUICK = [*KILLED, *ASLEEP]
ALL = [
    (case, kind)
    for case in CASES
    for kind in (*KINDS, LISTED)
    if (case.on_s3 if kind == "moto" else not case.faults)
]


@pytest.fixture(scope="module")
def world(emulator_process: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    emulator_process.reset()
    with running() as runners:
        yield World(emulator_process, runners, tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, world: World, moto: S3Server) -> dict[int, CaseOutcome]:
    """What came of all that are selected, carried out at once. A case's seed is its number."""
    world.emulator.faults(rules([(case, seed) for seed, (case, _) in enumerate(ALL)]))

    async def one(turn: int, seed: int) -> CaseOutcome:
        await asyncio.sleep(turn * 0.3)  # a process costs some tenths of a second to start
        case, kind = ALL[seed]
        server = moto if kind == "moto" else None
        return await world.carry_out(case, f"case-{seed}", server, seed, listed=kind == LISTED)

    async def all_of_them(seeds: list[int]) -> dict[int, CaseOutcome]:
        outcomes = await asyncio.gather(*(one(turn, seed) for turn, seed in enumerate(seeds)))
        return dict(zip(seeds, outcomes, strict=True))

    return asyncio.run(all_of_them(selected(request)))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(
            number,
            id=f"{case.name}, on {kind}",
            # `make test` has each place to be killed at, pauses, and tricks on the way to S3.
            marks=[] if (case in QUICK and kind == "directory") or case.faults else [pytest.mark.e2e],
        )
        for number, (case, kind) in enumerate(ALL)
    ],
)
async def test_whatever_happens_to_its_runners_a_job_is_billed_once_and_done(
    number: int, outcomes: dict[int, CaseOutcome]
) -> None:
    await outcomes[number].prove()


async def test_a_store_that_ignores_create_if_absent_is_refused_before_the_first_post(
    emulator: Emulator, world: World, moto: S3Server
) -> None:
    with proxy(moto) as (way, seen):
        way.ignore_conditions = True
        output = world.output("unsafe", seen)
        with pytest.raises(UnsafeStoreError, match=r"create-if-absent .* is ignored") as caught:
            await restyle(emulator.url, output.store)
    assert not caught.value.retryable
    assert emulator.ledger()["calls"]["submit"] == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_made_again_with_the_recorded_seed_is_the_same_picture_byte_for_byte(
    kind: str, emulator: Emulator, world: World, moto: S3Server
) -> None:
    first, again = (
        world.output(f"{name}-{kind}", moto if kind == "moto" else None) for name in ("first", "again")
    )
    params = SMALL.model_copy(update={"num_images": 2, "output_format": "png"})
    await restyle(emulator.url, first.store, params=params)
    recorded = (await first.metadata()).request
    await restyle(emulator.url, again.store, params=ReduxParams(**recorded.model_dump(exclude={"image"})))
    assert await first.pictures() == await again.pictures()
    assert len(emulator.ledger()["predictions"]) == 2
