"""An incident: everything goes wrong in one batch. One command lists every row, its cause and a next step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.inspect.runs import find_run
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.reasons import MAX_REASONS
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.settling.settle import settle as settle_jobs
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.batches import SITE, Finished, restyle_all, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.engine import SMALL
from tests.support.in_process import restyle

_HURRIED = Settings(
    lease_seconds=2, submit_timeout_seconds=0.9, reconcile_seconds=0.3, poll_timeout_seconds=4
)

# By the name of an image at WaveSpeedAI: what goes wrong with it, whenever that is tried.
_AT_WAVESPEED: Mapping[str, dict[str, Any]] = {
    "moderated": {"on": "prediction", "fault": "failed", "code": 1200, "message": "not safe"},
    "memory": {"on": "prediction", "fault": "failed", "code": 5000, "message": "out of memory"},
    "parameters": {"on": "prediction", "fault": "failed", "code": 1400, "message": "wrong parameters"},
    "unreachable": {"on": "prediction", "fault": "failed", "code": 1402, "message": "no such image"},
    "timeout": {"on": "prediction", "fault": "timeout"},
    "cancelled": {"on": "prediction", "fault": "cancelled"},
    "empty": {"on": "prediction", "fault": "no_outputs"},
    "stuck": {"on": "prediction", "fault": "stuck"},
    "refused": {"on": "submit", "fault": "refused", "status": 400, "message": "guidance_scale is too high"},
    "forbidden": {"on": "submit", "fault": "refused", "status": 403, "message": "not this model"},
    "down": {"on": "submit", "fault": "refused", "status": 503, "message": "no capacity"},
    "dropped": {"on": "submit", "fault": "drop_before"},
    "garbled": {"on": "submit", "fault": "garbage_before"},
    "truncated": {"on": "cdn", "fault": "truncated"},
    "corrupt": {"on": "cdn", "fault": "corrupt"},
    "page": {"on": "cdn", "fault": "html"},
    "expired": {"on": "cdn", "fault": "status", "status": 404},
    "storage": {"on": "cdn", "fault": "status", "status": 500},
    "flagged": {"on": "prediction", "fault": "nsfw"},  # which is no failure
    "smaller": {"on": "prediction", "fault": "other_size"},  # nor is this
}

# By id of the row: its status, a part of the cause, and of the next step.
_CAUSES: Mapping[str, tuple[str, str, str]] = {
    "moderated": ("failed", "not safe (code 1200)", "use another picture"),
    "memory": ("failed", "out of memory (code 5000)", "later with --retry-failed"),
    "parameters": ("failed", "wrong parameters (code 1400)", "change the parameters"),
    "unreachable": ("failed", "no such image (code 1402)", "make the picture's URL reachable"),
    "timeout": ("failed", "timeout: the prediction timed out (code 5004)", "later with --retry-failed"),
    "cancelled": ("failed", "cancelled: the prediction was cancelled", "--retry-failed"),
    "empty": ("failed", "completed without outputs", "report the prediction's id"),
    "stuck": ("open", "it is still in progress", "restyle settle"),
    "refused": ("failed", "(400): guidance_scale is too high", "change the picture or the parameters"),
    "forbidden": ("failed", "(403): not this model", "restyle doctor"),
    "down": ("open", "HTTP 503): no capacity", "run the batch again"),
    "dropped": ("open", "the connection was closed without an answer", "run the batch again"),
    "garbled": ("open", "the answer is not JSON", "run the batch again"),
    "truncated": ("open", "the answer ended early", "restyle settle"),
    "corrupt": ("open", "the output does not decode", "if it cannot be, report the prediction"),
    "page": ("open", "the output is not an image", "restyle settle"),
    "expired": ("open", "has expired or does not exist (HTTP 404)", "restyle settle"),
    "storage": ("open", "download failed: HTTP 500", "restyle settle"),
    "gone": ("failed", "no such file", "put the picture there"),
    "text": ("failed", "not an image", "put the picture there"),
    "many": ("invalid", "num_images 99: must be 1 to 4", "correct the row"),
    "misspelt": ("invalid", 'unknown column "sed"', "correct the row"),
    "ftp": ("invalid", "unsupported scheme ftp://", "correct the row"),
    "last night": ("given_up", "not safe (code 1200)", "use another picture"),
}


def _rows(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    text = folder / "text.jpg"
    text.write_text("no picture")
    rows: list[dict[str, Any]] = [{"id": name, "image": f"{SITE}/{name}.jpg"} for name in names]
    return [
        *rows,
        {"id": "gone", "image": str(folder / "gone.jpg")},
        {"id": "text", "image": str(text)},
        {"id": "many", "image": f"{SITE}/many.jpg", "num_images": 99},
        {"id": "misspelt", "image": f"{SITE}/misspelt.jpg", "sed": 1},
        {"id": "ftp", "image": "ftp://example.com/1.jpg"},
        {"id": "last night", "image": f"{SITE}/moderated-last-night.jpg"},
        *({"id": f"good {n}", "image": f"{SITE}/good-{n}.jpg"} for n in range(3)),
    ]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.05", "0.1") as running:
        yield running


async def _incident(url: str, output: Path, folder: Path) -> Finished:
    """What was given up last night, and the batch in which everything goes wrong."""
    options = BatchOptions(params=SMALL, on_bad_row="skip", max_failed=0.9)
    last_night = [f"{SITE}/moderated-last-night.jpg"]
    manifest = write_manifest(folder / "m.jsonl", _rows(folder, list(_AT_WAVESPEED)))
    with instant_retries():
        await restyle_all(url, str(output), last_night, options, settings=_HURRIED)
        return await restyle_all(url, str(output), manifest, options, settings=_HURRIED)


def test_every_row_is_listed_with_its_true_cause_and_what_to_do(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults(
        [{**fault, "match": {"image": f"/{name}"}, "times": None} for name, fault in _AT_WAVESPEED.items()]
    )
    output = tmp_path / "out"
    ended = asyncio.run(_incident(emulator.url, output, tmp_path))
    assert ended.statuses.count("stored") == 5

    run = ended.summary.flow_run_id or ""
    shown = json.loads(restyle("failures", "--out", str(output), "--run", run[:8], "--json").stdout)
    assert (shown["run"]["flow_run_id"], shown["run"]["counts"]) == (run, ended.summary.counts)
    found = {row["id"]: (row["status"], row["reason"], row["next"]) for row in shown["rows"]}
    wrong = [
        found.get(name, name)
        for name, (status, cause, step) in _CAUSES.items()
        if name not in found
        or found[name][0] != status
        or cause not in found[name][1]
        or step not in found[name][2]
    ]
    assert not wrong, "\n".join(map(str, wrong))
    assert found.keys() == _CAUSES.keys()

    lines = restyle("failures", "--out", str(output)).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == list(found)
    assert ended.summary.failure_lines[MAX_REASONS:] == [
        "1 given up earlier: other reasons",
        "3 ignored: other reasons",
        f"every row: restyle failures --out {output} --run {run}",
    ]


async def test_what_was_left_to_settle_is_listed_as_it_is_now(emulator: Emulator, tmp_path: Path) -> None:
    names = ("good", "moderated", "stuck")
    faults = [{**_AT_WAVESPEED[name], "match": {"image": f"/{name}"}, "times": None} for name in names[1:]]
    emulator.faults(faults)
    output, options = str(tmp_path / "out"), BatchOptions(params=SMALL, wait=False)
    manifest = write_manifest(tmp_path / "m.jsonl", [{"id": n, "image": f"{SITE}/{n}.jpg"} for n in names])
    ended = await restyle_all(emulator.url, output, manifest, options)
    assert ended.statuses == ["submitted"] * 3

    async def failures() -> tuple[list[list[str]], str]:
        shown = await asyncio.to_thread(restyle, "failures", "--out", output)
        return [line.split("\t") for line in shown.stdout.splitlines()], shown.stderr

    settle = f"`restyle settle --out {output}`, which stores it once it is ready and bills nothing"
    rows, _ = await failures()
    assert [(row[0], row[1], *row[3:]) for row in rows] == [
        (name, "submitted", "submitted and not settled yet", settle) for name in names
    ]
    async with WaveSpeedClient("test-key", emulator.url, submit_timeout=0.5) as client:
        hurried = _HURRIED.model_copy(update={"poll_timeout_seconds": 1})
        settled = await settle_jobs(client, ended.store, RunInfo(package_version="test"), hurried)
    assert (settled.stored, settled.failed) == (1, 1)
    (moderated, stuck), said = await failures()
    assert (moderated[:2], moderated[3]) == (["moderated", "failed"], "not safe (code 1200)")
    assert "use another picture" in moderated[4]
    assert stuck[:2] == ["stuck", "submitted"]
    assert "not settled yet" in stuck[3]
    assert said.endswith(": 3 submitted; 1 stored since\n")


async def test_the_latest_run_is_found_without_listing_the_nights_before(tmp_path: Path) -> None:
    store = directory_store(tmp_path)
    for run in ("dt=2026-01-01/aaaa-1", "dt=2026-01-02/aaaa-2", "dt=2026-01-02/bbbb"):
        await store.put(f"runs/{run}/summary.json", b"{}", "application/json")
    listed: list[str] = []
    pages = store.pages

    def noted(prefix: str, start: str = "") -> AsyncIterator[Sequence[Entry]]:
        listed.append(prefix)
        return pages(prefix, start)

    store.pages = noted  # type: ignore[method-assign]
    assert (await find_run(store)).id == "bbbb"
    assert listed == ["runs/dt=2026-01-02/"]
    assert (await find_run(store, "aaaa-1")).id == "aaaa-1"
    with pytest.raises(ConfigurationError, match="2 runs begin with it: give more of the id: aaaa-1, aaaa-2"):
        await find_run(store, "aaaa")


def test_a_run_that_died_says_so_and_lists_what_it_had_reported(tmp_path: Path) -> None:
    store = directory_store(tmp_path)
    rows = [
        {"row": 1, "image": "a.jpg", "status": "stored"},
        {"row": 2, "image": "b.jpg", "status": "failed", "error_message": "refused"},
    ]
    part = "".join(json.dumps(row) + "\n" for row in rows)
    asyncio.run(store.put("runs/dt=2026-01-01/the-run/parts/00001.jsonl", part.encode(), "text/plain"))
    ended = restyle("failures", "--out", str(tmp_path))
    assert ended.stdout == "row 2\tfailed\tb.jpg\trefused\trun the batch again\n"
    assert ended.stderr.startswith("run the-run: no report yet, last change ")
    assert "if its process died, run the batch again; or `restyle settle --out" in ended.stderr
    unknown = restyle("failures", "--out", str(tmp_path), "--run", "another")
    assert (unknown.status, unknown.stderr.split(" in ")[0]) == (1, "error: --run another: no such run")
