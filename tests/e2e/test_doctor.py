"""`restyle doctor` on each broken set-up: it reports problem and remedy, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from prefect_wavespeed.blocks import WaveSpeed
from prefect_wavespeed.blocks.names import API_KEY_SECRET, IN_FLIGHT_LIMIT, variable
from prefect_wavespeed.deployments.doctor import slots
from tests.support.ceph import CephGateway
from tests.support.emulator_process import Emulator
from tests.support.in_process import restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended, wait_until
from tests.support.s3_proxy import Fault, proxy
from tests.support.s3_servers import S3Server

KEY = "key-that-nobody-may-see"
POOL = "restyle"


@dataclass
class Diagnosis:
    """The command's result."""

    status: int
    checks: dict[str, dict[str, Any]]

    def errors(self) -> set[str]:
        return {name for name, check in self.checks.items() if check["status"] == "error"}


@dataclass
class Clinic:
    """A Prefect server on which everything is set up, and an output; ``env`` is for commands."""

    prefect: PrefectServer
    emulator: Emulator
    server: S3Server | CephGateway
    prefix: str
    env: dict[str, str]

    @property
    def out(self) -> str:
        return f"s3://{self.server.bucket}/{self.prefix}"

    def run(self, *options: str, env: Mapping[str, str] | None = None, process: bool = False) -> Ended:
        """Run the command in this process, or in one of its own."""
        given = {**self.env, **(env or {})}
        if process:
            ended = self.prefect.restyle("doctor", *options, env=given)
        else:
            ended = restyle("doctor", *options, prefect=self.prefect, env=given)
        assert KEY not in ended.stdout + ended.stderr
        assert "Signature" not in ended.stdout + ended.stderr
        return ended

    def ask(self, *options: str, env: Mapping[str, str] | None = None, process: bool = False) -> Diagnosis:
        """Run it with ``--json``; it spends nothing, and leaves nothing in the bucket."""
        ended = self.run("--json", *options, env=env, process=process)
        assert ended.stderr == ""
        result = json.loads(ended.stdout)
        assert result["ok"] is (ended.status == 0)
        assert self.leftovers() == []
        assert self.emulator.ledger()["predictions"] == []
        for check in result["checks"]:
            assert bool(check["remedy"]) is (check["status"] in ("warning", "error")), check
            assert "\n" not in check["found"] + check["remedy"]
        return Diagnosis(ended.status, {check["name"]: check for check in result["checks"]})

    def block(self, name: str, url: str = "", secret: str = API_KEY_SECRET, **fields: Any) -> str:
        """Save another WaveSpeed block, and return its name."""
        with self.prefect.used_here():
            key = Secret.load(secret)
            assert isinstance(key, Secret)
            terms = {"max_in_flight": 100, "concurrency_limit": IN_FLIGHT_LIMIT, **fields}
            WaveSpeed(api_key=key, base_url=url or self.emulator.url, **terms).save(name, overwrite=True)
        return name

    def leftovers(self) -> list[str]:
        listing = self.server.client().list_objects_v2(Bucket=self.server.bucket, Prefix=f"{self.prefix}/")
        return [entry["Key"] for entry in listing.get("Contents", [])]


@pytest.fixture(scope="module")
def worker(prefect: PrefectServer) -> Iterator[Command]:
    """A live worker of the pool that set-up creates."""
    command = prefect.python("-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process")
    wait_until(lambda: _is_live(prefect))
    yield command
    command.process.terminate()
    command.ended(60)


def _is_live(prefect: PrefectServer) -> bool:
    if not [pool for pool in prefect.all("work_pools") if pool["name"] == POOL]:
        return False
    workers = prefect.call("POST", f"/work_pools/{POOL}/workers/filter", {})
    return any(worker["status"] == "ONLINE" for worker in workers)


