"""What commands print: on terminals of any width and colour, and as plain lines for scripts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from prefect_wavespeed.deployments.cli.views.checks import print_checks
from prefect_wavespeed.deployments.cli.views.costs import print_costs
from prefect_wavespeed.deployments.cli.views.jobs import as_dict, print_job
from prefect_wavespeed.deployments.cli.views.story import tell_story
from prefect_wavespeed.deployments.cli.views.story_lines import print_story
from prefect_wavespeed.inspect.checks import error, ok, skipped, warning
from prefect_wavespeed.inspect.cost_report import CostReport, Difference, RunSum, Sum
from prefect_wavespeed.inspect.job_view import JobView
from prefect_wavespeed.job import OutputWarning
from prefect_wavespeed.ledger.records import OpenJob
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.records import STORED, dead_letter, key_of, record, side_car
from tests.support.terminal import plain

LONG_ID = "3f0c9d1f2a7b4c5d8e6f" * 2
LONG_URL = "https://example.com/" + "catalogue/" * 12 + "coffee.jpg"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes stdout for a terminal of 80 columns."""
    for name in ("NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def done() -> JobView:
    blank = OutputWarning(code="blank", message="it is of one colour all over", output=2)
    metadata = side_car("p-done", pictures=2, nsfw=True, warnings=[blank])
    path = f"images/coffee-{metadata.job_key[:16]}/metadata.json"
    return JobView("done", metadata.job_key, STORED, path, metadata=metadata)


def failed(message: str = "not\nsafe") -> JobView:
    letter = dead_letter("p-failed", message=message, code=1200)
    return JobView("failed", letter.job_key, STORED, f"failed/{letter.job_key}.json", letter=letter)


def submitted() -> JobView:
    key = key_of("p-open")
    open_job = OpenJob(claimed={1: STORED}, recorded={1: STORED})
    return JobView("open", key, STORED, f"open/{key}", open_job=open_job, records={1: record("p-open")})


# --- costs ---


def cost_report() -> CostReport:
    report = CostReport(since=STORED, agreed=2, billed_usd=0.1, unpriced=1, unreadable=3)
    report.total = Sum(jobs=3, pictures=4, usd=0.075)
    report.days = {"2026-03-01": report.total}
    one = RunSum(jobs=1, pictures=1, usd=0.025, flow_run_id=None, flow_run_name=None)
    named = {"flow_run_name": "restyle"}
    report.runs = [one.model_copy(update={**named, "flow_run_id": f"run-{n}"}) for n in range(21)]
    report.runs.append(one)
    report.differ.add(Difference(prediction_id=LONG_ID, recorded_usd=0.025, billed_usd=0.03), 0.005)
    report.refunded.add(Difference(prediction_id="p-2", billed_usd=0.0, belongs_to="failed"), 0.0)
    report.add_without_side_car("open", "p-3", 0.025)
    report.undelivered.add_missing("p-4", asked=4, came=3, usd=0.1)
    return report


def cells(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_costs_are_lines_that_scripts_can_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_costs(cost_report())
    lines = cells(capsys.readouterr().out)
    assert ["stored since 2026-03-01, by day (UTC)"] in lines
    assert ["2026-03-01", "3", "4", "0.0750"] in lines
    assert ["restyle (run-0)", "1", "1", "0.0250"] in lines
    assert ["… and 2 more: use --json"] in lines
    assert lines[lines.index(["paid for and not delivered"]) + 2 :][:2] == [
        ["p-4", "0.0250"],
        ["total", "0.0250", "1 picture missing"],
    ]
    assert ["billed for this output", "0.1000"] in lines
    assert ["billed as recorded", "2"] in lines
    assert ["recorded without a price", "1"] in lines
    assert ["side-cars of another version, left out", "3"] in lines
    assert ["billed differently: billed minus recorded", "1", "0.0050"] in lines
    assert ["billed without a side-car: the job is still open", "1", "0.0250"] in lines
    assert [LONG_ID, "0.0250", "0.0300", "differs"] in lines
    assert ["p-2", "0.0000", "refunded: the job failed for good"] in lines


@pytest.mark.parametrize("columns", ["80", "120"])
def test_costs_fit_the_terminal_without_boxes_and_ids_stay_whole(
    columns: str, terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_costs(cost_report())
    shown = plain(capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= int(columns)
    assert not re.search(r"[^\x00-\x7f…]", shown), "no boxes"
    assert LONG_ID in shown
    lines = cells(shown)
    assert ["total", "3", "4", "0.0750"] in lines
    assert ["billed for this output", "0.1000 USD"] in lines
    assert ["billed as recorded", "2 predictions"] in lines
    assert ["billed without a side-car: the job is still open", "1 prediction, 0.0250 USD"] in lines


# --- jobs ---


def test_a_job_for_scripts_is_a_line_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    for job in (done(), failed(), submitted()):
        print_job(job, Console(highlight=False))
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["2026-03-01T12:00:00Z", "done", "file:///photos/coffee.jpg", key_of("p-done"), "0.0250 USD"],
        ["2026-03-01T12:00:00Z", "failed", "file:///photos/coffee.jpg", key_of("p-failed"), "not safe"],
        [
            "2026-03-01T12:00:00Z",
            "open",
            "",
            key_of("p-open"),
            "attempt 1 is submitted, and its pictures are not stored yet",
        ],
    ]


def test_a_job_on_a_terminal_is_a_coloured_line_that_fits_and_its_reason_is_never_cut(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = " ".join(["a reason that is much longer than any terminal is wide"] * 3)
    job = failed(reason)
    assert job.letter
    job.letter.source.uri = LONG_URL
    print_job(job, Console(highlight=False))
    shown = capsys.readouterr().out
    assert "\x1b[31m  failed" in shown
    line, *below = plain(shown).splitlines()
    assert max(map(len, [line, *below])) <= 80
    assert " ".join(map(str.strip, below)) == reason
    assert "coffee.jpg" in line, "the end of the source"
    assert key_of("p-failed")[:8] in line


def test_a_job_as_json_has_its_status_cost_and_predictions() -> None:
    assert as_dict(done()) == {
        "job_key": key_of("p-done"),
        "status": "done",
        "at": "2026-03-01T12:00:00+00:00",
        "source": "file:///photos/coffee.jpg",
        "usd": 0.025,
        "pictures": 2,
        "prediction_ids": ["p-done"],
        "reason": "",
    }
    unreadable = JobView("done", "0" * 16, STORED, "images/x/metadata.json", unreadable=True)
    assert as_dict(unreadable)["reason"] == "written by another version of this package"


def test_the_story_of_a_done_job_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = done()
    assert job.metadata
    first, second = (output.key or "" for output in job.metadata.outputs)
    stored = [Entry(first, STORED, 12_345), Entry(job.path, STORED, 900)]
    story = tell_story(directory_store(tmp_path), job, stored, None) | {"next": "nothing"}
    assert story["prediction"] == {"id": "p-done", "status": "completed", "inference_ms": 2100}
    assert [file["bytes"] for file in story["files"]] == [12_345, None, 900]
    assert story["warnings"] == [{"code": "blank", "message": "it is of one colour all over", "output": 2}]
    assert story["answer"] == {"id": "p-done", "status": "completed"}
    print_story(story)
    lines = capsys.readouterr().out
    for line in (
        "status      done",
        "request     1024*1024, 28 steps, guidance 3.5, 2 images, jpeg, seed 7",
        "prediction  p-done, completed, 2.1 s",
        "cost        0.0250 USD, quoted",
        "run         restyle-image, flow run a-run, package test",
        "attempts    1. claimed 2026-03-01 12:00:00 UTC, prediction p-done, flow run a-run",
        "            stored 2026-03-01 12:00:00 UTC",
        f"files       {tmp_path / first}  12.3 kB, 1024×1024, flagged as unsafe for work",
        f"            {tmp_path / second}  MISSING",
        "warnings    output 2: it is of one colour all over (blank)",
        "next        nothing",
    ):
        assert f"\n{line}\n" in lines, line


def test_the_story_of_a_failed_job_has_the_reason_and_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_story(tell_story(directory_store(tmp_path), failed(), [], None) | {"next": "another picture"})
    lines = capsys.readouterr().out
    assert "prediction  p-failed, failed, code 1200\n" in lines
    assert "times       failed 2026-03-01 12:00:00 UTC\n" in lines
    assert f"files       {tmp_path / 'failed' / key_of('p-failed')}.json\n" in lines


def test_the_story_of_an_open_job_has_its_attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_story(tell_story(directory_store(tmp_path), submitted(), [], None) | {"next": "wait"})
    lines = capsys.readouterr().out
    assert "status      open: attempt 1 is submitted, and its pictures are not stored yet\n" in lines
    assert "attempts    1. claimed 2026-03-01 12:00:00 UTC, prediction p-open\n" in lines
    assert "times       last change 2026-03-01 12:00:00 UTC\n" in lines


def test_a_story_fits_the_terminal(
    terminal: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = failed()
    assert job.letter
    job.letter.source.uri = LONG_URL
    print_story(tell_story(directory_store(tmp_path), job, [], None) | {"next": "nothing"})
    shown = capsys.readouterr().out
    assert "\x1b[31mfailed" in shown
    assert max(map(len, plain(shown).splitlines())) <= 80
    assert LONG_URL in re.sub(r"\s", "", plain(shown))


# --- checks ---

CHECKS = [
    ok("settings", "lease_seconds 150"),
    warning("checksums", "not verified: a damaged put would be stored", "nothing to do"),
    error("output", "access denied: cannot write s3://bucket/prefix", "allow s3:PutObject"),
    skipped("create-if-absent", "output: see above"),
]


def test_checks_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_checks(CHECKS)
    assert capsys.readouterr().out.splitlines() == [
        "ok       settings: lease_seconds 150",
        "warning  checksums: not verified: a damaged put would be stored → nothing to do",
        "error    output: access denied: cannot write s3://bucket/prefix → allow s3:PutObject",
        "skipped  create-if-absent: not checked: output: see above",
    ]


def test_checks_fit_the_terminal_and_have_colours(
    terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_checks(CHECKS)
    shown = capsys.readouterr().out
    assert "\x1b[31merror" in shown
    assert max(map(len, plain(shown).splitlines())) <= 60
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("NO_COLOR", "1")
    print_checks(CHECKS)
    assert "\x1b[3" not in capsys.readouterr().out


def test_a_time_in_another_zone_is_shown_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    job = done()
    east = datetime(2026, 3, 2, 1, tzinfo=UTC).astimezone()
    print_job(JobView(job.status, job.key, east + timedelta(0), job.path, metadata=job.metadata), Console())
    assert capsys.readouterr().out.startswith("2026-03-02T01:00:00Z\t")
