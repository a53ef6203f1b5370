"""What becomes of an event that says that an object was created: against moto and the emulator."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from functools import partial

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.created_object import MetadataParam, ObjectCreated, find, refuse_overlap
from prefect_wavespeed.errors import (
    ConfigurationError,
    PredictionFailedError,
    SourceDeniedError,
    SourceError,
    StoreError,
)
from prefect_wavespeed.job import Restyled, RunInfo
from prefect_wavespeed.settling.settle import settle
from prefect_wavespeed.steps.step_set import StepSet
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.objects import World
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

OTHER_PHOTO = PHOTO.with_name("coffee.jpg")
ALLOWED: tuple[MetadataParam, ...] = ("num_images", "size", "seed")


@pytest.fixture
def world(moto: S3Server, emulator: Emulator) -> World:
    return World(moto, emulator, uuid.uuid4().hex)


async def test_an_object_is_restyled_once_though_its_event_comes_five_times(world: World) -> None:
    created = world.put("Photo ü+%41 'x'.jpg", PHOTO.read_bytes())
    handled = [await world.deliver(created) for _ in range(5)]
    assert [restyled.cached for restyled in handled if isinstance(restyled, Restyled)] == [False, *[True] * 4]
    assert world.submitted == 1


async def test_runs_of_one_object_at_the_same_time_bill_it_once(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    handled = await asyncio.gather(*(world.deliver(created) for _ in range(5)))
    assert {restyled.prediction_id for restyled in handled if isinstance(restyled, Restyled)} == {
        world.emulator.ledger()["predictions"][0]["id"]
    }
    assert world.submitted == 1
    text = world.put("text.jpg", b"not a picture")
    errors = await asyncio.gather(*(world.deliver(text) for _ in range(5)), return_exceptions=True)
    assert {str(error) for error in errors} == {world.letter()["error"]["message"]}


async def test_it_is_the_job_that_a_person_would_make_of_it(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    first = await world.deliver(created)
    again = await restyle(world.emulator.url, world.store, created.uri)
    assert isinstance(first, Restyled)
    assert (again.cached, again.job_key) == (True, first.job_key)


async def test_an_overwritten_object_is_restyled_anew_once_in_any_order_of_events(world: World) -> None:
    first = world.put("a.jpg", PHOTO.read_bytes())
    await world.deliver(first)
    second, third = world.put("a.jpg", OTHER_PHOTO.read_bytes()), world.put("b.jpg", PHOTO.read_bytes())
    late = world.put("b.jpg", OTHER_PHOTO.read_bytes())
    for created in (second, first, second, late, third):
        assert isinstance(await world.deliver(created), Restyled)
    assert world.submitted == 3, "the first b.jpg was never seen"


async def test_our_own_pictures_folders_and_what_is_not_watched_are_ignored(world: World) -> None:
    marks = {"job-key": "0" * 64, "prediction-id": "p"}
    ours = world.put("ours.jpg", PHOTO.read_bytes(), Metadata=marks)
    half = world.put("folder/", b"")
    assert "is an output of this project" in str(await world.deliver(ours))
    assert "is a folder" in str(await world.deliver(half))
    outside = ours.model_copy(update={"key": ours.key.replace("/in/", "/inn/")})
    assert "is not below" in str(await world.deliver(outside))
    other = ours.model_copy(update={"bucket": "another"})
    assert "is not below" in str(await world.deliver(other))
    assert not world.below("")
    assert world.submitted == 0


TRUNCATED = PHOTO.read_bytes()[:20]
REFUSED = [
    ("text.jpg", b"not a picture at all", "not an image"),
    ("big.jpg", PHOTO.read_bytes() + bytes(30 * 2**20), "too big (30.1 MB)"),
    ("empty.jpg", b"", "not an image"),
    ("corrupt.jpg", TRUNCATED, "damaged jpeg image"),
]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        pytest.param(*case, id=case[0], marks=[] if case is REFUSED[0] else [pytest.mark.e2e])
        for case in REFUSED
    ],
)
async def test_what_cannot_be_restyled_is_a_dead_letter_with_its_reason_once(
    world: World, name: str, data: bytes, reason: str
) -> None:
    """And the second delivery gives the same error and writes nothing."""
    created = world.put(name, data)
    errors = []
    for _ in range(2):
        with pytest.raises(PredictionFailedError) as caught:
            await world.deliver(created)
        errors.append(caught.value.message)
        before = world.below("")
    assert errors[0] == errors[1] == world.letter()["error"]["message"]
    assert reason in errors[0]
    assert created.uri in errors[0]
    assert world.below("") == before
    assert world.letter()["last_attempt"] == 0
    assert world.submitted == 0


async def test_a_vanished_object_is_one_dead_letter_whatever_its_etag_and_none_keeps_it_from_coming_back(
    world: World,
) -> None:
    created = world.put("gone.jpg", PHOTO.read_bytes())
    world.delete(created)
    for etag in (created.etag, created.etag, "another"):
        with pytest.raises(PredictionFailedError, match=r"no such object: image .*gone\.jpg"):
            await world.deliver(created.model_copy(update={"etag": etag}))
    assert world.letter()["source"]["identity"] == f"{created.uri}#etag="
    assert world.submitted == 0
    world.put("gone.jpg", PHOTO.read_bytes())
    assert isinstance(await world.deliver(created), Restyled)
    assert world.submitted == 1


async def test_what_was_restyled_before_it_vanished_is_no_dead_letter(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    first = await world.deliver(created)
    world.delete(created)
    again = await world.deliver(created)
    assert isinstance(first, Restyled)
    assert isinstance(again, Restyled)
    assert (again.cached, again.job_key) == (True, first.job_key)
    assert not world.below("failed/")


async def test_what_is_under_way_is_no_dead_letter_though_its_object_has_vanished(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    found = await find(created, world.watched, SMALL, (), world.store)
    assert found.job
    async with WaveSpeedClient("test-key", world.emulator.url, submit_timeout=1, timeout=2) as client:
        steps = StepSet(client, world.store, QUICK)
        await steps.submit(found.job, run=RunInfo(package_version="test"))
        world.delete(created)
        restyled = await world.deliver(created)
    assert isinstance(restyled, Restyled)
    assert not world.below("failed/")
    assert world.submitted == 1


async def test_a_replaced_object_is_another_job(world: World) -> None:
    created = world.put("a.jpg", b"not a picture")
    with pytest.raises(PredictionFailedError):
        await world.deliver(created)
    replaced = world.put("a.jpg", PHOTO.read_bytes())
    assert isinstance(await world.deliver(created), Restyled), "the older event, late"
    assert isinstance(await world.deliver(replaced), Restyled)
    assert world.submitted == 1


async def test_a_person_meets_the_same_dead_letter_and_going_again_sends_nothing(world: World) -> None:
    created = world.put("a.jpg", b"not a picture")
    with pytest.raises(PredictionFailedError) as caught:
        await world.deliver(created)
    with pytest.raises(PredictionFailedError) as again:
        await restyle(world.emulator.url, world.store, created.uri)
    assert again.value.message == caught.value.message
    with pytest.raises(SourceError, match="not an image"):
        await restyle(world.emulator.url, world.store, created.uri, retry_failed=True)
    assert world.submitted == 0
    assert not world.below("open/")


async def test_settle_leaves_such_letters_alone(world: World) -> None:
    created = world.put("a.jpg", b"not a picture")
    with pytest.raises(PredictionFailedError):
        await world.deliver(created)
    before = world.below("failed/")
    async with WaveSpeedClient("test-key", world.emulator.url, submit_timeout=1) as client:
        settled = await settle(client, world.store, RunInfo(package_version="test"), QUICK)
    assert settled.failed == settled.error == 0
    assert world.below("failed/") == before


async def test_keys_that_would_be_read_as_another_object_are_refused(world: World) -> None:
    created = world.put("a//b.jpg", PHOTO.read_bytes())
    with pytest.raises(PredictionFailedError, match="empty part"):
        await world.deliver(created)
    assert "a//b.jpg" in world.letter()["source"]["uri"]


async def test_parameters_come_from_the_objects_own_metadata_where_that_is_allowed(world: World) -> None:
    metadata = {"restyle-num-images": "2", "restyle-size": "256*320", "restyle-guidance-scale": "9"}
    created = world.put("a.jpg", PHOTO.read_bytes(), Metadata=metadata)
    restyled = await world.deliver(created, allowed=ALLOWED)
    assert isinstance(restyled, Restyled)
    assert [(output.width, output.height) for output in restyled.outputs] == [(256, 320)] * 2
    (prediction,) = world.emulator.ledger()["predictions"]
    assert prediction["input"]["guidance_scale"] == SMALL.guidance_scale, "not allowed, so ignored"
    assert isinstance(plain := await world.deliver(created), Restyled)
    assert len(plain.outputs) == 1


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"restyle-num-images": "9"}, 'num_images "9": must be 1 to 4'),
        ({"restyle-num-images": "two"}, 'num_images "two": give a whole number'),
        ({"restyle-size": "10*10"}, 'size "10*10": width and height must each be from 256 to 1536 pixels'),
    ],
)
async def test_metadata_that_is_not_valid_is_a_dead_letter_that_names_it(
    world: World, metadata: dict[str, str], said: str
) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes(), Metadata=metadata)
    for _ in range(2):
        with pytest.raises(PredictionFailedError) as caught:
            await world.deliver(created, allowed=ALLOWED)
        assert f"invalid metadata restyle-…: {said}: image {created.uri}" in caught.value.message
    assert world.submitted == 0
    assert world.letter()["error"]["message"] == caught.value.message
    # the same bytes without it are another job, and not held up by the letter
    replaced = world.put("a.jpg", PHOTO.read_bytes())
    assert isinstance(await world.deliver(replaced, allowed=ALLOWED), Restyled)


async def test_a_bucket_that_is_not_there_is_no_dead_letter(world: World) -> None:
    """It is the set-up's fault: another endpoint or account, say."""
    elsewhere = replace(world, sources="no-such-bucket")
    created = world.put("a.jpg", PHOTO.read_bytes()).model_copy(update={"bucket": "no-such-bucket"})
    with pytest.raises(SourceDeniedError, match="bucket does not exist"):
        await elsewhere.deliver(created)
    assert not world.below("failed/")


