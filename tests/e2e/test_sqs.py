"""Notifications through an SQS queue: none is lost when the receiver is killed, and none is billed twice."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.created_object import ObjectCreated, find
from prefect_wavespeed.job import Restyled, RunInfo
from prefect_wavespeed.steps.run_job import run_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import s3_store
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.notifications import aws, configured, eventbridge, sns
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import receiving
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

COUNT = 200
POISON = [
    "no JSON",
    "{}",
    json.dumps({"Records": [{"eventName": "ObjectCreated:Put"}]}),
    json.dumps(sns("no JSON")),
    "[]",
]
VISIBILITY_SECONDS = 3
MOST_RECEIPTS = 4


@dataclass
class Queue:
    """A queue with a redrive policy, and its dead-letter queue."""

    server: S3Server
    url: str
    dead: str

    def send(self, bodies: list[str]) -> None:
        queues = self.server.queues()
        for start in range(0, len(bodies), 10):
            entries: Any = [
                {"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])
            ]
            assert not queues.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    def left(self) -> int:
        """Messages that are not deleted, visible or not."""
        return self._count(self.url, "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

    def buried(self) -> int:
        """Messages in the dead-letter queue."""
        return self._count(self.dead, "ApproximateNumberOfMessages")

    def _count(self, url: str, *names: Any) -> int:
        answer = self.server.queues().get_queue_attributes(QueueUrl=url, AttributeNames=list(names))
        return sum(int(value) for value in answer["Attributes"].values())


@pytest.fixture
def queue(moto: S3Server) -> Queue:
    queues = moto.queues()
    dead = queues.create_queue(QueueName=f"dead-{uuid4().hex}")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": MOST_RECEIPTS}
    url = queues.create_queue(
        QueueName=f"pictures-{uuid4().hex}",
        Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS), "RedrivePolicy": json.dumps(redrive)},
    )["QueueUrl"]
    return Queue(moto, url, dead)


def notification_of(created: ObjectCreated, n: int) -> str:
    """One of the formats in which a queue gets a notification."""
    about: dict[str, Any] = {"etag": created.etag, "size": created.size, "sequencer": created.sequencer}
    straight = aws(created.key, eTag=created.etag, size=created.size, sequencer=created.sequencer)
    straight["Records"][0]["s3"]["bucket"]["name"] = created.bucket
    bridged = eventbridge(key=created.key, **about)
    bridged["detail"]["bucket"]["name"] = created.bucket
    return json.dumps([straight, sns(straight), bridged, sns(bridged)][n % 4])


def put(moto: S3Server, folder: str, count: int) -> list[ObjectCreated]:
    client, data = moto.client(), PHOTO.read_bytes()

    def one(n: int) -> ObjectCreated:
        key = f"{folder}/in/a picture+{n}.jpg"
        etag = client.put_object(Bucket=moto.bucket, Key=key, Body=data)["ETag"].strip('"')
        return ObjectCreated(bucket=moto.bucket, key=key, etag=etag, sequencer=f"{n:016X}", size=len(data))

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(one, range(count)))


def events(prefect: PrefectServer, folder: str) -> list[ObjectCreated]:
    """What Prefect knows of the objects in a folder."""
    found = [ObjectCreated.model_validate(e["payload"]) for e in prefect.events("restyle.object.created")]
    return [created for created in found if created.key.startswith(f"{folder}/")]


@contextmanager
def reading(prefect: PrefectServer, queue: Queue, **env: str) -> Iterator[Any]:
    """A receiver that reads the queue; senders over HTTP have no token, and need none."""
    given = {**queue.server.env, "RESTYLE_RECEIVER_TOKEN": "", **env}
    with receiving(prefect, "--sqs", queue.url, env=given) as receiver:
        yield receiver


async def restyle_all(
    created: list[ObjectCreated], moto: S3Server, folder: str
) -> tuple[list[Restyled], dict[str, Any]]:
    """Do what a run of restyle_object does with each event; return the results and what was billed."""
    watched, params = f"s3://{moto.bucket}/{folder}/in/", ReduxParams(size="256*256")
    store = s3_store(moto.bucket, f"{folder}/out", moto.session(), endpoint_url=moto.endpoint)
    with Emulator("--prerendered", "--latency", "0.05", "0.1") as emulator:
        async with WaveSpeedClient("a-key", emulator.url) as client:
            steps, at_once = StepSet(client, store), asyncio.Semaphore(16)

            async def restyle(one: ObjectCreated) -> Restyled:
                run = RunInfo(package_version="test", flow_run_id=str(uuid4()))
                async with at_once:
                    found = await find(one, watched, params, (), store)
                    assert found.job, found
                    return await run_job(
                        found.job,
                        partial(steps.submit, run=run),
                        steps.poll,
                        partial(steps.download, run=run),
                    )

            restyled = await asyncio.gather(*(restyle(one) for one in created))
        return restyled, emulator.ledger()


def test_a_crash_in_the_middle_loses_nothing_and_nothing_is_billed_twice(
    queue: Queue, moto: S3Server, prefect: PrefectServer
) -> None:
    folder = f"sqs-{uuid4().hex}"
    stored = put(moto, folder, COUNT)
    messages = [notification_of(created, n) for n, created in enumerate(stored)]
    messages += messages[::10]  # one in ten is sent twice
    queue.send([*messages[:120], *POISON, json.dumps(configured()), *messages[120:]])
    total = queue.left()
    assert total == COUNT * 11 // 10 + len(POISON) + 1

    with reading(prefect, queue) as receiver:
        wait_until(lambda: queue.left() < total - COUNT // 5)
        receiver.command.send(signal.SIGKILL)
        assert receiver.command.ended().status == -signal.SIGKILL
        in_the_middle = queue.left()
    assert COUNT // 5 < in_the_middle < total

    with reading(prefect, queue) as receiver:
        wait_until(lambda: queue.left() == 0)
        assert queue.buried() == len(POISON)
        assert receiver.http.get("/health").status_code == 200
        assert receiver.http.post("/s3", json={}).status_code == 401
        receiver.command.send(signal.SIGTERM)
        ended = receiver.command.ended(60)
    assert ended.status == 0
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("left to the queue's redrive policy") <= len(POISON)  # once a message

    wait_until(lambda: len(events(prefect, folder)) >= COUNT)
    found = events(prefect, folder)
    assert sorted(found, key=lambda created: created.key) == sorted(stored, key=lambda created: created.key)

    restyled, ledger = asyncio.run(restyle_all([*found, *found[::10]], moto, folder))
    assert len({one.job_key for one in restyled}) == COUNT
    assert ledger["billed"] == ledger["calls"]["submit"] == COUNT


def test_while_prefect_is_away_messages_stay_in_the_queue_and_out_of_the_dead_letters(
    queue: Queue, prefect: PrefectServer
) -> None:
    folder = f"sqs-{uuid4().hex}"
    created = [ObjectCreated(bucket="b", key=f"{folder}/{n}.jpg", sequencer=f"{n}") for n in range(40)]
    parts = urlsplit(prefect.url)
    with (
        proxy(S3Server(f"{parts.scheme}://{parts.netloc}")) as (before, seen),
        reading(prefect, queue, PREFECT_API_URL=f"{seen.endpoint}/api") as receiver,
    ):
        before.down()
        queue.send([notification_of(one, n) for n, one in enumerate(created)])
        # longer than it would take to use up all receipts
        time.sleep(VISIBILITY_SECONDS * (MOST_RECEIPTS + 1))
        assert (queue.left(), queue.buried()) == (40, 0)
        assert "cannot be reached" in receiver.http.get("/health").json()["error"]
        before.up()
        wait_until(lambda: queue.left() == 0)
        assert queue.buried() == 0
    wait_until(lambda: len(events(prefect, folder)) >= 40)
    assert {one.key for one in events(prefect, folder)} == {one.key for one in created}


def test_a_queue_that_goes_away_is_reported_and_waited_for(queue: Queue, prefect: PrefectServer) -> None:
    queues = queue.server.queues()
    with reading(prefect, queue) as receiver:
        queues.delete_queue(QueueUrl=queue.url)
        wait_until(lambda: receiver.http.get("/health").status_code == 503)
        assert "the queue cannot be read" in receiver.http.get("/health").json()["error"]
        assert queues.create_queue(QueueName=queue.url.rpartition("/")[2])["QueueUrl"] == queue.url
        wait_until(lambda: receiver.http.get("/health").status_code == 200)
        receiver.command.send(signal.SIGINT)
        assert receiver.command.ended(60).status == 0
