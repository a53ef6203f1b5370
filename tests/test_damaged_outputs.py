"""Files of an output that somebody else damaged or wrote: each is named, and costs only itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.inspect.costs import costs
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.settling.settle import settle
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.open_store import open_store
from tests.support.emulator_process import Emulator
from tests.support.engine import QUICK, restyle
from tests.support.in_process import restyle as run_command

_NOW = datetime.now(UTC)
_GOOD_SUMMARY = Summary(
    manifest="m.csv",
    output=".",
    started=_NOW,
    ended=_NOW,
    row_count=0,
    counts={},
    jobs=0,
    images=0,
    seconds=0,
    spent_usd=0,
).model_dump_json()
_RUN = "runs/dt=2026-11-29/4b1d"
_DAMAGED = {
    "empty": b"",
    "no JSON": b"hello",
    "cut off": b'{"job_key": "',
    "no object": b"[]",
    "null": b"null",
    "too deep": b'{"attempts":' * 50_000,
    "not a number": b'{"attempts": NaN}',
    "a huge number": b'{"schema": ' + b"9" * 10_000 + b"}",
    "a lone surrogate": b'{"job_key": "\\ud800"}',
    "no text": bytes(range(256)),
    "of other types": b'{"attempts": {"a": [1]}, "prediction_id": {}, "error": 1, "url": 1, "name": []}',
}


def _all_kinds(number: int) -> list[str]:
    """A path of each kind of file, each of another job."""
    keys = [f"{number:02x}{kind:02x}" * 16 for kind in range(6)]
    return [
        layout.dead_letter(keys[0]),
        layout.claim(keys[1], 1),
        layout.prediction(keys[2], 1),
        layout.candidates(keys[3], 1),
        layout.error(keys[1], 1),
        layout.not_submitted(keys[4], 1),
        f"{layout.IMAGES}photo-{keys[5][:16]}/metadata.json",
    ]


@pytest.fixture(scope="module")
def output(emulator_process: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with every kind of file damaged in every way, and nothing else."""
    root = tmp_path_factory.mktemp("damaged")
    for number, data in enumerate(_DAMAGED.values()):
        for path in _all_kinds(number):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
    return root


@pytest.mark.parametrize("command", ["list", "list --json", "show 0100"])
def test_a_command_names_what_it_cannot_read_and_goes_on(
    command: str, output: Path, emulator: Emulator
) -> None:
    before = {path: path.read_bytes() for path in output.rglob("*.json")}
    env = {"WAVESPEED_API_KEY": "test-key", "WAVESPEED_BASE_URL": emulator.url}
    ended = run_command(*command.split(), "--out", str(output), env=env)
    assert "unexpected" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path: path.read_bytes() for path in output.rglob("*.json")} == before
    assert not emulator.ledger()["billed"]


async def test_costs_and_settling_leave_out_what_they_cannot_read(output: Path, emulator: Emulator) -> None:
    before = {path: path.read_bytes() for path in output.rglob("*.json")}
    store = open_store(str(output))
    async with WaveSpeedClient("test-key", emulator.url, submit_timeout=1, timeout=2) as client:
        report = await costs(client, store)
        settled = await settle(client, store, RunInfo(package_version="test"), QUICK)
    assert (report.unreadable, report.total.pictures) == (len(_DAMAGED), 0)
    assert not settled.stored
    kept = {path: path.read_bytes() for path in output.rglob("*.json")}
    assert {path for path in before if path.name != "1.error.json"} <= kept.keys()
    assert not emulator.ledger()["billed"]


@pytest.mark.parametrize("name", [layout.SUMMARY, layout.REPORT_JSONL])
@pytest.mark.parametrize("damage", _DAMAGED)
def test_a_damaged_report_is_named(name: str, damage: str, tmp_path: Path) -> None:
    run = tmp_path / _RUN
    run.mkdir(parents=True)
    (run / layout.SUMMARY).write_text(_GOOD_SUMMARY)
    (run / layout.REPORT_JSONL).write_bytes(b"")
    (run / name).write_bytes(_DAMAGED[damage] or b"-")
    ended = run_command("failures", "--out", str(tmp_path))
    assert ended.status == 1
    assert f"{tmp_path}/{_RUN}/" in ended.stderr
    assert "was not written by this version" in ended.stderr


@pytest.mark.parametrize("damage", ["empty", "of other types"])
async def test_an_upload_that_is_noted_wrongly_is_made_again(
    damage: str, emulator: Emulator, tmp_path: Path
) -> None:
    await restyle(emulator.url, str(tmp_path))
    for path in tmp_path.glob("uploads/*/*/*.json"):
        path.write_bytes(_DAMAGED[damage])
    await restyle(emulator.url, str(tmp_path), variant=1)
    assert len(emulator.ledger()["predictions"]) == 2


async def test_nothing_is_billed_while_a_jobs_side_car_or_first_name_cannot_be_read(
    emulator: Emulator, tmp_path: Path
) -> None:
    restyled = await restyle(emulator.url, str(tmp_path))
    (name,) = tmp_path.glob("images/.names/*.json")
    for file in (Path(restyled.metadata_uri), name):
        good = file.read_bytes()
        for damaged in _DAMAGED.values():
            file.write_bytes(damaged)
            with pytest.raises(RestyleError, match=rf"{file.name} was not written by this version"):
                await restyle(emulator.url, str(tmp_path))
        file.write_bytes(good)
    assert (await restyle(emulator.url, str(tmp_path))).outputs == restyled.outputs
    assert len(emulator.ledger()["predictions"]) == 1
