"""What S3 does on a bad day, and how a store takes it: conflicts, credentials that expire, odd refusals."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.errors import (
    ConfigurationError,
    RestyleError,
    SourceDeniedError,
    StoreError,
    UnavailableError,
)
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.sources.identify import identify
from prefect_wavespeed.storage.store import Store
from tests.support.certificates import write_certificates
from tests.support.plain_s3 import PlainS3, plain_s3

CONFLICT = (409, "OperationAborted")


@pytest.fixture(scope="module")
def server() -> Iterator[PlainS3]:
    with plain_s3() as running:
        yield running


@pytest.fixture
def s3(server: PlainS3) -> PlainS3:
    server.reset()
    return server


@pytest.fixture
def store(s3: PlainS3) -> Store:
    return s3.store()


async def each_call(store: Store, scratch: Path) -> None:
    """Every kind of call on a store, once."""
    await store.put("a", b"1", "text/plain")
    assert await store.create("b", b"2")
    assert not await store.create("b", b"3")
    scratch.write_bytes(b"4")
    await store.put_file("c", scratch, "text/plain")
    assert await store.get("b") == b"2"
    assert await store.get_file("c", scratch)
    assert await store.head("a")
    await store.list("images/")
    await store.delete(["a"])


async def test_a_conflict_is_no_answer_whatever_was_asked(s3: PlainS3, store: Store, tmp_path: Path) -> None:
    with instant_retries():
        await each_call(store, tmp_path / "scratch")
        calls = len(s3.requests)
        for refused in range(calls):
            s3.reset()
            s3.refusals = [(0, "")] * refused + [CONFLICT] * 3
            await each_call(store, tmp_path / "scratch")
            assert len(s3.requests) == calls + 3


async def test_a_conflict_that_does_not_end_is_a_passing_error_that_names_it(
    s3: PlainS3, store: Store
) -> None:
    s3.refusals = [CONFLICT] * 100
    with instant_retries(), pytest.raises(StoreError, match=r"^HTTP 409 OperationAborted from ") as caught:
        await store.put("a", b"1", "text/plain")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "code", "reason", "passes"),
    [
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong", True),
        (400, "ExpiredToken", "credentials have expired", False),
        (301, "PermanentRedirect", "the bucket is in another region", False),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region", False),
        (403, "AccessDenied", "access denied", False),
        (403, "KMS.DisabledException", "HTTP 403 KMS.DisabledException from http", False),
    ],
)
async def test_a_refusal_is_named_with_what_to_do(
    status: int, code: str, reason: str, passes: bool, s3: PlainS3, store: Store
) -> None:
    s3.refusals = [(status, code)]
    with pytest.raises((StoreError, ConfigurationError), match=f"^{reason}") as caught:
        await store.put("a", b"1", "text/plain")
    assert caught.value.retryable is passes


async def test_a_run_outlives_its_first_credentials(
    s3: PlainS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential process: each key it gives holds for one second."""
    script = tmp_path / "credentials.py"
    script.write_text(
        "import datetime as d, json, time\n"
        "until = d.datetime.now(d.UTC) + d.timedelta(seconds=1)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'AK{time.time_ns()}', 'SecretAccessKey': 's',\n"
        "    'SessionToken': 't', 'Expiration': until.isoformat()}))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = us-east-1\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    store = s3.store(session=boto3.Session())
    await store.put("a", b"1", "text/plain")
    await asyncio.sleep(1.2)
    await store.put("b", b"1", "text/plain")
    first, second = (request["authorization"].split("AK")[1].split("/")[0] for request in s3.requests[-2:])
    assert int(second) - int(first) > 1e9


async def test_encryption_that_a_bucket_asks_for_is_set_by_the_environment(
    s3: PlainS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("AWS_SSE_KMS_KEY_ID", "alias/photos")
    await s3.store().put("a", b"1", "text/plain")
    headers = {name.lower(): value for name, value in s3.requests[-1].items()}
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/photos"


async def test_a_private_authority_is_trusted_everywhere_once_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, server = write_certificates("127.0.0.1", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    with plain_s3(context) as s3:
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ConfigurationError, match=r"^certificate of .* is not trusted: .*AWS_CA_BUNDLE"):
            await s3.store().put("a", b"1", "text/plain")
        async with WaveSpeedClient("key", s3.url) as client:
            with pytest.raises(UnavailableError, match=r"certificate is not trusted: set AWS_CA_BUNDLE"):
                await client.balance()

        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        store = s3.store()
        await store.put("a", b"1", "text/plain")
        assert store.access
        assert store.access.look_at_bucket("photos")[0] == 200
        async with WaveSpeedClient("key", s3.url) as client:
            with pytest.raises(RestyleError) as caught:  # it is no WaveSpeedAI
                await client.balance()
        assert "certificate" not in caught.value.message

        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.with_name("gone.pem")))
        with pytest.raises(ConfigurationError, match="AWS_CA_BUNDLE"):
            WaveSpeedClient("key", s3.url)


async def test_an_object_that_cannot_be_told_from_another_under_its_key_is_refused(
    s3: PlainS3, store: Store
) -> None:
    s3.keys, s3.etag = ["a.jpg"], ""
    with pytest.raises(SourceDeniedError, match="the server gives no ETag"):
        await identify("s3://photos/a.jpg", store)
