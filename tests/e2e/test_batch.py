"""Hundreds of images, killed, disturbed, twice at once, capped: each is billed once."""

from __future__ import annotations

import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.ledger.records import DeadLetter, Metadata
from tests.support.batch_shell import KEY, Shell, without_progress
from tests.support.batches import pictures
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, wait_until
from tests.support.records import report_rows

COUNT = 400
PRICE = 0.025

_ALWAYS = {"times": None, "probability": 0.05}
# About 5 % of every kind of fault that a job may come through. Delays are short, so that the history tells
# of what was created before the search for it is over; those of a real account are as far from its times.
DISTURBANCES: list[dict[str, Any]] = [
    {**rule, **_ALWAYS}
    for rule in (
        {"on": "submit", "fault": "refused"},
        {"on": "submit", "fault": "refused", "status": 429, "retry_after": 0.2},
        {"on": "submit", "fault": "drop_before"},
        {"on": "submit", "fault": "drop_after"},
        {"on": "submit", "fault": "status_after"},
        {"on": "submit", "fault": "hang_before", "seconds": 6},
        {"on": "submit", "fault": "hang_after", "seconds": 6},
        {"on": "submit", "fault": "garbage_before"},
        {"on": "submit", "fault": "garbage"},
        {"on": "submit", "fault": "no_id"},
        {"on": "submit", "fault": "late", "seconds": 0.5},
        {"on": "submit", "fault": "sync_timeout"},
        {"on": "submit", "fault": "redirect", "location": "https://example.com/"},
        {"on": "result", "fault": "status"},
        {"on": "result", "fault": "drop"},
        {"on": "result", "fault": "garbage"},
        {"on": "result", "fault": "html"},
        {"on": "result", "fault": "hang", "seconds": 1},
        {"on": "result", "fault": "redirect", "location": "https://example.com/"},
        {"on": "history", "fault": "status"},
        {"on": "history", "fault": "drop"},
        {"on": "history", "fault": "garbage"},
        {"on": "cdn", "fault": "status"},
        {"on": "cdn", "fault": "drop"},
        {"on": "cdn", "fault": "html"},
        {"on": "cdn", "fault": "hang", "seconds": 1},
        {"on": "cdn", "fault": "redirect", "location": "https://example.com/"},
        {"on": "cdn", "fault": "truncated"},
        {"on": "cdn", "fault": "corrupt"},
        {"on": "cdn", "fault": "wrong_format"},
        {"on": "cdn", "fault": "slow", "seconds": 1},
        {"on": "prediction", "fault": "failed"},
        {"on": "prediction", "fault": "timeout"},
        {"on": "prediction", "fault": "slow", "seconds": 6},
        {"on": "prediction", "fault": "nsfw"},
        {"on": "prediction", "fault": "expired"},
        {"on": "prediction", "fault": "unlisted", "seconds": 1},
        # after these a job has failed for good
        {"on": "prediction", "fault": "cancelled"},
        {"on": "prediction", "fault": "deleted"},
        {"on": "prediction", "fault": "no_outputs"},
    )
]


@contextmanager
def emulator_of(low: float, high: float) -> Iterator[Emulator]:
    """An emulator of its own, with money for everything."""
    options = ["--prerendered", "--balance", "10000", "--latency", str(low), str(high)]
    with Emulator(*options) as running:
        yield running


