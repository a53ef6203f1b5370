"""What a store promises, on a directory and on S3, and how it reports what it cannot do."""

from __future__ import annotations

import asyncio
import re
import socket
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from prefect_wavespeed.errors import ConfigurationError, StoreError, UnsafeStoreError
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.open_store import bucket_store, directory_store, open_store, s3_store
from prefect_wavespeed.storage.s3 import S3Access
from prefect_wavespeed.storage.s3_names import split_s3_uri
from prefect_wavespeed.storage.store import Store
from tests.support.s3_proxy import Fault, proxy
from tests.support.s3_servers import S3Server


@pytest.fixture(params=["directory", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path, moto: S3Server) -> Store:
    if request.param == "directory":
        return directory_store(tmp_path / "out")
    return on_moto(moto)


def on_moto(server: S3Server) -> Store:
    return s3_store(server.bucket, uuid.uuid4().hex, server.session(), endpoint_url=server.endpoint)


async def test_an_object_is_created_once(store: Store) -> None:
    assert await store.create("a/b.json", b"first")
    assert not await store.create("a/b.json", b"second")
    assert await store.get("a/b.json") == b"first"


async def test_of_24_racing_creators_one_wins_and_the_object_is_its_own(store: Store) -> None:
    won = await asyncio.gather(*(store.create("race.json", b"%d" % writer) for writer in range(24)))
    assert sum(won) == 1
    assert await store.get("race.json") == b"%d" % won.index(True)


async def test_a_put_overwrites(store: Store) -> None:
    await store.create("a.txt", b"first")
    await store.put("a.txt", b"second", "text/plain")
    assert await store.get("a.txt") == b"second"


async def test_a_missing_object_is_none_and_removing_it_is_no_error(store: Store) -> None:
    assert await store.get("nothing.json") is None
    assert await store.head("nothing.json") is None
    assert await store.list("nothing/") == []
    for path in ("a/1.json", "a/2.json", "a/3.json"):
        await store.create(path, b"1")
    await store.delete(["a/1.json", "a/nothing.json", "a/3.json"])
    assert [entry.path for entry in await store.list("a/")] == ["a/2.json"]
    await store.delete(["a/1.json", "nothing.json"])


async def test_a_listing_has_paths_below_the_stores_own_prefix_times_and_sizes(store: Store) -> None:
    assert await store.list("open/") == [], "also when nothing was ever written"
    before = datetime.now(UTC) - timedelta(seconds=2)
    for path in ("open/k/1.claim.json", "open/k/2.claim.json", "open/kk/1.claim.json"):
        await store.create(path, b"12345")
    entries = await store.list("open/k/")
    assert sorted(entry.path for entry in entries) == ["open/k/1.claim.json", "open/k/2.claim.json"]
    assert {entry.size for entry in entries} == {5}
    assert all(before <= entry.last_modified <= datetime.now(UTC) for entry in entries)
    assert await store.head("open/k/1.claim.json") in entries


async def test_a_listing_is_whole_when_it_has_many_pages(moto: S3Server) -> None:
    with proxy(moto) as (way, seen):
        way.page = 2
        store = s3_store(seen.bucket, "pages", seen.session(), endpoint_url=seen.endpoint)
        await asyncio.gather(*(store.create(f"many/{number}", b"") for number in range(7)))
        assert len(await store.list("many/")) == 7
        assert way.request_lines.count("GET /restyle") == 4


async def test_the_stores_clock_is_never_ahead_of_it(store: Store) -> None:
    await store.ensure_conditional_put()
    first = store.now()
    assert datetime.now(UTC) - timedelta(seconds=5) < first <= datetime.now(UTC)
    await asyncio.sleep(0.01)
    assert first < store.now()
    assert await store.list("") == [], "the probe is gone"


async def test_a_store_is_probed_once_a_process(moto: S3Server) -> None:
    with proxy(moto) as (way, seen):
        store = s3_store(seen.bucket, "probed-once", seen.session(), endpoint_url=seen.endpoint)
        await asyncio.gather(*(store.ensure_conditional_put() for _ in range(5)))
        probes = [request for request in way.request_lines if "/.probe/" in request]
        assert sorted(request.split()[0] for request in probes) == ["HEAD", "PUT", "PUT"]


async def test_a_second_server_with_the_same_bucket_is_probed_and_its_ages_go_by_its_own_clock(
    moto: S3Server,
) -> None:
    with proxy(moto) as (_, first), proxy(moto) as (ahead, second), proxy(moto) as (unsafe, third):
        ahead.ahead = 600
        unsafe.ignore_conditions = True
        one, other, ignoring = (
            s3_store(server.bucket, "same", server.session(), endpoint_url=server.endpoint)
            for server in (first, second, third)
        )
        await one.ensure_conditional_put()
        await other.ensure_conditional_put()
        assert timedelta(seconds=590) < other.now() - one.now() < timedelta(seconds=610)
        with pytest.raises(UnsafeStoreError, match=r"create-if-absent .* is ignored"):
            await ignoring.ensure_conditional_put()


async def test_another_prefix_of_a_probed_bucket_is_not_probed_again(moto: S3Server) -> None:
    with proxy(moto) as (way, seen):
        for prefix in ("one", "other"):
            store = s3_store(seen.bucket, prefix, seen.session(), endpoint_url=seen.endpoint)
            await store.ensure_conditional_put()
        assert len([request for request in way.request_lines if "/.probe/" in request]) == 3


async def test_objects_on_s3_have_their_type_and_metadata(moto: S3Server) -> None:
    store = on_moto(moto)
    await store.create("1.jpeg", b"picture", "image/jpeg", {"job-key": "abc", "seed": "7"})
    await store.put("2.jpeg", b"picture", "image/jpeg", {"job-key": "abc", "seed": "7"})
    await store.create("metadata.json", b"{}")
    prefix = store.uri.removeprefix(f"s3://{moto.bucket}/")
    for name in ("1.jpeg", "2.jpeg"):
        head = moto.client().head_object(Bucket=moto.bucket, Key=f"{prefix}/{name}")
        assert (head["ContentType"], head["Metadata"]) == ("image/jpeg", {"job-key": "abc", "seed": "7"})
    head = moto.client().head_object(Bucket=moto.bucket, Key=f"{prefix}/metadata.json")
    assert head["ContentType"] == "application/json"


async def test_a_put_whose_answer_was_lost_is_sent_again_and_meets_itself(moto: S3Server) -> None:
    with proxy(moto, Fault("drop", "PUT", "/a.json")) as (way, seen):
        store = s3_store(seen.bucket, "lost", seen.session(), endpoint_url=seen.endpoint)
        assert not await store.create("a.json", b"ours")
        assert await store.get("a.json") == b"ours"
        assert way.request_lines.count("PUT /restyle/lost/a.json") == 2


async def test_an_unreachable_store_is_reported_soon_and_as_retryable(moto: S3Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = s3_store("restyle", "", moto.session(), endpoint_url=endpoint)
        start = time.monotonic()
        with pytest.raises(
            StoreError, match=rf"connection refused by {endpoint}: cannot write s3://restyle/a\.json$"
        ) as caught:
            await store.create("a.json", b"1")
    assert caught.value.retryable
    assert time.monotonic() - start < 10


async def test_an_unknown_host_is_reported_with_the_variable_that_names_it(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://user:secret@s3.invalid:9000")
    store = s3_store("restyle", "", moto.session())
    said = r"^unknown host http://s3\.invalid:9000 \(AWS_ENDPOINT_URL_S3\): cannot (read|list) "
    for action in (store.get("a.json"), store.list("a/")):
        with pytest.raises(StoreError, match=said):
            await action


async def test_a_missing_bucket_is_reported_by_name(moto: S3Server) -> None:
    store = s3_store("nowhere", "x", moto.session(), endpoint_url=moto.endpoint)
    for action in (
        store.ensure_conditional_put(),
        store.create("a", b"1"),
        store.list("a/"),
        store.put("a", b"1", "text/plain"),
    ):
        with pytest.raises(ConfigurationError, match=r"bucket does not exist: cannot .* s3://nowhere/x/"):
            await action


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("s3:/bucket/x", "did you mean s3://bucket/x?"),
        ("s3:bucket/x", "did you mean s3://bucket/x?"),
        ("s3//bucket", "did you mean s3://bucket?"),
        ("S3://bucket/x", "did you mean s3://bucket/x?"),
        ("s3-buckets/x", "did you mean s3-bucket/x?"),
        ("S3_bucket/x", "did you mean s3-bucket/x?"),
        ("s3-bucket", "did you mean s3-bucket/NAME?"),
        ("local-file-sytem/x", "did you mean local-file-system/x?"),
        ("gcs-bucket/x", "use s3://bucket/prefix, s3-bucket/NAME, local-file-system/NAME or a directory"),
        ("s3-bucket/x", "a block of Prefect: open it with"),
        *(
            (name, "none that can be used: use s3://bucket/prefix")
            for name in (
                *("s3/bucket", "b.s3.amazonaws.com/x", "gcs-buckets/x", "aws-s3/x", "minio/x", "3-bucket/x"),
                *(
                    "wavespeed/default",
                    "arn:aws:s3:::b/x",
                    "gs:b",
                    "$HOME/x",
                    "~nouser/x",
                    "C:\\pics",
                    "a b: c",
                ),
            )
        ),
        ("'s3-bucket/'", "leave out the quotes or blanks around it: s3-bucket/. For a directory"),
        ('"s3://b/x"', "leave out the quotes or blanks around it: s3://b/x"),
        ("s3:\\b\\x", "did you mean s3://b/x? For a directory of this name give ./s3:\\b\\x"),
        ("s3:/ /", "no bucket: use s3://bucket/prefix"),
        ("s3:// b/x", "not a bucket and a prefix"),
        ("s3://b/x?versionId=3", "a prefix has no '?'"),
        ("s3://b/../x", "not a bucket and a prefix"),
        ("s3-bucket/no such/x", "no name of a block: it has small letters, digits and dashes"),
        ("file:///tmp/x", "use the path /tmp/x"),
        ("gs://x", "unsupported scheme gs://"),
        ("gs:/x", "unsupported scheme gs://"),
        ("https://bucket.s3.amazonaws.com/x", "unsupported scheme https://"),
        (" ", "output is empty: use a directory or s3://bucket/prefix"),
    ],
)
def test_an_output_that_looks_mistyped_is_refused_and_no_directory_is_made(
    output: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        open_store(output)
    assert output.strip() in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "output",
    ["pictures", "there:/x", "./s3-buckets/x", "./a b: c", "local/x", "v1.2/é ü", "s3backup/x", "a//b"],
)
def test_any_other_name_is_a_directory(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there:" / "x").mkdir(parents=True)
    assert open_store(output).uri == str(tmp_path / output)


async def test_a_job_that_has_ended_leaves_no_folder_behind_in_a_directory(tmp_path: Path) -> None:
    store = directory_store(tmp_path)
    for path in (layout.claim("k", 1), layout.prediction("k", 1)):
        await store.create(path, b"1")
    await store.delete([layout.claim("k", 1)])
    assert (tmp_path / "open/k").is_dir()
    await store.delete([layout.prediction("k", 1)])
    assert [path.name for path in tmp_path.iterdir()] == ["open"]
    assert not list((tmp_path / "open").iterdir())


async def test_a_folder_that_is_removed_stops_nobody_who_writes_into_it_or_lists(tmp_path: Path) -> None:
    async def come_and_go(number: int) -> None:
        store = directory_store(tmp_path)
        for _ in range(100):
            assert await store.create(layout.claim("k", number), b"1")
            await store.delete([layout.claim("k", number)])

    async def look() -> None:
        store = directory_store(tmp_path)
        for _ in range(100):
            await store.list(layout.OPEN)
            await store.find(layout.OPEN, [layout.open_job("k")])
            await store.folders(layout.OPEN)
            async for _ in store.pages(layout.OPEN):
                pass

    work = [*(come_and_go(number) for number in range(1, 4)), look()]
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, each) for each in work))
    assert not list((tmp_path / "open").iterdir())


