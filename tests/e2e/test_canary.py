"""A unique key is searched for in everything that runs leave behind.

One Prefect server with its own database sees successes, every failure, retries, crashes and kills, with
results persisted and everything logged. Then everything that was written anywhere is searched for the key.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import signal
import sqlite3
import time
from base64 import b64encode, urlsafe_b64encode
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.config import Config
from prefect_aws import AwsClientParameters, AwsCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended, wait_until
from tests.support.s3_servers import S3Server

# Makes Prefect, HTTP clients and boto3 log as much as they can, to the server and to the terminal.
_VERBOSE = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "httpx,httpcore,aiohttp,asyncio,boto3,botocore,urllib3,restyle",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
}
_TIMES = {
    "RESTYLE_LEASE_SECONDS": "40",
    "RESTYLE_SUBMIT_TIMEOUT_SECONDS": "10",
    "RESTYLE_RECONCILE_SECONDS": "3",
    "RESTYLE_POLL_TIMEOUT_SECONDS": "10",
}
_KINDS = ("api", "rows", "home", "output", "bucket", "emulator", "terminal")


@dataclass(frozen=True)
class Failure:
    """Faults, and the type of the result or error that a run then ends with."""

    ends_with: str
    rules: list[dict[str, Any]] = field(default_factory=list)


def _failures(key: str, signed: str) -> dict[str, Failure]:
    """Every kind of failure. Wherever the API's answer has a message, that holds the key or a signed URL."""

    def refused(status: int, **more: Any) -> list[dict[str, Any]]:
        return [{"on": "submit", "fault": "refused", "status": status, "message": f"not with {key}", **more}]

    def result(status: int, **more: Any) -> list[dict[str, Any]]:
        message = f"Authorization: Bearer {key} and {signed}"
        return [{"on": "result", "fault": "status", "status": status, "message": message, **more}]

    def prediction(fault: str, **more: Any) -> list[dict[str, Any]]:
        return [{"on": "prediction", "fault": fault, **more}]

    always = {"times": None}
    message = f"cannot fetch {signed} for {key}"
    return {
        "refused 401": Failure("AuthenticationError", refused(401)),
        "refused 401 under HTTP 200": Failure("AuthenticationError", refused(401, enveloped=True)),
        "refused 402": Failure("InsufficientCreditsError", refused(402)),
        "refused 403": Failure("AuthenticationError", refused(403)),
        "refused 400": Failure("InvalidRequestError", refused(400)),
        "refused 429, then taken": Failure("Restyled", refused(429, retry_after=0.2)),
        "refused 503, then taken": Failure("Restyled", refused(503)),
        "answer lost": Failure("Restyled", [{"on": "submit", "fault": "drop_after"}]),
        "garbage answered": Failure("Restyled", [{"on": "submit", "fault": "garbage"}]),
        "504 after creation": Failure(
            "Restyled", [{"on": "submit", "fault": "status_after", "message": f"{key} {signed}"}]
        ),
        "failed for good": Failure("PredictionFailedError", prediction("failed", code=1400, message=message)),
        "failed three times": Failure(
            "PredictionFailedError", prediction("failed", code=5000, message=message, **always)
        ),
        "never ready": Failure("PredictionTimeoutError", prediction("stuck")),
        "expired once": Failure("Restyled", prediction("expired")),
        "result 401": Failure("AuthenticationError", result(401)),
        "result 500 for a while": Failure("Restyled", result(500, times=3)),
        "CDN 404": Failure("OutputError", [{"on": "cdn", "fault": "status", "message": key, **always}]),
        "CDN HTML": Failure("OutputError", [{"on": "cdn", "fault": "html", **always}]),
        "CDN truncated": Failure("OutputError", [{"on": "cdn", "fault": "truncated", **always}]),
    }


@dataclass
class Aftermath:
    """What the runs left behind.

    Attributes:
        key: the API key.
        aws_secret: the secret key for the bucket.
        signature: the signature of a presigned URL that was a source.
        marker: part of the source's name: places in which it is not found were not searched.
        places: contents by the name of the place, which begins with a kind of ``_KINDS``.
        blocks: block documents, with secrets as the server returns them.
        endings: the type of the result or error of each run.
        commands: how each command ended.
    """

    key: str
    aws_secret: str
    signature: str = ""
    marker: str = field(default_factory=lambda: f"marker{secrets.token_hex(6)}")
    places: dict[str, bytes] = field(default_factory=dict)
    blocks: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    endings: dict[str, str] = field(default_factory=dict)
    commands: dict[str, Ended] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)

    def where(self, *texts: str) -> list[str]:
        """The places that contain one of the texts, in any encoding."""
        encodings = [each for text in texts for each in _encodings(text)]
        return [place for place, data in self.places.items() if _contains(data, encodings)]