class Ground:
    """An output, and what is in it."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.out = shell.folder / "out"

    def side_cars(self) -> dict[str, Metadata]:
        """Every job that is done, by its key; the files that its side-car names exist."""
        found = {}
        for path in (self.out / "images").glob("*/metadata.json"):
            metadata = Metadata.model_validate_json(path.read_bytes())
            assert all((self.out / (output.key or "")).is_file() for output in metadata.outputs)
            found[metadata.job_key] = metadata
        return found

    def dead_letters(self) -> dict[str, DeadLetter]:
        """Every job that has failed for good, by its key."""
        letters = [
            DeadLetter.model_validate_json(path.read_bytes()) for path in (self.out / "failed").glob("*.json")
        ]
        return {letter.job_key: letter for letter in letters}

    def parts(self) -> dict[Path, list[ReportRow]]:
        """What runs that were killed have left of their reports, by their folders."""
        found: dict[Path, list[ReportRow]] = defaultdict(list)
        for part in sorted(self.out.glob("runs/*/*/parts/*.jsonl")):
            data = part.read_bytes()
            assert data.endswith(b"\n")
            found[part.parent.parent] += report_rows(data)
        return dict(found)

    def kill_in_the_middle(self, manifest: str, times: int, in_flight: int) -> None:
        """Start the batch, and kill it as soon as it has written a part of its report; so many times."""
        for _ in range(times):
            before, stored = len(self.parts()), self.shell.stored()
            running = self.shell.start(manifest, "--concurrency", str(in_flight))
            wait_until(lambda: len(self.parts()) > before or not running.running, 300)  # noqa: B023
            running.send(signal.SIGKILL)
            ended = running.ended()
            assert ended.status == -signal.SIGKILL, ended
            assert stored < self.shell.stored() < COUNT
        parts = self.parts()
        assert len(parts) == times
        for folder, rows in parts.items():
            assert not (folder / "summary.json").exists()
            assert len({row.row for row in rows}) == len(rows)
            uris = [uri for row in rows if row.status in ("stored", "done") for uri in row.outputs]
            assert uris != []
            assert all(Path(uri).is_file() for uri in uris)

    def open(self) -> list[Path]:
        """What is still open in the ledger."""
        return [path for path in self.out.glob("open/*/*") if path.is_file()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def billed_by_image(emulator: Emulator) -> Counter[str]:
    """How many predictions were billed, and not refunded, for each image."""
    return Counter(p["input"]["image"] for p in emulator.ledger()["predictions"] if p["billed"])


def finished(command: Command) -> Summary:
    """The summary of a command that succeeds."""
    ended = command.ended(1200)
    assert (ended.status, without_progress(ended)) == (0, ""), ended
    return Summary.model_validate_json(ended.stdout)


def task_runs(prefect: PrefectServer, summary: Summary) -> int:
    """How many task runs a run has made, once the server has written all of them down."""
    query = {"flow_runs": {"id": {"any_": [summary.flow_run_id]}}}
    under_way = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
    counted: list[int] = []

    def caught_up() -> bool:
        counted.append(prefect.call("POST", "/task_runs/count", query))
        open_ones = prefect.call("POST", "/task_runs/count", {**query, "task_runs": under_way})
        return counted[-1] > 0 and not open_ones and counted[-50:] == [counted[-1]] * 50

    wait_until(caught_up, 300)
    return counted[-1]


def test_killed_twice_in_the_middle_hundreds_of_images_are_billed_and_stored_once(
    prefect: PrefectServer, folder: Path
) -> None:
    with emulator_of(2, 4) as emulator:  # ten a second: not done before the second kill
        shell = Shell(prefect, emulator, folder)
        ground, manifest = Ground(shell), shell.manifest(pictures(COUNT))
        ground.kill_in_the_middle(manifest, 2, in_flight=30)
        before = shell.stored()
        summary = finished(shell.start(manifest, "--concurrency", "400", "--json"))

        assert summary.counts == {"done": before, "stored": COUNT - before}
        assert len(billed_by_image(emulator)) == COUNT
        assert len(emulator.ledger()["predictions"]) == emulator.ledger()["billed"] == COUNT
        assert len(ground.side_cars()) == COUNT
        assert ground.open() == []
        assert ground.dead_letters() == {}
        rows = shell.report(summary)
        assert [row.id for row in rows] == [f"n{n}" for n in range(1, COUNT + 1)]
        assert {row.job_key for row in rows} == set(ground.side_cars())
        assert Path(summary.report) not in ground.parts()


def test_killed_twice_while_everything_goes_wrong_none_is_billed_twice(
    prefect: PrefectServer, folder: Path
) -> None:
    with emulator_of(2, 4) as emulator:
        emulator.faults(DISTURBANCES)
        shell = Shell(prefect, emulator, folder)
        ground, manifest = Ground(shell), shell.manifest(pictures(COUNT))
        ground.kill_in_the_middle(manifest, 2, in_flight=30)
        for _ in range(5):  # what had no luck in any of its tries stays for the next run
            ended = shell.start(manifest, "--concurrency", "400", "--json", "--max-failed", "1").ended(1200)
            assert (ended.status, without_progress(ended)) == (0, ""), ended
            summary = Summary.model_validate_json(ended.stdout)
            rows = shell.report(summary)
            letters = ground.dead_letters()
            left = [
                row for row in rows if row.status not in ("done", "stored") and row.job_key not in letters
            ]
            if not left:
                break
        assert left == []

        assert [row.id for row in rows] == [f"n{n}" for n in range(1, COUNT + 1)]
        side_cars = ground.side_cars()
        assert len(side_cars) + len(letters) == COUNT
        assert side_cars.keys().isdisjoint(letters)
        assert ground.open() == []
        # What is deleted before its answer comes is in no history: that it was billed cannot be known.
        billed = [
            prediction
            for prediction in emulator.ledger()["predictions"]
            if prediction["billed"] and prediction["status"] != "deleted"
        ]
        twice = Counter(prediction["input"]["image"] for prediction in billed) - Counter(
            row["image"] for row in pictures(COUNT)
        )
        assert [p for p in billed if p["input"]["image"] in twice] == []
        stored = {metadata.prediction.id for metadata in side_cars.values()}
        without_outputs = {letter.error.prediction_id for letter in letters.values()}
        assert stored <= {prediction["id"] for prediction in billed} <= stored | without_outputs
        assert len(stored) > COUNT * 0.7


def test_two_batches_at_once_share_the_places_of_the_account_and_the_images_they_have_in_common(
    prefect: PrefectServer, folder: Path
) -> None:
    in_flight, each = 50, 400
    gcl = ["-m", "prefect", "gcl", "create", "e2e-in-flight", "--limit", str(in_flight)]
    assert prefect.python(*gcl).ended().status == 0
    with emulator_of(0.3, 0.6) as emulator:
        with prefect.used_here():
            block = WaveSpeed(
                api_key=Secret(value=SecretStr(KEY)),
                base_url=emulator.url,
                max_in_flight=in_flight,
                concurrency_limit="e2e-in-flight",
            )
            block.save("shared", overwrite=True)
        shell = Shell(prefect, emulator, folder)
        rows = pictures(each + each // 2)
        common, own, others = (rows[n : n + each // 2] for n in range(0, len(rows), each // 2))
        asked = [common + own, common + others]  # so both come to what they have in common at once
        manifests = [shell.manifest(some, f"{n}.jsonl") for n, some in enumerate(asked)]
        options = ["--wavespeed", "shared", "--concurrency", "200", "--json"]
        both = [shell.start(manifest, *options) for manifest in manifests]
        summaries = [finished(command) for command in both]

        ledger = emulator.ledger()
        assert 1 < ledger["max_in_flight"] <= in_flight
        assert len(ledger["predictions"]) == ledger["billed"] == len(rows)
        assert set(billed_by_image(emulator).values()) == {1}
    for summary, some in zip(summaries, asked, strict=True):
        assert summary.counts.keys() <= {"stored", "done"}
        reported = shell.report(summary)
        assert [row.id for row in reported] == [row["id"] for row in some]
        assert all(Path(uri).is_file() for row in reported for uri in row.outputs)
    # each of them tells what it has paid, and together that is what was billed
    assert sum(summary.spent_usd for summary in summaries) == pytest.approx(len(rows) * PRICE)
    assert Ground(shell).open() == []
    taken = prefect.call("GET", "/v2/concurrency_limits/e2e-in-flight")["active_slots"]
    assert taken == 0


def test_a_cap_that_is_reached_in_the_middle_is_kept_to_the_cent_and_a_rerun_finishes(
    prefect: PrefectServer, folder: Path
) -> None:
    count, cap = 200, 5.0
    with emulator_of(0.5, 1) as emulator:
        emulator.faults([{"on": "prediction", "fault": "failed", "code": 5000, "times": 10}])
        shell = Shell(prefect, emulator, folder)
        manifest = shell.manifest(pictures(count))
        running = shell.start(manifest, "--concurrency", "10", "--max-cost-usd", str(cap))
        wait_until(lambda: shell.stored() >= 40 or not running.running)
        emulator.price(2 * PRICE)  # while it runs
        line = without_progress(running.ended()).partition("\n")[0]
        assert f"--max-cost-usd {cap:g} is reached" in line
        assert "run it again with a higher limit" in line
        predictions = emulator.ledger()["predictions"]
        assert sum(round(1000 * p["price"]) for p in predictions) <= 1000 * cap
        stored = shell.stored()
        assert 40 <= stored < count
        assert f"(of {count:,} rows {stored:,} stored, {count - stored:,} not submitted" in line

        summary = finished(shell.start(manifest, "--max-cost-usd", "20", "--json"))
        assert summary.counts == {"done": stored, "stored": count - stored}
        assert emulator.ledger()["billed"] == count
        assert summary.spent_usd == pytest.approx((count - stored) * 2 * PRICE)


def test_ten_times_the_images_need_no_more_memory_and_a_few_hundred_task_runs(
    prefect: PrefectServer, folder: Path
) -> None:
    few, many = 300, 3_000
    memory = {}
    with emulator_of(0.2, 0.5) as emulator:
        for count in (few, many):
            shell = Shell(prefect, emulator, folder / str(count))
            shell.folder.mkdir()
            arguments = ["batch", shell.manifest(pictures(count)), "--out", shell.out, "--size", "256*256"]
            options = ["--concurrency", "200", "--json"]
            env = {**shell.env, "RESTYLE_LEASE_SECONDS": "150"}  # nobody is killed here
            running = prefect.python("-m", "tests.support.batch_runner", *arguments, *options, env=env)
            ended = running.ended(1800)
            assert ended.status == 0, ended
            peak = re.fullmatch(r"peak (\d+) MB\n", without_progress(ended))
            assert peak, ended.stderr
            memory[count] = int(peak[1])

            summary = Summary.model_validate_json(ended.stdout)
            assert (summary.counts, summary.images) == ({"stored": count}, count)
            rows = shell.report(summary)
            assert [row.id for row in rows] == [f"n{n}" for n in range(1, count + 1)]
            table = pq.read_table(Path(summary.report) / "report.parquet").to_pylist()
            assert [ReportRow.model_validate(row) for row in table] == rows
            assert sum(row.cost_usd or 0 for row in rows) == pytest.approx(count * PRICE)
            assert 1 < task_runs(prefect, summary) <= 300
        assert emulator.ledger()["billed"] == few + many
    assert memory[many] < 400
    assert memory[many] <= 1.3 * memory[few]