async def test_a_directory_that_was_made_for_nothing_is_removed_again(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for output in ("empty", "a/b"):
        store = directory_store(tmp_path / output)
        await store.ensure_conditional_put()
        await store.discard_if_empty()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    await store.put("x/y", b"1", "text/plain")
    await store.discard_if_empty()
    assert await store.get("x/y") == b"1"


async def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="use a directory that can be written"):
        open_store(str(tmp_path / "file" / "out"))


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("", "output is empty"),
        ("s3://", "no bucket"),
        ("s3:///prefix", "no bucket"),
        ("gs://bucket/prefix", "unsupported scheme gs://"),
        ("https://bucket.s3.amazonaws.com", "unsupported scheme https://"),
    ],
)
def test_an_output_that_names_no_store_is_refused(output: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        open_store(output)


def test_missing_credentials_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"no AWS credentials found: .* set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/prefix")


@pytest.fixture(scope="module")
def access() -> S3Access:
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    return S3Access(session, endpoint_url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("prefix", "uri"),
    [
        ("a/b", "s3://bucket/a/b"),
        ("/a/b/", "s3://bucket/a/b"),
        ("a/b/", "s3://bucket/a/b"),
        ("", "s3://bucket"),
    ],
)
def test_slashes_around_a_prefix_do_not_matter(prefix: str, uri: str, access: S3Access) -> None:
    store = bucket_store(access, "bucket", prefix)
    assert (store.uri, store.uri_of("x.json")) == (uri, f"{uri}/x.json")


