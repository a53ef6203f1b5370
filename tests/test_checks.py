"""The checks of `restyle doctor` for keys, clocks and stores, on real servers; they leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.inspect.check_api import BALANCE, KEY, PRICE, check_api
from prefect_wavespeed.inspect.check_jobs import FAILED, OPEN, check_jobs
from prefect_wavespeed.inspect.check_s3 import CHECKSUMS, NOTIFICATIONS, PRESIGN
from prefect_wavespeed.inspect.check_store import CREATE, OUTPUT, check_directory, check_store
from prefect_wavespeed.inspect.checks import CLOCK, STORE_CLOCK, Check, check_clocks, check_settings
from prefect_wavespeed.settings import get_settings
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.emulator_process import Emulator
from tests.support.records import dead_letter, put, record
from tests.support.s3_proxy import Fault, Proxy, proxy
from tests.support.s3_servers import S3Server

FOR_EVER = 1_000


def by_name(checks: list[Check]) -> dict[str, Check]:
    """The checks by name, each of which must be unique."""
    named = {check.name: check for check in checks}
    assert len(named) == len(checks)
    return named


def statuses(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


async def api_checks(url: str, key: str = "test-key") -> tuple[list[Check], timedelta | None]:
    async with WaveSpeedClient(key, url, timeout=5) as client:
        return await check_api(client), client.clock_skew


def store_on(server: S3Server, prefix: str) -> Store:
    return s3_store(server.bucket, prefix, server.session(), endpoint_url=server.endpoint)


def leftovers(server: S3Server, prefix: str) -> list[str]:
    listing = server.client().list_objects_v2(Bucket=server.bucket, Prefix=f"{prefix}/")
    return [entry["Key"] for entry in listing.get("Contents", [])]


# --- the account ---


async def test_an_accepted_key_comes_with_price_balance_and_clock(emulator: Emulator) -> None:
    checks, skew = await api_checks(emulator.url)
    assert statuses(checks) == {KEY: "ok", PRICE: "ok", BALANCE: "ok"}
    checked = by_name(checks)
    assert checked[PRICE].found.startswith("0.025 USD")
    assert checked[BALANCE].found == "100 USD: enough for 4,000 such images"
    assert skew is not None
    assert abs(skew) < timedelta(seconds=3)
    assert emulator.ledger()["predictions"] == []


async def test_a_wrong_key_is_an_error_and_its_dependents_are_skipped() -> None:
    with Emulator("--key", "the-right-one") as emulator:
        checks, skew = await api_checks(emulator.url, "a-wrong-one")
    assert statuses(checks) == {KEY: "error", PRICE: "skipped", BALANCE: "skipped"}
    checked = by_name(checks)
    assert "WAVESPEED_API_KEY" in checked[KEY].remedy
    assert checked[BALANCE].found == f"not checked: {KEY}: see above"
    assert skew is not None, "a refusal has the time, too"
    assert "a-wrong-one" not in str(checks)


@pytest.mark.parametrize("balance", ["0", "0.02"])
async def test_no_credits_are_an_error(balance: str) -> None:
    with Emulator("--balance", balance) as emulator:
        checks, _ = await api_checks(emulator.url)
    checked = by_name(checks)
    assert (checked[KEY].status, checked[BALANCE].status) == ("ok", "error")
    assert checked[BALANCE].found == f"{balance} USD, and one image costs 0.025 USD"
    assert "top up" in checked[BALANCE].remedy


async def test_a_balance_refused_for_lack_of_credits_does_not_mean_a_wrong_key(emulator: Emulator) -> None:
    emulator.faults([{"on": "balance", "fault": "status", "status": 402}])
    checked = by_name((await api_checks(emulator.url))[0])
    assert (checked[KEY].status, checked[BALANCE].status) == ("ok", "error")


async def test_an_unknown_price_is_a_warning(emulator: Emulator) -> None:
    emulator.faults([{"on": call, "fault": "status", "times": None} for call in ("price", "pricing")])
    checked = by_name((await api_checks(emulator.url))[0])
    assert (checked[PRICE].status, checked[BALANCE].status) == ("warning", "ok")
    assert checked[BALANCE].found == "100 USD"


async def test_an_unreachable_api_is_an_error_with_its_address() -> None:
    checked = by_name((await api_checks("http://127.0.0.1:9"))[0])
    assert checked[KEY].status == "error"
    assert "http://127.0.0.1:9" in checked[KEY].remedy


# --- the clocks ---


@pytest.mark.parametrize(
    ("ahead", "status"), [(0, "ok"), (-100, "warning"), (301, "error"), (-4000, "error")]
)
async def test_the_machines_clock_is_compared_with_the_apis(
    emulator: Emulator, ahead: float, status: str
) -> None:
    with proxy(S3Server(emulator.url)) as (way, _):
        way.ahead = ahead
        _, skew = await api_checks(way.endpoint)
    clock, _ = check_clocks(skew, timedelta())
    assert (clock.name, clock.status) == (CLOCK, status)
    assert ("NTP" in clock.remedy) is (status != "ok")
    if ahead:
        assert ("ahead" if ahead < 0 else "behind") in clock.found, "this machine is"


@pytest.mark.parametrize(
    ("api", "store", "status"),
    [
        (0, 0, "ok"),
        (400, 400, "ok"),
        (0, 290, "ok"),
        (0, -301, "error"),
        (-1900, 1900, "error"),
        (0, 4000, "error"),
    ],
)
def test_the_outputs_clock_is_compared_with_the_apis(api: float, store: float, status: str) -> None:
    _, clock = check_clocks(timedelta(seconds=api), timedelta(seconds=store))
    assert (clock.name, clock.status) == (STORE_CLOCK, status)
    assert ("billed twice" in clock.found) is (status == "error")


def test_unknown_clocks_are_skipped() -> None:
    assert [check.status for check in check_clocks(None, None)] == ["skipped", "skipped"]
    assert "this machine's" in check_clocks(None, timedelta())[1].found


# --- the store ---


async def test_a_directory_passes_and_nothing_is_left(tmp_path: Path) -> None:
    checks, skew = await check_store(directory_store(tmp_path / "out"))
    assert statuses(checks) == {OUTPUT: "ok", CREATE: "ok"}
    assert skew == timedelta()
    assert list((tmp_path / "out").iterdir()) == []


async def test_jobs_that_failed_lately_are_told_by_reason_and_open_ones_by_age(tmp_path: Path) -> None:
    store, out = directory_store(tmp_path), "s3://my bucket"
    assert statuses(await check_jobs(store, out)) == {FAILED: "ok", OPEN: "ok"}
    for number in range(70):
        message = f"not safe: image https://example.com/{number}.jpg" if number % 5 else "out of memory"
        await put(store, dead_letter(f"p-{number}", message=message))
    await put(store, record("open"))
    checked = by_name(await check_jobs(store, out))
    assert checked[OPEN].found.startswith("1 open, the oldest unchanged for ")
    assert checked[OPEN].status == "ok"
    assert checked[FAILED].status == "warning"
    found = re.fullmatch(
        r"70 jobs failed for good in the last day \(of the newest 50\): "
        r"(\d+) not safe: image …; (\d+) out of memory",
        checked[FAILED].found,
    )
    assert found
    assert int(found[1]) + int(found[2]) == 50, "the rest is not read"
    assert "`restyle failures --out 's3://my bucket'`" in checked[FAILED].remedy

    two_days_ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    for path in [*tmp_path.rglob("failed/*.json"), *tmp_path.rglob("open/*/*.json")]:
        os.utime(path, (two_days_ago, two_days_ago))
    checked = by_name(await check_jobs(store, out))
    assert (checked[FAILED].status, checked[FAILED].found) == ("ok", "none in the last day")
    assert (checked[OPEN].status, checked[OPEN].found) == (
        "warning",
        "1 open, the oldest unchanged for 2 days",
    )
    assert "`restyle settle --out 's3://my bucket'`" in checked[OPEN].remedy


async def test_s3_passes_and_nothing_is_left(moto: S3Server, tmp_path: Path) -> None:
    checks, skew = await check_store(store_on(moto, tmp_path.name))
    assert statuses(checks) == {
        OUTPUT: "ok",
        CREATE: "ok",
        PRESIGN: "ok",
        CHECKSUMS: "warning",  # moto does not verify them
        NOTIFICATIONS: "ok",
    }
    assert skew == timedelta()
    assert leftovers(moto, tmp_path.name) == []
    assert "Signature" not in str(checks)


async def test_a_wrong_clock_of_the_store_is_noticed(moto: S3Server) -> None:
    with proxy(moto) as (way, seen):
        way.ahead = 5000
        _, skew = await check_store(store_on(seen, "clock"))
    assert skew is not None
    assert abs(skew - timedelta(seconds=5000)) < timedelta(seconds=5)


async def test_a_store_without_create_if_absent_is_an_error(moto: S3Server) -> None:
    with proxy(moto) as (way, seen):
        way.ignore_conditions = True
        checks, _ = await check_store(store_on(seen, "ignoring"))
    checked = by_name(checks)
    assert (checked[OUTPUT].status, checked[CREATE].status) == ("ok", "error")
    assert "billed twice" in checked[CREATE].found
    assert "AWS S3" in checked[CREATE].remedy
    assert leftovers(moto, "ignoring") == []


async def test_a_store_without_create_if_absent_for_simultaneous_puts_is_an_error(moto: S3Server) -> None:
    with proxy(moto) as (way, seen):
        store = store_on(seen, "race")
        create = store.create

        async def unsafe(path: str, *args: object, **more: object) -> bool:
            if path.endswith("/race"):  # from here on like Swift's S3 API, which checks and then writes
                way.ignore_conditions = True
            return await create(path, *args, **more)  # type: ignore[arg-type]

        store.create = unsafe  # type: ignore[method-assign]
        checked = by_name((await check_store(store))[0])
    assert checked[CREATE].status == "error"
    assert "simultaneous puts all won" in checked[CREATE].found
    assert leftovers(moto, "race") == []


@contextmanager
def forbidding(moto: S3Server, method: str, path: str = "") -> Iterator[tuple[Proxy, S3Server]]:
    with proxy(moto, Fault("forbid", method, path, FOR_EVER)) as both:
        yield both


async def test_a_read_only_bucket_is_an_error_that_names_the_permission(moto: S3Server) -> None:
    with forbidding(moto, "PUT") as (way, seen):
        checks, skew = await check_store(store_on(seen, "read-only"))
    checked = by_name(checks)
    assert (checked[OUTPUT].status, checked[CREATE].status) == ("error", "skipped")
    assert "access denied" in checked[OUTPUT].found
    assert "s3:PutObject" in checked[OUTPUT].remedy
    assert skew is None
    assert [request for request in way.request_lines if request.startswith(("POST", "DELETE"))] == []


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [("GET", "/restyle", "s3:ListBucket"), ("HEAD", "", "s3:GetObject"), ("GET", "/object", "s3:GetObject")],
)
async def test_a_denied_call_names_the_permission(
    moto: S3Server, method: str, path: str, permission: str
) -> None:
    with forbidding(moto, method, path) as (_, seen):
        checked = by_name((await check_store(store_on(seen, "rights")))[0])
    assert checked[OUTPUT].status == "error"
    assert permission in checked[OUTPUT].remedy
    assert leftovers(moto, "rights") == []


async def test_objects_that_cannot_be_removed_are_reported_with_their_path(moto: S3Server) -> None:
    with forbidding(moto, "POST") as (_, seen):
        checked = by_name((await check_store(store_on(seen, "stays")))[0])
    assert checked[OUTPUT].status == "error"
    assert "s3:DeleteObject" in checked[OUTPUT].remedy
    assert "/.probe/doctor-" in checked[OUTPUT].remedy
    assert checked[CREATE].status == "ok"


async def test_a_bucket_that_does_not_exist_is_an_error(moto: S3Server) -> None:
    store = s3_store("nowhere", "x", moto.session(), endpoint_url=moto.endpoint)
    checked = by_name((await check_store(store))[0])
    assert "bucket does not exist" in checked[OUTPUT].found
    assert "create the bucket" in checked[OUTPUT].remedy


async def test_an_interrupted_check_leaves_nothing(moto: S3Server) -> None:
    written = asyncio.Event()
    store = store_on(moto, "interrupted")
    create = store.create

    async def noting(path: str, *args: object, **more: object) -> bool:
        created = await create(path, *args, **more)  # type: ignore[arg-type]
        written.set()
        return created

    store.create = noting  # type: ignore[method-assign]
    checking = asyncio.ensure_future(check_store(store))
    await written.wait()
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert leftovers(moto, "interrupted") == []


def test_a_directory_that_does_not_exist_yet_is_a_warning_and_is_not_created(tmp_path: Path) -> None:
    check = check_directory(str(tmp_path / "a" / "b"))
    assert check is not None
    assert check.status == "warning"
    assert list(tmp_path.iterdir()) == []
    assert check_directory(str(tmp_path)) is None
    assert check_directory("s3://bucket/prefix") is None
    (tmp_path / "file").touch()
    below = check_directory(str(tmp_path / "file" / "out"))
    assert below is not None
    assert below.status == "error"


# --- the settings ---


def test_inconsistent_settings_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    assert check_settings().status == "ok"
    get_settings.cache_clear()
    monkeypatch.setenv("RESTYLE_LEASE_SECONDS", "60")
    check = check_settings()
    get_settings.cache_clear()
    assert check.status == "error"
    assert "RESTYLE_LEASE_SECONDS" in check.found
