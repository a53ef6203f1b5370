"""The flow that finishes what is open."""

# No `from __future__ import annotations` here: a deployment loads this file by its path, and Prefect 3.8
# then cannot resolve annotations that are text ("not fully defined"), so every run of it would fail.

import re

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import acreate_markdown_artifact

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.errors import redact
from prefect_wavespeed.flows._artifacts import cell
from prefect_wavespeed.flows._retries import retried_where_it_helps
from prefect_wavespeed.steps.settle import Problem, Settled
from prefect_wavespeed.tasks._runtime import task_runs_noted
from prefect_wavespeed.tasks.settle_open import settle_open

_ROWS = 100  # of the artifact: what is wider or longer, nobody reads


def _run_name() -> str:
    return f"settle {runtime.flow_run.parameters.get('output', '')}"


@flow(flow_run_name=_run_name, retries=2, retry_delay_seconds=30, persist_result=False)
async def settle(wavespeed: str = WAVESPEED_BLOCK, output: str = DEFAULT_OUTPUT) -> Settled:
    """Bring every open job of an output forward, whoever submitted it, and bill nothing.

    What has a prediction is polled and stored; what a runner that is gone may have submitted is looked up
    in the account's history; what has failed for good gets its dead letter. Nothing is submitted, so jobs
    that need a new submission stay open and are told. Safe beside runs that are under way, and beside itself.

    Args:
        wavespeed: Name of the WaveSpeed block that holds the API key.
        output: Where the jobs are: s3-bucket/NAME or local-file-system/NAME (saved blocks),
            s3://bucket/prefix, or a directory.

    Returns:
        What was done, in numbers, and the jobs that need a look.

    Raises:
        RestyleError: the store or WaveSpeedAI cannot be used now. What goes wrong with single jobs is told
            and does not fail the run.
    """
    async with retried_where_it_helps():
        with task_runs_noted():
            settled = await settle_open(wavespeed, output)
    await _show(settled, output)
    return settled


async def _show(settled: Settled, output: str) -> None:
    """Put up what was done. What goes wrong here is logged and no more."""
    try:
        await acreate_markdown_artifact(
            _page(settled, output), key=_artifact_key(output), description=f"Open jobs of {output}, settled"
        )
    except Exception as error:
        get_run_logger().warning("no artifact could be made: %s", redact(error))


def _artifact_key(output: str) -> str:
    """One for each output: lowercase letters, digits and dashes, as Prefect wants it."""
    return f"settle-{re.sub(r'[^a-z0-9]+', '-', output.lower()).strip('-')}"


def _page(settled: Settled, output: str) -> str:
    done = "\n".join(f"| {count} | {what} |" for what, count in settled.groups() if count)
    problems = settled.problems[: _ROWS - len(settled.groups())]
    page = f"# {cell(output)}\n\n"
    if problems:
        rows = "\n".join(_row(problem) for problem in problems)
        page += f"| job | picture | standing | what | prediction |\n|{' --- |' * 5}\n{rows}\n\n"
    if more := len(settled.problems) + settled.problems_left_out - len(problems):
        page += f"… and {more} more.\n\n"
    return page + (f"| jobs | |\n| ---: | --- |\n{done}\n" if done else "Nothing was open.\n")


def _row(problem: Problem) -> str:
    cells = (problem.job_key[:16], problem.source, problem.standing, problem.message, problem.prediction_id)
    return f"| {' | '.join(cell(part or '') for part in cells)} |"
