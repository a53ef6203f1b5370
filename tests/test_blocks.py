"""The blocks, saved on and loaded from a real Prefect server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml  # type: ignore[import-untyped]  # Prefect's own
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from prefect_aws import AwsClientParameters, AwsCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_wavespeed.blocks import names
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.wavespeed import WaveSpeed, load_wavespeed
from prefect_wavespeed.deployments.cli.shared.access import NO_KEY, check_access
from prefect_wavespeed.errors import ConfigurationError
from tests.support.prefect_server import PrefectServer
from tests.support.raw_server import RawServer, answer
from tests.support.s3_servers import S3Server

ROOT = Path(__file__).resolve().parents[1]
KEY = "key-that-nobody-may-see"


class TestWaveSpeedBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return WaveSpeed

    @pytest.mark.skip(reason="fetches the logo")
    def test_has_a_valid_image(self, block: type[Block]) -> None: ...


@pytest.fixture
def saving(prefect: PrefectServer) -> Iterator[PrefectServer]:
    with prefect.used_here():
        yield prefect


def save(name: str, key: str = KEY, **fields: Any) -> None:
    secret: Secret[Any] = Secret(value=SecretStr(key))
    secret.save(f"{name}-key", overwrite=True)
    WaveSpeed(api_key=secret, **fields).save(name, overwrite=True)


def key_of(block: WaveSpeed) -> str:
    """The key that the block's client sends."""

    async def ask() -> str:
        async with RawServer(answer({"balance": 1.0})) as server:
            async with block.model_copy(update={"base_url": server.url}).get_client() as client:
                await client.balance()
            (header,) = re.findall(rb"(?im)^authorization: Bearer (\S+)", server.requests[0])
            return str(header.decode())

    return asyncio.run(ask())


def test_a_block_comes_back_as_it_was_saved(saving: PrefectServer) -> None:
    save("whole", requests_per_minute=500, max_in_flight=100, timeout=7)
    block = asyncio.run(load_wavespeed("whole"))
    assert block.api_key.value.get_secret_value() == KEY
    assert (block.requests_per_minute, block.max_in_flight, block.timeout) == (500, 100, 7)


def test_a_block_may_be_named_with_its_type(saving: PrefectServer) -> None:
    save("typed")
    assert asyncio.run(load_wavespeed("wavespeed/typed")).base_url == "https://api.wavespeed.ai"


def test_a_key_of_digits_is_unchanged(saving: PrefectServer) -> None:
    """Prefect's Secret.get() would parse it as a number."""
    save("digits", key="0012e3")
    assert key_of(asyncio.run(load_wavespeed("digits"))) == "0012e3"


def test_only_the_secret_block_holds_the_key(saving: PrefectServer) -> None:
    save("masked")
    block = asyncio.run(load_wavespeed("masked"))
    shown = [repr(block), str(block), repr(block.get_client()), block.model_dump_json()]
    documents = saving.call("POST", "/block_documents/filter", {"include_secrets": False})
    secrets = saving.call("POST", "/block_documents/filter", {"include_secrets": True})
    assert KEY not in "".join(shown)
    assert KEY not in str(documents)
    stored = {d["name"]: d["data"] for d in secrets}
    assert stored["masked-key"] == {"value": KEY}
    assert set(stored["masked"]["api_key"]) <= {"value", "$ref", "block_type_slug"}


def test_the_error_for_an_unknown_block_names_it(saving: PrefectServer) -> None:
    with pytest.raises(ConfigurationError, match="wavespeed/nobody"):
        asyncio.run(load_wavespeed("nobody"))


def test_the_environment_is_used_if_no_default_block_is_saved(
    saving: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVESPEED_API_KEY", KEY)
    monkeypatch.setenv("WAVESPEED_BASE_URL", "http://127.0.0.1:1")
    block = asyncio.run(load_wavespeed())
    assert block.base_url == "http://127.0.0.1:1"
    assert key_of(block) == KEY
    monkeypatch.delenv("WAVESPEED_API_KEY")
    with pytest.raises(ConfigurationError, match="WAVESPEED_API_KEY"):
        asyncio.run(load_wavespeed())


def alone(home: Path) -> AbstractContextManager[object]:
    """Prefect without a server: it would start one on what is in a home."""
    return temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL})


