"""The job table: rows, jobs, outcomes, and what the report reads from them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.manifest.rows import BadRow
from prefect_wavespeed.batch.outcome import JobOutcome
from prefect_wavespeed.errors import (
    BudgetExceededError,
    OutputError,
    RestyleError,
    StoreError,
    worth_retrying,
)
from prefect_wavespeed.job import Job
from tests.support.jobs import job_of, make_row

STORED = JobOutcome("stored", outputs=["s3://out/1.jpeg"], cost_usd=0.025, seconds=2.0)


@pytest.fixture
def table() -> Iterator[JobTable]:
    made = JobTable()
    yield made
    made.close()


def fill(table: JobTable, count: int) -> list[Job]:
    """So many rows of different images; the jobs in the order of the rows, which is none of their keys."""
    jobs = [job_of(make_row(number)) for number in range(1, count + 1)]
    for number, job in enumerate(jobs, 1):
        table.add([(make_row(number), job)])
    assert sorted(jobs, key=lambda job: job.key) != jobs
    return jobs


def record_shuffled(table: JobTable, jobs: list[Job], outcome: JobOutcome) -> None:
    """Record an outcome for all of them, in the order of their keys."""
    for job in sorted(jobs, key=lambda job: job.key):
        table.record(job.key, outcome)


# --- rows and jobs ---


def test_rows_of_one_job_are_counted_and_the_first_pays(table: JobTable) -> None:
    job = job_of(make_row(1))
    for number in (3, 7):
        table.add([(make_row(number, job.source.uri), job)])
    assert (table.row_count, table.job_count) == (2, 1)
    rows = table.record(job.key, STORED)
    assert [(row.row, row.id, row.cost_usd) for row in rows] == [(3, "n3", 0.025), (7, "n7", 0.0)]
    assert table.report.counts() == {"stored": 2}
    assert (table.report.pictures(), table.report.spent_usd()) == (1, 0.025)


def test_jobs_without_an_outcome_are_those_left_to_do(table: JobTable) -> None:
    jobs = fill(table, 5)
    table.record(jobs[1].key, STORED)
    assert list(table.unfinished()) == [jobs[n] for n in (0, 2, 3, 4)]
    assert list(table.unfinished(2, 3)) == [jobs[2]]
    assert not table.has_unfinished(2, 2)
    assert table.has_unfinished(2, 3)


def test_a_job_that_gets_its_outcome_meanwhile_is_left_out(table: JobTable) -> None:
    jobs = fill(table, 3)
    left = table.unfinished()
    assert next(left) == jobs[0]
    table.record(jobs[1].key, STORED)
    assert list(left) == [jobs[2]]


def test_jobs_to_bill_are_counted_by_price_and_by_shard(table: JobTable) -> None:
    for number in range(1, 41):
        row = make_row(number, num_images=1 + number % 2)
        table.add([(row, job_of(row))])
    assert sorted((job.params.num_images, count) for job, count, _ in table.billable()) == [(1, 20), (2, 20)]
    by_shard = list(table.billable(4))
    assert {shard for *_, shard in by_shard} == {1, 2, 3, 4}
    assert sum(count for _, count, _ in by_shard) == 40
    for shard in range(1, 5):
        keys = [key for key, _ in table.jobs_of_shard(shard, 4)]
        assert {table.shard_of(key, 4) for key in keys} == {shard}
        assert len(keys) == sum(count for _, count, number in by_shard if number == shard)


def test_what_is_stored_submitted_or_failed_is_not_billed(table: JobTable) -> None:
    jobs = fill(table, 6)
    table.record(jobs[0].key, STORED)
    table.mark_unbilled(jobs[1].key, "open")
    table.mark_unbilled(jobs[2].key, "failed")
    table.mark_unbilled(jobs[3].key, "failed")
    assert [count for _, count, _ in table.billable()] == [2]
    assert (table.count_stored(), table.count_unbilled("open"), table.count_unbilled("failed")) == (1, 1, 2)


# --- the report: always in the order of the manifest ---


def test_all_rows_are_in_order_bad_ones_too(table: JobTable) -> None:
    jobs = fill(table, 30)
    table.add_bad([BadRow(31, "size 9*9: must be …", "bad")])
    record_shuffled(table, jobs, STORED)
    rows = [row for row, _ in table.report.rows()]
    assert [row.row for row in rows] == list(range(1, 32))
    assert [row.job_key for row in rows] == [*(job.key for job in jobs), None]
    assert (rows[-1].status, rows[-1].error_type, rows[-1].retryable) == ("invalid", "BadRow", False)


def test_the_first_pictures_are_those_of_the_first_rows(table: JobTable) -> None:
    jobs = fill(table, 40)
    record_shuffled(table, jobs, STORED)
    for job in random.Random(1).sample(jobs[4:], 36):
        table.keep_thumbnail(job.key, 2, b"second")
        table.keep_thumbnail(job.key, 1, b"first")
        table.keep_source(job.key, b"source")
    pictured = table.report.pictured(12)
    assert [row.row for row, _ in pictured] == list(range(5, 17))
    assert {(pair.source, *pair.outputs.items()) for _, pair in pictured} == {
        (b"source", (1, b"first"), (2, b"second"))
    }


def test_the_first_failures_are_those_of_the_first_rows(table: JobTable) -> None:
    jobs = fill(table, 40)
    table.add_bad([BadRow(41, "no such file", error_type="SourceError")])
    record_shuffled(table, jobs[::2], JobOutcome.of_error("failed", RestyleError("broken")))
    record_shuffled(table, jobs[1::2], JobOutcome.of_error("open", StoreError("down")))
    assert [row.row for row in table.report.failures(7)] == [1, 2, 3, 4, 5, 6, 7]
    assert [row.row for row in table.report.failures(100)] == list(range(1, 42))


def test_rows_that_nothing_was_done_with_are_one_reason_beside_those_that_failed(table: JobTable) -> None:
    jobs = fill(table, 30)
    table.add([(make_row(31, jobs[29].source.uri), jobs[29])])
    table.record(jobs[4].key, JobOutcome.of_error("failed", OutputError("cut short")))
    waiting, failed = table.report.reasons()
    assert (waiting.status, waiting.count) == ("unsubmitted", 30)
    assert waiting.first == [f"n{number}" for number in range(1, 12) if number != 5]
    assert (failed.status, failed.count, failed.first) == ("failed", 1, ["n5"])


def test_the_first_bad_rows_and_the_first_stopped_row_are_the_first(table: JobTable) -> None:
    jobs = fill(table, 40)
    for number in (90, 60, 50, 70):
        table.add_bad([BadRow(number, "wrong")])
    assert [row.number for row in table.first_bad_rows(3)] == [50, 60, 70]
    assert table.report.first_stopped() is None
    stopped = BudgetExceededError("max_cost_usd 1 is reached")
    record_shuffled(table, jobs[10:], JobOutcome.of_error("unsubmitted", stopped))
    first = table.report.first_stopped()
    assert first is not None
    assert (first.row, first.error_message) == (11, "max_cost_usd 1 is reached")


def test_the_first_stored_jobs_are_those_of_the_first_rows(table: JobTable) -> None:
    jobs = fill(table, 40)
    record_shuffled(table, jobs, STORED)
    assert [job for job, _ in table.stored_by_this_run(5)] == jobs[:5]


# --- figures ---


def test_rows_are_counted_by_status_and_error(table: JobTable) -> None:
    jobs = fill(table, 6)
    table.add_bad([BadRow(7, "wrong")])
    table.add_bad([BadRow(8, "gone", error_type="SourceError")])
    table.record(jobs[0].key, STORED)
    table.record(jobs[1].key, JobOutcome.of_error("failed", StoreError("down")))
    table.record(jobs[2].key, JobOutcome.of_error("unsubmitted", RestyleError("stopped")))
    report = table.report
    assert report.counts() == {"stored": 1, "failed": 2, "unsubmitted": 4, "invalid": 1}
    assert report.finished_counts() == {"stored": 1, "failed": 2, "unsubmitted": 1, "invalid": 1}
    assert report.errors() == {"SourceError": 1, "StoreError": 1}, "what was never sent has not failed"


def test_latency_is_that_of_the_jobs_that_this_run_stored(table: JobTable) -> None:
    assert table.report.latency(0.5) is None
    for seconds, job in enumerate(fill(table, 100), 1):
        table.record(job.key, JobOutcome("stored", seconds=float(seconds)))
    assert [table.report.latency(share) for share in (0, 0.5, 0.95, 1)] == [1, 51, 96, 100]


def test_whether_an_error_may_be_retried_is_that_of_the_error_itself_and_not_of_its_class(
    table: JobTable,
) -> None:
    jobs = fill(table, 3)
    final = OutputError("the output is bigger than 100 MB", retryable=False)
    assert OutputError.retryable
    for job in jobs[:2]:
        table.record(job.key, JobOutcome.of_error("failed", final))
    (error,) = table.report.job_errors()
    assert (type(error), error.retryable) == (OutputError, False)
    assert not worth_retrying(error)
    (row,) = table.report.rows_of(jobs[0].key)
    assert (row.error_type, row.retryable) == ("OutputError", False)
    table.record(jobs[2].key, JobOutcome.of_error("failed", OutputError("cut off")))
    assert sorted(error.retryable for error in table.report.job_errors()) == [False, True]
