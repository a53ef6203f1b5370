"""The receiver behind a real Ceph gateway, before a Prefect that wants a password, or says nothing."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import boto3
import httpx

from tests.support.ceph import CephGateway
from tests.support.notifications import aws
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import TOKEN, receiving

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
