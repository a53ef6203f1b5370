"""What became of every row of a batch, for flows that go on with it."""

from __future__ import annotations

from collections.abc import Iterator

from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_wavespeed.batch.report.rows import ReportRow, Summary, read_rows
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.parameters import OutputParam


def read_account(run: Summary | str, output: OutputParam | None = None) -> Iterator[ReportRow]:
    """The outcome of every row of a run of `restyle_batch`, one after the other, however many there are.

    Args:
        run: what the flow returned, or where its report is (``report`` of a summary).
        output: the output that it is in, where the credentials of a block are needed to read it; by default
            those that the run had, or what the address says.

    Raises:
        ConfigurationError: there is no report, or the output cannot be used.
        StoreError: the store cannot be read now.
    """
    if output is not None:
        return read_rows(run if isinstance(run, str) else run.report, run_coro_as_sync(open_output(output)))
    return read_rows(run) if isinstance(run, str) else run.each_row()