@pytest.fixture(scope="module")
def set_up_server(
    prefect: PrefectServer, worker: Command, emulator_process: Emulator, moto: S3Server
) -> PrefectServer:
    """A server on which everything is set up."""
    out = f"s3://{moto.bucket}/doctor"
    env = {**moto.env, "WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": emulator_process.url}
    ended = prefect.restyle("setup", "--tier", "silver", "--out", out, env=env)
    assert ended.status == 0, ended
    return prefect


@pytest.fixture
def clinic(set_up_server: PrefectServer, emulator: Emulator, moto: S3Server) -> Clinic:
    """A set-up without any problem."""
    return Clinic(set_up_server, emulator, moto, "doctor", dict(moto.env))


@contextmanager
def behind_a_proxy(clinic: Clinic, *faults: Fault) -> Iterator[tuple[Any, dict[str, str]]]:
    assert isinstance(clinic.server, S3Server)
    with proxy(clinic.server, *faults) as (way, seen):
        yield way, seen.env


def test_a_set_up_without_problems(clinic: Clinic) -> None:
    diagnosis = clinic.ask(process=True)
    assert (diagnosis.status, diagnosis.errors()) == (0, set())
    assert {name: check["status"] for name, check in diagnosis.checks.items() if name != "checksums"} == {
        "settings": "ok",
        "Prefect API": "ok",
        "WaveSpeed block": "ok",
        "concurrency limit": "ok",
        "work pool": "ok",
        "nightly cap": "ok",
        "WaveSpeed key": "ok",
        "price": "ok",
        "balance": "ok",
        "output": "ok",
        "create-if-absent": "ok",
        "presigned GET": "ok",
        "notifications": "ok",
        "failed jobs": "ok",
        "open jobs": "ok",
        "clock": "ok",
        "output's clock": "ok",
    }
    lines = clinic.run().stdout.splitlines()
    assert len(lines) == len(diagnosis.checks)
    assert {line.split()[0] for line in lines} <= {"ok", "warning"}


def test_a_real_gateway_without_problems(clinic: Clinic, ceph: CephGateway) -> None:
    on_ceph = replace(clinic, server=ceph, prefix=uuid4().hex, env=ceph.env)
    diagnosis = on_ceph.ask("--out", on_ceph.out)
    assert (diagnosis.status, diagnosis.errors()) == (0, set())
    assert "Content-MD5" in diagnosis.checks["checksums"]["found"]
    assert {
        diagnosis.checks[name]["status"] for name in ("create-if-absent", "presigned GET", "notifications")
    } == {"ok"}


def test_a_read_only_bucket_on_a_real_gateway(clinic: Clinic, ceph: CephGateway) -> None:
    denied = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": ["s3:PutObject"],
                "Resource": [f"arn:aws:s3:::{ceph.bucket}/read-only/*"],
            }
        ],
    }
    ceph.client().put_bucket_policy(Bucket=ceph.bucket, Policy=json.dumps(denied))
    try:
        on_ceph = replace(clinic, server=ceph, prefix="read-only", env=ceph.env)
        diagnosis = on_ceph.ask("--out", on_ceph.out)
    finally:
        ceph.client().delete_bucket_policy(Bucket=ceph.bucket)
    assert (diagnosis.status, diagnosis.errors()) == (1, {"output"})
    assert "s3:PutObject" in diagnosis.checks["output"]["remedy"]


