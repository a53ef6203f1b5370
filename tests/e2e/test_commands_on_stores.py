"""The command ``restyle image`` on every kind of store, for every kind of source, as scripts call it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsClientParameters, AwsCredentials, MinIOCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from prefect_wavespeed.api.client import WaveSpeedClient
from tests.support.ceph import CephGateway
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.in_process import restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SEEDS = count(8_000)
_RESTYLED = {"job_key", "prediction_id", "cached", "cost_usd", "seed", "outputs", "warnings", "metadata_uri"}
_OUTPUT = {"uri", "sha256", "bytes", "width", "height", "content_type", "nsfw"}
_ERROR = {"type", "message", "retryable", "job_key", "prediction_id"}


@dataclass(frozen=True)
class Output:
    """An output as it is given to the command, and how to read it."""

    out: str
    uri: str
    env: Mapping[str, str] = field(default_factory=dict)
    s3: S3Client | None = None

    def read(self, uri: str) -> bytes:
        """An object's bytes."""
        assert uri.startswith(self.uri + "/")
        if self.s3 is None:
            return Path(uri).read_bytes()
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()


@dataclass
class Shell:
    """Where commands are run."""

    prefect: PrefectServer
    emulator: Emulator
    seed: int = field(default_factory=lambda: next(_SEEDS))

    def image(self, source: str, out: str, env: Mapping[str, str], *options: str) -> Ended:
        """Run ``restyle image … --json``."""
        given = ["image", source, "--out", out, "--size", "256*256", "--seed", str(self.seed)]
        usual = {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": self.emulator.url}
        return restyle(*given, *options, "--json", prefect=self.prefect, env={**usual, **env})

    def calls(self) -> dict[str, int]:
        """How often each call reached WaveSpeedAI."""
        calls: dict[str, int] = self.emulator.ledger()["calls"]
        return calls


@pytest.fixture
def shell(prefect: PrefectServer, emulator: Emulator) -> Shell:
    return Shell(prefect, emulator)


def _local_block(request: pytest.FixtureRequest) -> Output:
    folder = request.getfixturevalue("tmp_path") / "out"
    with request.getfixturevalue("prefect").used_here():
        LocalFileSystem(basepath=str(folder)).save("pictures", overwrite=True)
    return Output("local-file-system/pictures", str(folder))


def _ceph(request: pytest.FixtureRequest) -> Output:
    server: CephGateway = request.getfixturevalue("ceph")
    uri = f"s3://{server.bucket}/commands"
    return Output(uri, uri, server.env, server.client())


def _minio_block(request: pytest.FixtureRequest) -> Output:
    server: CephGateway = request.getfixturevalue("ceph")
    credentials = MinIOCredentials(
        minio_root_user=server.access_key,
        minio_root_password=SecretStr(server.secret_key),
        region_name=server.region,
        aws_client_parameters=AwsClientParameters(endpoint_url=server.endpoint),
    )
    return _bucket_block(request, server, "minio", credentials)


def _aws_block(request: pytest.FixtureRequest) -> Output:
    server: CephGateway = request.getfixturevalue("ceph")
    credentials = AwsCredentials(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=SecretStr(server.secret_key),
        region_name=server.region,
        aws_client_parameters=AwsClientParameters(endpoint_url=server.endpoint),
    )
    return _bucket_block(request, server, "aws", credentials)


def _bucket_block(
    request: pytest.FixtureRequest,
    server: CephGateway,
    name: str,
    credentials: AwsCredentials | MinIOCredentials,
) -> Output:
    with request.getfixturevalue("prefect").used_here():
        credentials.save(name, overwrite=True)
        bucket = S3Bucket(bucket_name=server.bucket, bucket_folder=f"blocks/{name}", credentials=credentials)
        bucket.save(name, overwrite=True)
    return Output(f"s3-bucket/{name}", f"s3://{server.bucket}/blocks/{name}", s3=server.client())


_OUTPUTS = {
    "a saved directory": _local_block,
    "Ceph": _ceph,
    "Ceph by a block with MinIO's credentials": _minio_block,
    "Ceph by a block with AWS's credentials": _aws_block,
}


@pytest.fixture(params=list(_OUTPUTS.values()), ids=list(_OUTPUTS))
def output(request: pytest.FixtureRequest) -> Output:
    output: Output = request.param(request)
    return output


def test_the_second_time_the_answer_is_what_is_stored_and_wavespeed_is_not_asked(
    shell: Shell, output: Output
) -> None:
    first = _restyled(shell.image(str(PHOTO), output.out, output.env, "--num-images", "2"))
    assert (first["cached"], first["cost_usd"], first["seed"]) == (False, 0.05, shell.seed)
    before = shell.calls()
    assert before["submit"] == 1

    second = _restyled(shell.image(str(PHOTO), output.out, output.env, "--num-images", "2"))
    assert shell.calls() == before
    assert second == {**first, "cached": True, "cost_usd": 0}

    assert len(first["outputs"]) == 2
    for picture in first["outputs"]:
        data = output.read(picture["uri"])
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (picture["sha256"], picture["bytes"])
        assert (picture["width"], picture["height"], picture["nsfw"]) == (256, 256, None)
        assert picture["content_type"] == "image/jpeg"
    metadata = json.loads(output.read(first["metadata_uri"]))
    assert metadata["prediction"]["id"] == first["prediction_id"]
    if output.s3:
        _check_objects(output.s3, first, metadata)


def _check_objects(s3: S3Client, restyled: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Objects say what they are and where they come from."""
    expected = {
        "job-key": restyled["job_key"],
        "prediction-id": restyled["prediction_id"],
        "flow-run-id": metadata["run"]["flow_run_id"],
        "seed": str(restyled["seed"]),
    }
    kinds = dict.fromkeys((output["uri"] for output in restyled["outputs"]), "image/jpeg")
    for uri, content_type in {**kinds, restyled["metadata_uri"]: "application/json"}.items():
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        head = s3.head_object(Bucket=bucket, Key=key)
        assert head["ContentType"] == content_type
        assert head["Metadata"] == expected


def test_a_picture_behind_a_url_is_restyled_once(shell: Shell, tmp_path: Path) -> None:
    url = _uploaded(shell)
    first = _restyled(shell.image(url, str(tmp_path / "out"), {}))
    before = shell.calls()
    second = _restyled(shell.image(url + "?X-Amz-Signature=other", str(tmp_path / "out"), {}))
    assert second == {**first, "cached": True, "cost_usd": 0}
    assert shell.calls() == before


def _uploaded(shell: Shell) -> str:
    async def upload() -> str:
        async with WaveSpeedClient("some-key", shell.emulator.url) as client:
            return await client.upload("picture.jpg", PHOTO.read_bytes(), "image/jpeg")

    return asyncio.run(upload())


def test_a_picture_in_a_bucket_is_restyled_once_and_again_when_its_bytes_change(
    shell: Shell, ceph: CephGateway
) -> None:
    source = f"s3://{ceph.bucket}/sources/picture.jpg"
    out = f"s3://{ceph.bucket}/from-a-bucket"
    s3 = ceph.client()
    s3.put_object(Bucket=ceph.bucket, Key="sources/picture.jpg", Body=PHOTO.read_bytes())
    first = _restyled(shell.image(source, out, ceph.env))
    before = shell.calls()
    assert before["upload"] == 1  # WaveSpeedAI cannot reach this gateway
    second = _restyled(shell.image(source, out, ceph.env))
    assert second == {**first, "cached": True, "cost_usd": 0}
    assert shell.calls() == before

    other = PHOTO.with_name("coffee.jpg").read_bytes()
    s3.put_object(Bucket=ceph.bucket, Key="sources/picture.jpg", Body=other)
    third = _restyled(shell.image(source, out, ceph.env))
    assert not third["cached"]
    assert third["job_key"] != first["job_key"]


def test_a_wrong_secret_is_one_clear_line(shell: Shell, ceph: CephGateway) -> None:
    ended = shell.prefect.restyle(  # in a process of its own, with nothing but this on its terminal
        "image",
        str(PHOTO),
        "--out",
        f"s3://{ceph.bucket}/wrong",
        env={
            **ceph.env,
            "AWS_SECRET_ACCESS_KEY": "not-the-secret",
            "WAVESPEED_API_KEY": "some-key",
            "WAVESPEED_BASE_URL": shell.emulator.url,
        },
    )
    assert ended.status == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"error: wrong secret access key: cannot read s3://{ceph.bucket}/wrong/")
    assert sum(shell.calls().values()) == 0


def test_a_bucket_that_is_not_there_is_one_json_error(shell: Shell, ceph: CephGateway) -> None:
    error = _error(shell.image(str(PHOTO), "s3://nowhere/at-all", ceph.env))
    assert "nowhere" in error["message"]
    assert sum(shell.calls().values()) == 0


def test_a_refusal_is_one_json_error(shell: Shell, tmp_path: Path) -> None:
    shell.emulator.faults([{"on": "submit", "fault": "refused", "status": 402}])
    error = _error(shell.image(str(PHOTO), str(tmp_path / "out"), {}))
    assert (error["type"], error["retryable"]) == ("InsufficientCreditsError", False)
    assert shell.emulator.ledger()["billed"] == 0


def test_a_failed_prediction_is_one_json_error_that_names_it(shell: Shell, tmp_path: Path) -> None:
    shell.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1400, "message": "no"}])
    error = _error(shell.image(str(PHOTO), str(tmp_path / "out"), {}))
    (prediction,) = shell.emulator.ledger()["predictions"]
    assert (error["type"], error["prediction_id"]) == ("PredictionFailedError", prediction["id"])
    assert error["job_key"]


def _restyled(ended: Ended) -> dict[str, Any]:
    """The only thing on stdout, which has the documented keys."""
    assert ended.status == 0, ended
    restyled: dict[str, Any] = json.loads(ended.stdout)
    assert set(restyled) == _RESTYLED
    assert [output for output in restyled["outputs"] if set(output) != _OUTPUT] == []
    return restyled


def _error(ended: Ended) -> dict[str, Any]:
    """The only thing on stdout: an error with the documented keys."""
    assert ended.status == 1, ended
    result = json.loads(ended.stdout)
    assert set(result) == {"error"}
    error: dict[str, Any] = result["error"]
    assert set(error) == _ERROR
    assert "\n" not in error["message"]
    return error