def test_a_bucket_keeps_its_handle_and_with_it_its_connections(access: S3Access) -> None:
    assert access.bucket("bucket", "a") is access.bucket("bucket", "a")
    assert access.bucket("bucket", "a") is not access.bucket("bucket", "b")
    assert access.bucket("bucket", "a") is not access.bucket("bucket", "a", retries=False)


def test_sources_are_on_the_stores_server_or_else_on_the_environments(
    access: S3Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bucket_store(access, "bucket").source_access is access
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:10")
    local = directory_store(tmp_path)
    assert local.source_access.endpoint_url == "http://127.0.0.1:10"
    assert local.source_access is local.source_access


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/b", ("bucket", "a/b")),
        ("s3://bucket", ("bucket", "")),
        ("s3:///a", ("", "a")),
        ("S3://bucket/a", ("bucket", "a")),
    ],
)
def test_an_s3_uri_is_split(uri: str, parts: tuple[str, str]) -> None:
    assert split_s3_uri(uri) == parts


def test_a_bad_endpoint_or_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"^invalid S3 configuration: .*not a url"):
        s3_store("bucket", "", boto3.Session(), endpoint_url="not a url")
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this-one")
    with pytest.raises(ConfigurationError, match=r"^invalid AWS configuration: .*nobody-has-this-one"):
        open_store("s3://bucket/prefix")


def test_amazons_console_shows_an_object_and_no_other_server_has_one(access: S3Access) -> None:
    domains = {
        "eu-west-1": "aws.amazon.com",
        "cn-north-1": "amazonaws.cn",
        "us-gov-west-1": "amazonaws-us-gov.com",
    }
    for region, domain in domains.items():
        session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name=region)
        on_aws = S3Access(session)
        assert on_aws.console_url("bucket", "out/a b.html") == (
            f"https://{region}.console.{domain}/s3/object/bucket?region={region}&prefix=out%2Fa%20b.html"
        )
    assert access.console_url("bucket", "a.html") is None


@pytest.mark.parametrize(
    ("endpoint", "is_aws"),
    [
        (None, True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://minio.example.com", False),
        ("https://s3.amazonaws.com.example.com", False),
        ("http://127.0.0.1:9000", False),
    ],
)
def test_which_endpoints_are_amazons(endpoint: str | None, is_aws: bool, access: S3Access) -> None:
    assert S3Access(access.session, endpoint_url=endpoint).is_aws is is_aws