def test_a_wrong_secret_key_of_a_real_gateway(clinic: Clinic, ceph: CephGateway) -> None:
    on_ceph = replace(clinic, server=ceph, prefix=uuid4().hex, env=ceph.env)
    diagnosis = on_ceph.ask("--out", on_ceph.out, env={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert (diagnosis.status, diagnosis.errors()) == (1, {"output"})
    assert "wrong secret access key" in diagnosis.checks["output"]["found"]


def test_a_wrong_key(clinic: Clinic) -> None:
    with Emulator("--key", "another") as emulator:
        diagnosis = replace(clinic, emulator=emulator).ask(
            "--wavespeed", clinic.block("refused", emulator.url)
        )
    assert (diagnosis.status, diagnosis.errors()) == (1, {"WaveSpeed key"})
    assert "401" in diagnosis.checks["WaveSpeed key"]["found"]
    assert "WAVESPEED_API_KEY" in diagnosis.checks["WaveSpeed key"]["remedy"]
    assert diagnosis.checks["balance"]["found"] == "not checked: WaveSpeed key: see above"


def test_no_credits(clinic: Clinic) -> None:
    with Emulator("--balance", "0.01") as emulator:
        block = clinic.block("poor", emulator.url)
        diagnosis = replace(clinic, emulator=emulator).ask("--wavespeed", block)
    assert (diagnosis.status, diagnosis.errors()) == (1, {"balance"})
    assert "0.01 USD" in diagnosis.checks["balance"]["found"]
    assert "top up" in diagnosis.checks["balance"]["remedy"]


def test_a_skewed_clock(clinic: Clinic) -> None:
    with proxy(S3Server(clinic.emulator.url)) as (way, _):
        way.ahead = 600
        diagnosis = clinic.ask("--wavespeed", clinic.block("skewed", way.endpoint))
    assert (diagnosis.status, diagnosis.errors()) == (1, {"clock", "output's clock"})
    assert (
        "600 s behind" in diagnosis.checks["clock"]["found"]
        or "599 s behind" in diagnosis.checks["clock"]["found"]
    )
    assert "NTP" in diagnosis.checks["clock"]["remedy"]


def test_an_outputs_clock_that_is_two_hours_ahead(clinic: Clinic) -> None:
    with behind_a_proxy(clinic) as (way, env):
        way.ahead = 2 * 3600
        diagnosis = clinic.ask("--out", clinic.out, env=env)
    assert (diagnosis.status, diagnosis.errors()) == (1, {"output's clock"})


def test_no_prefect_server(clinic: Clinic) -> None:
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    diagnosis = clinic.ask("--out", clinic.out, env=away, process=True)
    assert (diagnosis.status, diagnosis.errors()) == (1, {"Prefect API"})
    assert "prefect server start" in diagnosis.checks["Prefect API"]["remedy"]
    unchecked = {name for name, check in diagnosis.checks.items() if check["status"] == "skipped"}
    assert {"WaveSpeed block", "concurrency limit", "work pool", "WaveSpeed key", "clock"} <= unchecked
    assert diagnosis.checks["create-if-absent"]["status"] == "ok", "it does not need Prefect"


def test_a_proxy_without_websockets_before_prefect(clinic: Clinic) -> None:
    assert isinstance(clinic.server, S3Server)
    with proxy(replace(clinic.server, endpoint=clinic.prefect.url.removesuffix("/api"))) as (way, _):
        away = {"PREFECT_API_URL": f"{way.endpoint}/api"}
        ended = clinic.run("--json", "--out", clinic.out, env=away, process=True)
    api = next(check for check in json.loads(ended.stdout)["checks"] if check["name"] == "Prefect API")
    assert (ended.status, api["status"]) == (0, "warning")
    assert "websockets do not get through" in api["found"]
    assert "/api/events/in" in api["remedy"]


def test_no_server_is_configured(clinic: Clinic, tmp_path: Path) -> None:
    bare = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path), "WAVESPEED_API_KEY": KEY}
    env = {**bare, "WAVESPEED_BASE_URL": clinic.emulator.url}
    diagnosis = clinic.ask("--out", clinic.out, env=env, process=True)
    assert (diagnosis.status, diagnosis.errors()) == (0, set())
    assert "PREFECT_API_URL is not set" in diagnosis.checks["Prefect API"]["found"]
    assert diagnosis.checks["WaveSpeed block"]["status"] == "warning"