def _encodings(text: str) -> list[bytes]:
    """A text in plain, in hexadecimal, and in base64 at every offset."""
    raw = text.encode()
    encodings = [raw, raw.hex().encode()]
    for offset in range(3):
        for encode in (b64encode, urlsafe_b64encode):
            # the first and the last characters hold bits of the surrounding text
            whole = encode(bytes(offset) + raw)
            encodings.append(whole[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6])
    return encodings


def _contains(data: bytes, encodings: list[bytes]) -> bool:
    unbroken = data.replace(b"\\n", b"").replace(b"\n", b"")  # base64 is in lines, also inside JSON
    return any(each in data or each in unbroken for each in encodings)


def _halves(secret: str) -> tuple[str, str]:
    """Half a secret is a leak as well, and whatever contains all of it contains these."""
    random = secret.removeprefix("canary-")
    return random[: len(random) // 2], random[len(random) // 2 :]


@pytest.fixture(scope="module")
def aftermath(moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """What is left behind once everything has happened."""
    folder = tmp_path_factory.mktemp("canary")
    aftermath = Aftermath(f"canary-{secrets.token_hex(16)}", f"canary-{secrets.token_hex(16)}")
    with Emulator("--latency", "0.05", "0.1", "--key", aftermath.key) as emulator:
        with PrefectServer(folder / "home", {"PREFECT_LOGGING_SERVER_LEVEL": "DEBUG"}) as prefect:
            History(aftermath, prefect, emulator, moto, folder).happen()
            _settle(folder / "home" / "prefect.db")
            aftermath.places |= _answers(prefect)
            aftermath.blocks = {
                f"{block['block_type']['slug']}/{block['name']}": block
                for block in prefect.all("block_documents", include_secrets=True)
            }
        aftermath.ledger = emulator.ledger()
        aftermath.places["emulator/ledger"] = json.dumps(aftermath.ledger).encode()
    aftermath.places |= _files(folder / "home", "home") | _rows(folder / "home" / "prefect.db")
    aftermath.places |= _files(folder / "out", "output") | _objects(moto, "canary/")
    for name, ended in aftermath.commands.items():
        aftermath.places[f"terminal/{name}"] = f"{ended.stdout}\n{ended.stderr}".encode()
    return aftermath


@dataclass
class History:
    """The runs, one after the other."""

    aftermath: Aftermath
    prefect: PrefectServer
    emulator: Emulator
    moto: S3Server
    folder: Path

    def happen(self) -> None:
        """Run them all."""
        picture = self.folder / f"{self.aftermath.marker}.jpg"
        shutil.copy(PHOTO, picture)
        signed = self._signed(picture)
        self.aftermath.signature = parse_qs(urlsplit(signed).query)["X-Amz-Signature"][0]
        self.aftermath.failures = _failures(self.aftermath.key, signed)

        settings = {"WAVESPEED_API_KEY": self.aftermath.key, "WAVESPEED_BASE_URL": self.emulator.url}
        self._command("unsaved", "image", str(picture), *self._into("unsaved"), env=settings)
        self._command("setup", "setup", "--out", str(self.folder / "out" / "setup"), env=settings)
        self._command("saved", "image", str(picture), *self._into("saved"))
        self._save_bucket()
        self._command("bucket", "image", str(picture), "--out", "s3-bucket/canary", "--size", "256*256")
        self._failures(picture, signed)
        self._refused(picture)
        self._interrupted(picture)

    def _into(self, name: str, seed: int = -1) -> list[str]:
        return ["--out", str(self.folder / "out" / name), "--size", "256*256", "--seed", str(seed)]

    def _command(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> Ended:
        ended = self._start(*arguments, env=env).ended()
        self.aftermath.commands[name] = ended
        return ended

    def _start(self, *arguments: str, env: dict[str, str] | None = None) -> Command:
        return self.prefect.start(*arguments, env={**_VERBOSE, **_TIMES, **(env or {})})

    def _signed(self, picture: Path) -> str:
        config = Config(signature_version="s3v4")
        client = self.moto.session().client("s3", endpoint_url=self.moto.endpoint, config=config)
        at = {"Bucket": self.moto.bucket, "Key": f"canary/sources/{picture.name}"}
        client.upload_file(str(picture), at["Bucket"], at["Key"])
        return client.generate_presigned_url("get_object", Params=at)

    def _save_bucket(self) -> None:
        with self.prefect.used_here():
            credentials = AwsCredentials(
                aws_access_key_id="test",
                aws_secret_access_key=SecretStr(self.aftermath.aws_secret),
                region_name="us-east-1",
                aws_client_parameters=AwsClientParameters(endpoint_url=self.moto.endpoint),
            )
            credentials.save("canary")
            bucket = S3Bucket(
                bucket_name=self.moto.bucket, bucket_folder="canary/block", credentials=credentials
            )
            bucket.save("canary")

    def _failures(self, picture: Path, signed: str) -> None:
        """A user's flow, which persists results, meets every failure."""
        bucket = f"s3://{self.moto.bucket}/canary"
        parameters: dict[str, dict[str, Any]] = {}
        rules = []
        for seed, (name, failure) in enumerate(self.aftermath.failures.items(), 100):
            out = bucket if seed % 2 else str(self.folder / "out" / "failures")
            parameters[name] = {"image": str(picture), "output": out, "params": _params(seed)}
            rules += [{**rule, "match": {"seed": seed}} for rule in failure.rules]
        a_file = self.folder / "out" / "a-file"
        a_file.write_text("no directory")
        parameters["no directory"] = {"image": str(picture), "output": str(a_file), "params": _params(1)}
        parameters["no bucket"] = {"image": str(picture), "output": "s3://nowhere/x", "params": _params(1)}
        parameters["signed"] = {"image": signed, "output": bucket, "params": _params(2)}
        parameters["signed, again"] = {**parameters["signed"], "params": _params(2)}
        self.emulator.faults(rules)
        run = self.prefect.python(
            "-m",
            "tests.support.persisted_runs",
            json.dumps(parameters),
            env={**_VERBOSE, **_TIMES, **self.moto.env, "AWS_SECRET_ACCESS_KEY": self.aftermath.aws_secret},
        )
        ended = self.aftermath.commands["failures"] = run.ended(400)
        self.aftermath.endings = json.loads(ended.stdout.splitlines()[-1]) if ended.status == 0 else {}

    def _refused(self, picture: Path) -> None:
        """Commands are refused, with the key in the refusal's message."""
        self.emulator.faults(
            [
                {
                    "on": "submit",
                    "fault": "refused",
                    "status": 401,
                    "message": self.aftermath.key,
                    "times": None,
                }
            ]
        )
        for name, more in (("refused", []), ("refused, as JSON", ["--json"])):
            self._command(name, "image", str(picture), *self._into("refused"), *more)

    def _interrupted(self, picture: Path) -> None:
        """Commands are interrupted while they poll, and the killed one is run again."""
        signals = {200: signal.SIGKILL, 201: signal.SIGTERM, 202: signal.SIGINT}
        slow = {"on": "prediction", "fault": "slow", "seconds": 25}
        self.emulator.faults([{**slow, "match": {"seed": seed}} for seed in signals])
        env = {"RESTYLE_POLL_TIMEOUT_SECONDS": "60"}
        runs = {
            seed: self._start("image", str(picture), *self._into("interrupted", seed), env=env)
            for seed in signals
        }

        def all_submitted() -> bool:
            seeds = {prediction["input"]["seed"] for prediction in self.emulator.ledger()["predictions"]}
            return seeds >= set(signals) or not all(run.running for run in runs.values())

        wait_until(all_submitted)
        time.sleep(3)
        for seed, signum in signals.items():
            runs[seed].send(signum)
        self.aftermath.commands |= {signum.name: runs[seed].ended() for seed, signum in signals.items()}
        killed = self._into("interrupted", 200)
        self._command("SIGKILL, again", "image", str(picture), *killed, env=env)


def _params(seed: int) -> dict[str, Any]:
    return {"size": "256*256", "seed": seed}


def _settle(database: Path) -> None:
    """Wait until the server has recorded everything that it has received."""
    counts = " UNION ALL ".join(f"SELECT count(*) FROM {table}" for table in ("log", "task_run", "artifact"))
    seen: list[tuple[int]] = []
    with closing(sqlite3.connect(database)) as connection:
        while seen != (seen := connection.execute(counts).fetchall()):
            time.sleep(3)


def _answers(prefect: PrefectServer) -> dict[str, bytes]:
    """Everything that the server's API returns, except secrets."""
    kinds = "flows flow_runs task_runs logs artifacts block_documents block_types deployments variables"
    answers: dict[str, Any] = {f"api/{kind}": prefect.all(kind) for kind in kinds.split()}
    answers["api/events"] = prefect.events()
    answers["api/flow_run_states"] = [
        prefect.call("GET", f"/flow_run_states/?flow_run_id={run['id']}") for run in answers["api/flow_runs"]
    ]
    return {name: json.dumps(value).encode() for name, value in answers.items()}


def _files(folder: Path, kind: str) -> dict[str, bytes]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {f"{kind}/{path.relative_to(folder)}": path.read_bytes() for path in found}


def _rows(database: Path) -> dict[str, bytes]:
    """The columns of all tables, decoded."""
    found = {}
    connection = sqlite3.connect(database)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        cursor = connection.execute(f'SELECT * FROM "{table}"')
        rows = cursor.fetchall()
        for number, (column, *_) in enumerate(cursor.description):
            found[f"rows/{table}.{column}"] = "\n".join(str(row[number]) for row in rows).encode()
    connection.close()
    return found


def _objects(server: S3Server, prefix: str) -> dict[str, bytes]:
    """Every object, with its headers."""
    client, found = server.client(), {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=server.bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            answer = client.get_object(Bucket=server.bucket, Key=entry["Key"])
            headers = json.dumps(answer["ResponseMetadata"]["HTTPHeaders"]).encode()
            found[f"bucket/{entry['Key']}"] = headers + b"\n" + answer["Body"].read()
    return found


def test_every_run_ended_as_expected(aftermath: Aftermath) -> None:
    expected = {name: failure.ends_with for name, failure in aftermath.failures.items()}
    run = aftermath.commands["failures"]
    assert run.status == 0, run.stderr[-3000:]
    assert {name: aftermath.endings[name] for name in expected} == expected, run.stdout
    assert aftermath.endings["signed"] == aftermath.endings["signed, again"] == "Restyled"
    assert aftermath.endings["no directory"] == "ConfigurationError"
    assert aftermath.endings["no bucket"] == "BucketNotFoundError"
    failed = {name: ended.status for name, ended in aftermath.commands.items() if ended.status != 0}
    assert failed == {
        "refused": 1,
        "refused, as JSON": 1,
        "SIGKILL": -signal.SIGKILL,
        "SIGTERM": 128 + signal.SIGTERM,
        "SIGINT": 130,
    }


@pytest.mark.parametrize("kind", _KINDS)
def test_the_search_finds_the_marker(aftermath: Aftermath, kind: str) -> None:
    assert [place for place in aftermath.where(aftermath.marker) if place.startswith(f"{kind}/")] != []


@pytest.mark.parametrize(
    "place",
    [
        "home/prefect.db",
        "home/server.log",
        "rows/flow_run.name",
        "rows/log.message",
        "rows/artifact.data",
        "rows/events.payload",
        "api/logs",
        "api/events",
        "api/artifacts",
        "terminal/failures",
        "terminal/SIGTERM",
        "terminal/SIGINT",
    ],
)
def test_the_search_covers(aftermath: Aftermath, place: str) -> None:
    assert place in aftermath.places
    assert aftermath.places[place] != b""


def test_the_search_finds_persisted_results_in_base64(aftermath: Aftermath) -> None:
    metadata = next(data for place, data in aftermath.places.items() if place.endswith("/metadata.json"))
    found = re.search(rb'"job_key": ?"([0-9a-f]{64})"', metadata)
    assert found
    kept = [place for place in aftermath.where(aftermath.marker) if place.startswith("home/storage/")]
    assert kept != []
    assert [place for place in kept if aftermath.marker.encode() not in aftermath.places[place]] != []


def test_the_key_is_nowhere(aftermath: Aftermath) -> None:
    assert aftermath.where(*_halves(aftermath.key)) == []
    assert not aftermath.ledger["keys_seen_on_cdn"]


def test_the_secret_key_of_the_bucket_is_nowhere(aftermath: Aftermath) -> None:
    assert aftermath.where(*_halves(aftermath.aws_secret)) == []


def test_only_the_secret_block_holds_the_key(aftermath: Aftermath) -> None:
    holding = {name for name, block in aftermath.blocks.items() if aftermath.key in json.dumps(block)}
    # the WaveSpeed block refers to the Secret block; the server resolves that if asked for secrets
    assert holding == {"secret/wavespeed-api-key", "wavespeed/default"}
    assert aftermath.blocks["secret/wavespeed-api-key"]["data"] == {"value": aftermath.key}
    references = aftermath.blocks["wavespeed/default"]["block_document_references"]
    assert references["api_key"]["block_document"]["name"] == "wavespeed-api-key"


def test_a_signature_is_only_in_the_parameters_that_the_user_gave(aftermath: Aftermath) -> None:
    assert aftermath.signature
    found = set(aftermath.where(*_halves(aftermath.signature)))
    given = {"api/flow_runs", "rows/flow_run.parameters", "emulator/ledger"}
    assert {place for place in found if not place.startswith("home/prefect.db")} == given
