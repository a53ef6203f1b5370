"""The receiver behind a real Ceph gateway, before a Prefect that wants a password, or says nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx

from tests.support.ceph import CephGateway
from tests.support.emulator_process import Emulator
from tests.support.notifications import aws
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import TOKEN, Receiving, receiving

USER, PASSWORD = "team", "a-password-of-prefects"


def test_prefects_own_credential_is_needed_and_stays_where_it_is(tmp_path: Path) -> None:
    with PrefectServer(tmp_path, {"PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{PASSWORD}"}) as prefect:
        with receiving(prefect) as receiver:
            answer = receiver.notify(aws("in/refused.jpg"))
            assert (answer.status_code, "401" in answer.json()["error"]) == (503, True)
            health = receiver.http.get("/health")
            assert (health.status_code, "PREFECT_API_AUTH_STRING" in health.json()["error"]) == (503, True)
            receiver.command.send(signal.SIGTERM)
            log = receiver.command.ended(60).stderr
        assert log.count("HTTP 401") == 1

        ended = prefect.restyle("receiver", env={"RESTYLE_RECEIVER_TOKEN": ""})
        assert (ended.status, ended.stderr.count("\n"), "401" in ended.stderr) == (1, 1, True)

        with receiving(prefect, env={"PREFECT_API_AUTH_STRING": f"{USER}:{PASSWORD}"}) as receiver:
            assert receiver.notify(aws("in/taken.jpg")).status_code == 200
            assert receiver.http.get("/health").status_code == 200
            receiver.command.send(signal.SIGTERM)
            ended = receiver.command.ended(60)
        assert PASSWORD not in ended.stdout + ended.stderr + log

        def received() -> list[str]:
            query = {"filter": {"event": {"prefix": ["restyle."]}}}
            answer = httpx.post(f"{prefect.url}/events/filter", json=query, auth=(USER, PASSWORD))
            return [event["payload"]["key"] for event in answer.json()["events"]]

        wait_until(received)
        assert received() == ["in/taken.jpg"]


def test_a_prefect_that_says_nothing_is_not_waited_for_long(prefect: PrefectServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"PREFECT_API_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/api"}
        with receiving(prefect, env=env) as receiver:
            answer = receiver.notify(aws())
            assert (answer.status_code, "did not answer" in answer.json()["error"]) == (503, True)
            assert TOKEN not in answer.text


def test_a_ceph_gateway_tells_of_what_is_put_into_it(ceph: CephGateway, prefect: PrefectServer) -> None:
    key = "in/a b+c%20é.jpg"
    topics = boto3.client(
        "sns",
        endpoint_url=ceph.endpoint,
        aws_access_key_id=ceph.access_key,
        aws_secret_access_key=ceph.secret_key,
        region_name=ceph.region,
    )
    store, bucket = ceph.client(), "notifies-the-receiver"
    store.create_bucket(Bucket=bucket)
    with receiving(prefect) as receiver:
        endpoint = {"push-endpoint": f"{receiver.url}/s3?token={TOKEN}"}
        topic = topics.create_topic(Name="receiver", Attributes=endpoint)["TopicArn"]
        store.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration={
                "TopicConfigurations": [
                    {
                        "Id": "receiver",
                        "TopicArn": topic,
                        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}},
                    }
                ]
            },
        )
        etag = store.put_object(Bucket=bucket, Key=key, Body=b"a picture")["ETag"].strip('"')
        store.put_object(Bucket=bucket, Key="out/1.jpg", Body=b"another")
        store.delete_object(Bucket=bucket, Key=key)

        def received() -> list[dict[str, Any]]:
            events = prefect.events("restyle.object.created")
            return [event["payload"] for event in events if event["payload"]["bucket"] == bucket]

        wait_until(received)
        (payload,) = received()
        assert payload.pop("sequencer")
        assert payload == {"bucket": bucket, "key": key, "etag": etag, "size": 9, "version": None}
        assert "restyle_receiver_ignored_total 1.0" in receiver.http.get("/metrics").text


HALF = b"POST /s3 HTTP/1.1\r\nHost: receiver\r\nX-Slow: "
SIGNED = f"webhook-id: evt\r\nwebhook-timestamp: {int(time.time())}\r\nwebhook-signature: v3,{'0' * 64}\r\n"


def test_a_siege_costs_neither_health_nor_memory_nor_log_and_loses_nothing(
    prefect: PrefectServer, emulator_process: Emulator
) -> None:
    env = {"WAVESPEED_API_KEY": "a-key", "WAVESPEED_BASE_URL": emulator_process.url}
    with receiving(prefect, env=env) as receiver:
        with ThreadPoolExecutor(1) as watcher:
            over = threading.Event()
            health = watcher.submit(_slowest_health, receiver, over)
            acknowledged, unauthorized = asyncio.run(_besiege(receiver))
            over.set()
        status = Path(f"/proc/{receiver.command.process.pid}/status").read_text()
        receiver.command.send(signal.SIGTERM)
        ended = receiver.command.ended(60)

    assert health.result() < 10  # it is answered all the while, however busy the machine
    assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 300_000
    assert len(ended.stderr) < 20_000
    assert (len(acknowledged) > 100, unauthorized > 5_000) == (True, True)

    def stored() -> set[str]:
        return {event["payload"]["key"] for event in prefect.events("restyle.object.created")}

    wait_until(lambda: acknowledged <= stored())


def _slowest_health(receiver: Receiving, over: threading.Event) -> float:
    slowest = 0.0
    while not over.wait(0.1):
        asked = time.monotonic()
        connection = http.client.HTTPConnection(receiver.url.removeprefix("http://"), timeout=30)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        slowest = max(slowest, time.monotonic() - asked)
        connection.close()
    return slowest


async def _besiege(receiver: Receiving) -> tuple[set[str], int]:
    """1,100 half-open connections, 500 large bodies and 10,000 posts, a few of them with the token.

    Returns:
        The keys whose notifications were acknowledged, and how many posts were answered with 401.
    """
    port = urlsplit(receiver.url).port
    acknowledged: set[str] = set()
    statuses: Counter[bytes] = Counter()

    async def half_open() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        held.callback(writer.close)
        writer.write(HALF)
        await reader.read()

    async def large_body(path: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: receiver\r\nContent-Length: {8 << 20}\r\n{SIGNED}\r\n".encode()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(5):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                held.callback(writer.close)
                writer.write(head)
                for _ in range(128):
                    writer.write(bytes(1 << 16))
                    await writer.drain()

    async def posts(sender: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(200):
            key, token = f"in/siege-{sender}-{number}.jpg", TOKEN if number % 10 == 0 else "wrong"
            body = json.dumps(aws(key)).encode()
            head = f"POST /s3?token={token} HTTP/1.1\r\nHost: receiver\r\nContent-Length: {len(body)}\r\n\r\n"
            try:
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", answer)[0]))
            except (ConnectionError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            statuses[answer.split()[1]] += 1
            if answer.split()[1] == b"200":
                acknowledged.add(key)
        writer.close()

    with ExitStack() as held:
        silent = [asyncio.create_task(half_open()) for _ in range(1100)]
        await asyncio.sleep(1)
        async with asyncio.TaskGroup() as group:
            for path in ("/s3", "/wavespeed") * 250:
                group.create_task(large_body(path))
            for number in range(50):
                group.create_task(posts(number))
        for task in silent:
            task.cancel()
        await asyncio.wait(silent)
    return acknowledged, statuses[b"401"]