def test_no_server_is_configured_and_none_may_be_started(clinic: Clinic, tmp_path: Path) -> None:
    bare = {"PREFECT_API_URL": "", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
    diagnosis = clinic.ask("--out", clinic.out, env=bare, process=True)
    assert (diagnosis.status, diagnosis.errors()) == (1, {"Prefect API"})
    assert "PREFECT_API_URL" in diagnosis.checks["Prefect API"]["remedy"]


def test_a_missing_limit(clinic: Clinic) -> None:
    diagnosis = clinic.ask("--wavespeed", clinic.block("unlimited", concurrency_limit="gone"))
    assert (diagnosis.status, diagnosis.errors()) == (1, {"concurrency limit"})
    assert "prefect gcl create gone --limit 100" in diagnosis.checks["concurrency limit"]["remedy"]


def test_slots_that_were_lost_when_the_server_restarted_are_found_and_freed(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts slots in its database, and keeps in memory who holds them."""
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}}
    for run in clinic.prefect.call("POST", "/flow_runs/filter", running):  # left by tests of killed runs
        crashed = {"state": {"type": "CRASHED"}, "force": True}
        clinic.prefect.call("POST", f"/flow_runs/{run['id']}/set_state", crashed)
    clinic.prefect.call("POST", "/v2/concurrency_limits/", {"name": "orphaned", "limit": 100, "active": True})
    clinic.prefect.call("POST", "/v2/concurrency_limits/increment", {"names": ["orphaned"], "slots": 100})
    block = clinic.block("orphaned", concurrency_limit="orphaned")
    check = clinic.ask("--wavespeed", block).checks["concurrency limit"]
    assert (check["status"], check["found"]) == (
        "error",
        "orphaned: 100 slots in use by no run: later runs wait for them",
    )
    assert "restyle doctor --fix" in check["remedy"]

    async def free_after(change: int) -> bool:
        async with get_client() as client:
            limit = await client.read_global_concurrency_limit_by_name("orphaned")
            seen = limit.model_copy(update={"active_slots": limit.active_slots - change})
            assert await slots.are_held_by_nobody(client, seen)
            return await slots.free(client, seen)

    with clinic.prefect.used_here(), monkeypatch.context() as patch:
        patch.setattr(slots, "SECONDS_APART", 0.1)
        assert not asyncio.run(free_after(1)), "one was taken in between"
    assert clinic.ask("--wavespeed", block, "--fix").checks["concurrency limit"]["status"] == "ok"
    check = clinic.ask("--wavespeed", block).checks["concurrency limit"]
    assert check["found"].startswith("orphaned: 0 of 100 in use")


@pytest.mark.parametrize(
    ("name", "status"), [("none", "error"), ("few", "warning"), ("off", "warning"), ("many", "warning")]
)
def test_an_unreasonable_limit(clinic: Clinic, name: str, status: str) -> None:
    limit = {"none": 0, "few": 5, "off": 100, "many": 5_000}[name]
    created = {"name": name, "limit": limit, "active": name != "off"}
    clinic.prefect.call("POST", "/v2/concurrency_limits/", created)
    diagnosis = clinic.ask("--wavespeed", clinic.block(name, concurrency_limit=name, requests_per_minute=500))
    check = diagnosis.checks["concurrency limit"]
    assert (diagnosis.status, check["status"]) == (int(status == "error"), status)
    assert f"prefect gcl {'enable' if name == 'off' else 'update'} {name}" in check["remedy"]


def test_a_read_only_bucket(clinic: Clinic) -> None:
    with behind_a_proxy(clinic, Fault("forbid", "PUT", "", 1_000)) as (_, env):
        diagnosis = clinic.ask("--out", clinic.out, env=env)
    assert (diagnosis.status, diagnosis.errors()) == (1, {"output"})
    assert "s3:PutObject" in diagnosis.checks["output"]["remedy"]


def test_an_s3_without_conditional_puts(clinic: Clinic) -> None:
    with behind_a_proxy(clinic) as (way, env):
        way.ignore_conditions = True
        diagnosis = clinic.ask("--out", clinic.out, env=env)
    assert (diagnosis.status, diagnosis.errors()) == (1, {"create-if-absent"})
    assert "AWS S3, Ceph, MinIO, R2" in diagnosis.checks["create-if-absent"]["remedy"]


def test_an_unreachable_s3(clinic: Clinic) -> None:
    diagnosis = clinic.ask("--out", clinic.out, env={"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"})
    assert (diagnosis.status, diagnosis.errors()) == (1, {"output"})
    assert "AWS_ENDPOINT_URL_S3" in diagnosis.checks["output"]["remedy"]


def test_an_unknown_output(clinic: Clinic) -> None:
    for out, expected in (("gs://bucket/x", "gs://"), ("s3-bucket/nobody", "s3-bucket/nobody")):
        diagnosis = clinic.ask("--out", out)
        assert (diagnosis.status, diagnosis.errors()) == (1, {"output"})
        assert expected in diagnosis.checks["output"]["found"]


def test_a_missing_block(clinic: Clinic) -> None:
    diagnosis = clinic.ask("--wavespeed", "nobody")
    assert (diagnosis.status, diagnosis.errors()) == (1, {"WaveSpeed block"})
    assert "restyle setup" in diagnosis.checks["WaveSpeed block"]["remedy"]
    assert diagnosis.checks["balance"]["status"] == "skipped"


def test_another_api_in_the_environment_than_in_the_block(clinic: Clinic) -> None:
    diagnosis = clinic.ask(env={"WAVESPEED_BASE_URL": "http://somebody:pa55word@127.0.0.1:9"})
    assert (diagnosis.status, diagnosis.errors()) == (1, {"WaveSpeed block"})
    assert "unset WAVESPEED_BASE_URL" in diagnosis.checks["WaveSpeed block"]["remedy"]
    assert "pa55word" not in diagnosis.checks["WaveSpeed block"]["found"]


def test_a_missing_secret_block(clinic: Clinic) -> None:
    with clinic.prefect.used_here():
        Secret(value=SecretStr(KEY)).save("lost")
    clinic.block("keyless", secret="lost")
    (lost,) = [one for one in clinic.prefect.all("block_documents") if one["name"] == "lost"]
    clinic.prefect.call("DELETE", f"/block_documents/{lost['id']}")
    diagnosis = clinic.ask("--wavespeed", "keyless")
    assert (diagnosis.status, diagnosis.errors()) == (1, {"WaveSpeed block"})
    assert "prefect block delete wavespeed/keyless" in diagnosis.checks["WaveSpeed block"]["remedy"]


def test_a_pool_without_a_worker_and_no_pool(clinic: Clinic) -> None:
    path = f"/variables/name/{variable('work_pool')}"
    clinic.prefect.call("POST", "/work_pools/", {"name": "idle", "type": "process"})
    clinic.prefect.call("PATCH", path, {"value": "idle"})
    try:
        diagnosis = clinic.ask()
        assert (diagnosis.status, diagnosis.errors()) == (1, {"work pool"})
        assert diagnosis.checks["work pool"]["remedy"].endswith("prefect worker start --pool idle")
        clinic.prefect.call("PATCH", "/work_pools/idle", {"is_paused": True})
        assert "prefect work-pool resume idle" in clinic.ask().checks["work pool"]["remedy"]
        clinic.prefect.call("PATCH", path, {"value": "gone"})
        assert "does not exist" in clinic.ask().checks["work pool"]["found"]
    finally:
        clinic.prefect.call("PATCH", path, {"value": POOL})


def test_inconsistent_settings(clinic: Clinic) -> None:
    diagnosis = clinic.ask(env={"RESTYLE_LEASE_SECONDS": "60"})
    assert (diagnosis.status, diagnosis.errors()) == (1, {"settings"})
    assert "RESTYLE_LEASE_SECONDS" in diagnosis.checks["settings"]["found"]