async def test_a_store_that_is_away_is_no_dead_letter(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    with proxy(world.s3) as (before, s3):
        away = replace(world, s3=s3)
        before.down()
        with pytest.raises(StoreError) as caught:
            await away.deliver(created)
    assert caught.value.retryable
    assert not world.below("failed/")
    assert isinstance(await world.deliver(created), Restyled)


OVERLAPPING = [
    ("s3://b/in/", "s3://b/in"),
    ("s3://b/in/", "s3://b/in/restyled"),
    ("s3://b/in/", "s3://b"),
    ("s3://b/in/new/", "s3://b/in"),
    ("s3://b/in", "s3://b/in"),
    ("s3://b/in", "s3://b/in-restyled"),  # S3 takes the prefix for a text
    ("s3://b/in/ph", "s3://b/in/photos"),
    ("s3://b", "s3://b/out"),
    ("s3://b/", "s3://b"),
]
APART = [
    ("s3://b/in/", "s3://b/in-restyled"),
    ("s3://b/in/", "s3://b/out"),
    ("s3://b/in/", "s3://b/restyled/in"),
    ("s3://b/in/", "s3://c/in"),
    ("s3://b", "s3://b2"),
    ("s3://b/in-restyled/", "s3://b/in"),
    ("s3://b/in/photos", "s3://b/in/ph"),
    ("s3://b/in/", "/a/directory/in"),
]


@pytest.mark.parametrize(("watched", "output"), OVERLAPPING)
def test_an_output_that_a_watch_could_see_is_refused(watched: str, output: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        refuse_overlap(watched, output)
    assert watched in caught.value.message
    assert output in caught.value.message
    assert ("another bucket" if watched.rstrip("/") == "s3://b" else "s3://b/restyled") in (
        caught.value.message
    )


@pytest.mark.parametrize(("watched", "output"), APART)
def test_an_output_beside_the_watched_prefix_is_fine(watched: str, output: str) -> None:
    refuse_overlap(watched, output)


@pytest.mark.parametrize("watched", ["", "in/", "s3://", "s3:///in", "https://b/in"])
def test_a_watched_prefix_that_is_none_is_refused(watched: str) -> None:
    with pytest.raises(ConfigurationError, match="give s3://bucket/prefix"):
        refuse_overlap(watched, "s3://b/out")


def test_one_event_has_one_name_and_an_overwritten_object_another() -> None:
    made = partial(ObjectCreated, bucket="b", key="k")
    assert made(version="1", etag="x").name == made(version="1", sequencer="9").name
    assert made(version="1").name != made(version="2").name
    assert made(etag='"x"').name == made(etag="x", version="null").name
    assert made(sequencer="1", etag="x").name != made(sequencer="2", etag="x").name
