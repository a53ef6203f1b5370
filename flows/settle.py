"""The flow that settles open jobs."""

# No `from __future__ import annotations` here: see flows/restyle_image.py.

import re

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.runtime import flow_run

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam, shown
from prefect_wavespeed.errors import redact
from prefect_wavespeed.flows._dispatch import dispatched_flow
from prefect_wavespeed.flows._retries import retry_only
from prefect_wavespeed.flows._said import completed, run_log
from prefect_wavespeed.quality.outputs import described
from prefect_wavespeed.settling.summary import Problem, Settled
from prefect_wavespeed.tasks import collecting_task_runs, settle_open
from prefect_wavespeed.words import markdown

_MAX_ROWS = 100  # of the artifact


def _run_name() -> str:
    output = flow_run.parameters.get("output")
    return f"settle {output}" if isinstance(output, str) else "settle"


@dispatched_flow
@flow(flow_run_name=_run_name, retries=2, retry_delay_seconds=30, persist_result=False)
async def settle(
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK, output: OutputParam = DEFAULT_OUTPUT
) -> Settled:
    """Settle the open jobs of an output, whichever run submitted them, and bill nothing.

    A prediction is polled, and stored once it is ready; one that an interrupted run may have submitted is
    looked up in the account's history; a job that failed for good gets its dead letter. Jobs that need a new
    submission stay open and are reported. It may run beside other runs, and beside itself.

    Args:
        wavespeed: The WaveSpeed block that holds the API key, or the name of a saved one.
        output: Where the jobs are: s3-bucket/NAME or local-file-system/NAME (saved blocks),
            s3://bucket/prefix, or a directory.

    Returns:
        Counts by outcome, and the jobs that need attention.

    Raises:
        RestyleError: the store or WaveSpeedAI cannot be used now. Errors of single jobs are reported and do
            not fail the run.
    """
    async with retry_only():
        with collecting_task_runs():
            settled = await settle_open(wavespeed, output)
    await _publish(settled, shown(output))
    for reason in settled.reasons:
        run_log().warning("%s", reason.line)
    return completed(settled, settled.outcome)


async def _publish(settled: Settled, output: str) -> None:
    """Publish the outcome. Errors are only logged."""
    try:
        await acreate_markdown_artifact(
            _page(settled, output),
            key=_artifact_key(output),
            description=f"Open jobs of {markdown(output)}, settled",
        )
    except Exception as error:
        run_log().warning("the artifact cannot be created: %s", redact(error))


def _artifact_key(output: str) -> str:
    """The artifact's key for an output. Prefect allows lowercase letters, digits and dashes."""
    return f"settle-{re.sub(r'[^a-z0-9]+', '-', output.lower()).strip('-')}"


def _page(settled: Settled, output: str) -> str:
    counts = "\n".join(f"| {count} | {what} |" for what, count in settled.groups() if count)
    problems = settled.problems[: _MAX_ROWS - len(settled.groups())]
    page = f"# {markdown(output)}\n\n"
    if problems:
        rows = "\n".join(_row(problem) for problem in problems)
        page += f"| reason | status | source | prediction | job |\n|{' --- |' * 5}\n{rows}\n\n"
    if more := len(settled.problems) + settled.problems_left_out - len(problems):
        page += f"… and {more} more.\n\n"
    for line in described(settled.warnings):
        page += f"{markdown(line)}.\n\n"
    return page + (f"| jobs | |\n| ---: | --- |\n{counts}\n" if counts else "Nothing was open.\n")


def _row(problem: Problem) -> str:
    cells = (problem.message, problem.status, problem.source, problem.prediction_id, problem.job_key[:16])
    return f"| {' | '.join(markdown(part or '') for part in cells)} |"