def test_that_there_is_no_key_anywhere_is_known_before_prefect_is_started(
    saving: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAVESPEED_API_KEY", raising=False)
    check_access("default")  # a server may have the block
    for home in (tmp_path, saving.home):
        with alone(home), pytest.raises(ConfigurationError, match=NO_KEY):
            check_access("default")
    save("default")
    try:
        with alone(saving.home):
            check_access("default")
    finally:
        saving.clean()


def test_a_base_url_in_the_environment_other_than_the_saved_one_is_refused(
    saving: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("default", base_url="https://api.example.com/")
    try:
        monkeypatch.setenv("WAVESPEED_BASE_URL", "http://127.0.0.1:8787")
        with pytest.raises(ConfigurationError, match=r"another API than .* https://api\.example\.com/: "):
            asyncio.run(load_wavespeed())
        monkeypatch.setenv("WAVESPEED_BASE_URL", "https://api.example.com")
        assert asyncio.run(load_wavespeed()).base_url == "https://api.example.com/"
    finally:
        saving.clean()


def test_a_submit_timeout_that_breaks_the_lease_is_refused() -> None:
    """Half the lease is 75 s by default."""
    block = WaveSpeed(api_key=Secret(value=SecretStr(KEY)), submit_timeout=75)
    with pytest.raises(ConfigurationError, match="RESTYLE_LEASE_SECONDS"):
        block.get_client()


def hooked(url: str) -> WaveSpeed:
    return WaveSpeed(api_key=Secret(value=SecretStr(KEY)), webhook_url=SecretStr(url))


@pytest.mark.parametrize(
    ("url", "unwaited"),
    [
        ("https://hooks.example.com/wavespeed", "https://hooks.example.com/wavespeed?wait=no"),
        (
            "https://hooks.example.com:8443/a/wavespeed?token=a%2Fb+c",
            "https://hooks.example.com:8443/a/wavespeed?token=a%2Fb+c&wait=no",
        ),
        ("http://127.0.0.1:8080/wavespeed", "http://127.0.0.1:8080/wavespeed?wait=no"),
    ],
)
def test_the_webhook_url_says_whether_the_run_waits_and_keeps_its_query(url: str, unwaited: str) -> None:
    assert hooked(url).webhook_url_for(wait=True) == url
    assert hooked(url).webhook_url_for(wait=False) == unwaited


def test_a_block_without_a_webhook_url_has_none_for_a_submission() -> None:
    assert hooked("").webhook_url_for(wait=False) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/wavespeed?token=s3cret",
        "hooks.example.com",
        "https://",
        "https://[::1",
        "https://user:s3cret@hooks.example.com/",
        "https://hooks.example.com/#s3cret",
        "ftp://127.0.0.1/",
    ],
)
def test_a_webhook_url_that_is_not_https_is_refused_and_its_query_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="webhook_url must be https") as refused:
        hooked(url).get_client()
    assert "s3cret" not in str(refused.value)
    assert url.partition("?")[0][:8] in str(refused.value)


def test_a_webhook_url_is_not_shown_with_its_block() -> None:
    assert "s3cret" not in repr(hooked("https://hooks.example.com/?token=s3cret"))


def test_a_directory_block_opens_its_directory(saving: PrefectServer, tmp_path: Path) -> None:
    LocalFileSystem(basepath=str(tmp_path / "there")).save("somewhere", overwrite=True)
    store = asyncio.run(open_output("local-file-system/somewhere"))
    assert store.uri == str(tmp_path / "there")


def test_a_bucket_block_opens_its_prefix_with_its_credentials(saving: PrefectServer, moto: S3Server) -> None:
    credentials = AwsCredentials(
        aws_access_key_id="test",
        aws_secret_access_key=SecretStr("test"),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=moto.endpoint),
    )
    credentials.save("team", overwrite=True)
    bucket = S3Bucket(bucket_name=moto.bucket, bucket_folder="pictures/", credentials=credentials)
    bucket.save("team", overwrite=True)

    async def use() -> tuple[str, bytes | None]:
        store = await open_output("s3-bucket/team")
        await store.ensure_conditional_put()
        await store.put("hello", b"1", "text/plain")
        return store.uri, await store.get("hello")

    assert asyncio.run(use()) == (f"s3://{moto.bucket}/pictures", b"1")
    there = moto.client().get_object(Bucket=moto.bucket, Key="pictures/hello")
    assert there["Body"].read() == b"1"


@pytest.mark.parametrize("output", ["s3-bucket/nobody", "local-file-system/nobody"])
def test_the_error_for_an_unknown_output_block_names_it(saving: PrefectServer, output: str) -> None:
    with pytest.raises(ConfigurationError, match=output):
        asyncio.run(open_output(output))


def test_prefect_yaml_uses_the_names_of_the_code() -> None:
    text = (ROOT / "deployments" / "prefect.yaml").read_text()
    declared = yaml.safe_load(text)
    deployments = {each["name"]: each for each in declared["deployments"]}
    assert tuple(deployments) == names.DEPLOYMENTS
    assert all(each["tags"] == [names.TAG] for each in deployments.values())
    assert deployments[names.OBJECT_DEPLOYMENT]["work_pool"]["work_queue_name"] == names.OBJECT_QUEUE
    used = set(re.findall(r"\{\{ prefect\.variables\.(\w+) \}\}", text))
    assert used == {names.variable(setting) for setting in get_args(names.Setting)}
    assert {f"prefect.tag.{names.TAG}"} == set(re.findall(r"prefect\.tag\.\w+", text))
    assert f'"!{names.SETTLE_DEPLOYMENT}"' in text


def test_every_deployment_has_the_name_of_its_flow() -> None:
    declared = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    for each in declared["deployments"]:
        module, _, function = each["entrypoint"].rpartition(".")
        assert getattr(import_module(module), function).name == each["name"]
