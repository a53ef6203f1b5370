"""docs/iam-policy.json beside the calls that real runs make: all are allowed, and nothing for nothing."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from PIL import Image

from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.storage.open_store import s3_store
from tests.support import in_process, notifications
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import receiving
from tests.support.s3_proxy import Fault, Proxy, proxy
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
POLICY = json.loads((ROOT / "docs" / "iam-policy.json").read_text())
OUT = "s3://my-bucket/restyled"

_OBJECT = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
_DELETED = re.compile(rb"<Key>(.*?)</Key>")


def needs(method: str, path: str, body: bytes) -> list[tuple[str, str]]:
    """The actions and resources that an S3 call needs, by AWS's table of actions for S3."""
    parts = urlsplit(path)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    arn = f"arn:aws:s3:::{bucket}"
    if key:
        assert not {"acl", "tagging", "versionId", "retention"} & query.keys(), path
        if "uploadId" in query or "uploads" in query:
            return [("s3:AbortMultipartUpload" if method == "DELETE" else "s3:PutObject", f"{arn}/{key}")]
        return [(_OBJECT[method], f"{arn}/{key}")]
    if method == "GET" and "notification" in query:
        return [("s3:GetBucketNotification", arn)]
    if method == "POST" and "delete" in query:
        return [("s3:DeleteObject", f"{arn}/{name.decode()}") for name in _DELETED.findall(body)]
    assert method == "GET", (method, path)
    assert "list-type" in query, path
    return [("s3:ListBucket", arn)]


def allowed() -> Iterator[tuple[str, str, str]]:
    """What the policy allows: statement, action, pattern of the resource."""
    for statement in POLICY["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            assert "*" not in action
            yield statement["Sid"], action, statement["Resource"]


@pytest.fixture
def between(moto: S3Server) -> Iterator[tuple[Proxy, S3Server]]:
    """The two buckets of the policy, with photographs in one, and what is asked of them.

    That one keeps versions: a version would need another action than an object.
    """
    client = moto.client()
    for bucket in ("my-bucket", "my-photos"):
        client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket="my-photos", VersioningConfiguration={"Status": "Enabled"})
    for n in range(4):
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), (60 * n, 90, 120)).save(picture, "jpeg")
        client.put_object(Bucket="my-photos", Key=f"in/{n}.jpg", Body=picture.getvalue())
    rows = [{"image": f"s3://my-photos/in/{n}.jpg", "variant": 1} for n in range(2)]
    client.put_object(
        Bucket="my-photos", Key="list.jsonl", Body="\n".join(json.dumps(row) for row in rows).encode()
    )
    client.copy_object(Bucket="my-photos", Key="later/0.jpg", CopySource="my-photos/in/0.jpg")
    client.put_object(Bucket="my-photos", Key="later/none.jpg", Body=b"no picture")
    with proxy(moto) as seen:
        yield seen


def test_every_call_of_real_runs_is_allowed_and_every_allowed_action_is_used(
    between: tuple[Proxy, S3Server], prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    calls, server = between
    env = {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": emulator.url, **server.env}

    def restyle(*arguments: str, fails: bool | None = False) -> Any:
        ended = in_process.restyle(*arguments, prefect=prefect, env=env)
        assert fails is None or (ended.status != 0) == fails, ended
        return json.loads(ended.stdout) if ended.stdout.startswith("{") else ended.stdout

    restyle("setup", "--out", OUT)
    checks = restyle("doctor", "--out", OUT, "--json", fails=None)["checks"]  # there is no worker
    assert {check["name"]: check["status"] for check in checks}["notifications"] == "ok"
    image = ("image", "s3://my-photos/in/0.jpg", "--out", "s3-bucket/restyle-output", "--size", "256*256")
    restyled = restyle(*image, "--json")
    assert restyle(*image, "--json")["cached"]

    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200}])
    failing = ("image", "s3://my-photos/in/1.jpg", "--out", OUT, "--size", "256*256", "--json")
    restyle(*failing, fails=True)
    restyle(*failing, "--retry-failed")

    restyle("batch", "s3://my-photos/in/", "--out", OUT, "--size", "256*256", "--no-wait")
    restyle("settle", "--out", OUT)
    restyle("batch", "s3://my-photos/list.jsonl", "--out", OUT, "--size", "256*256")
    restyle("costs", "--out", OUT)
    restyle("list", "--out", OUT)
    restyle("show", restyled["job_key"], "--out", OUT)

    restyle("setup", "--watch", "s3://my-photos/later/")
    run_deployed(prefect, env)

    asyncio.run(in_parts(calls, server, tmp_path / "report.jsonl"))
    assert_minimal(calls)


def run_deployed(prefect: PrefectServer, env: dict[str, str]) -> None:
    """Let a worker restyle objects that the receiver is notified of, and a manifest in shards."""
    prefect.deploy("--all")
    records = [notifications.record(f"later/{name}", versionId="some") for name in ("0.jpg", "none.jpg")]
    for record in records:
        record["s3"]["bucket"]["name"] = "my-photos"
    given = {
        "manifest": "s3://my-photos/list.jsonl",
        "options": {"params": {"size": "256*320"}, "max_cost_usd": 1},
        "shards": 2,
    }
    batch = prefect.call("GET", "/deployments/name/restyle-batch/restyle-batch")["id"]
    expected = {
        "restyle later/0.jpg": "COMPLETED",
        "restyle later/none.jpg": "FAILED",
        "restyle list.jsonl": "COMPLETED",
        "restyle list.jsonl, a shard": "COMPLETED",  # one of two at least: whose an image is, its key decides
    }

    def states() -> dict[str, str]:
        found = prefect.all("flow_runs", deployments={"name": {"any_": ["restyle-object", "restyle-batch"]}})
        named = {re.sub(r", ./2$", ", a shard", run["name"]): run["state_type"] for run in found}
        return {name: named[name] for name in expected.keys() & named.keys()}

    worker = prefect.python("-m", "prefect", "worker", "start", "--pool", "restyle", env=env)
    try:
        with receiving(prefect, env=env) as receiver:
            assert receiver.notify({"Records": records}).status_code == 200
            body = {"parameters": given, "state": {"type": "SCHEDULED"}}
            prefect.call("POST", f"/deployments/{batch}/create_flow_run", body)
            with suppress(TimeoutError):
                wait_until(lambda: states() == expected, 200)
    finally:
        worker.send(signal.SIGTERM)
        ended = worker.ended()
    assert states() == expected, ended.stderr


async def in_parts(calls: Proxy, server: S3Server, big: Path) -> None:
    """Store a file that is sent in parts, as the account of a big batch is, and one that is refused."""
    store = s3_store("my-bucket", "restyled", server.session(), endpoint_url=server.endpoint)
    big.write_bytes(b"." * (11 << 20))
    await store.put_file("runs/big/report.jsonl", big, "application/jsonl")
    calls.faults.append(Fault("refuse", "PUT", "report.jsonl", times=99))
    with pytest.raises(StoreError):
        await store.put_file("runs/big/report.jsonl", big, "application/jsonl")


def assert_minimal(calls: Proxy) -> None:
    """Every call is allowed by a statement, and every action of every statement was needed."""
    used: set[tuple[str, str, str]] = set()
    outside: set[tuple[str, str]] = set()
    for method, path, body in calls.requests:
        for action, resource in needs(method, path, body):
            by = {grant for grant in allowed() if grant[1] == action and fnmatchcase(resource, grant[2])}
            used |= by
            if not by:
                outside.add((action, resource))
    assert not outside
    assert set(allowed()) == used
