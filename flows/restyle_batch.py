"""The flow that restyles many images."""

# No `from __future__ import annotations` here: see flows/restyle_image.py.

import asyncio
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from math import ceil
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import uuid4

from prefect import flow, runtime
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from prefect_wavespeed.batch.job_runner import Carrier
from prefect_wavespeed.batch.manifest.left_out import left_out_line
from prefect_wavespeed.batch.manifest.partition import filled, is_template
from prefect_wavespeed.batch.manifest.read import Manifest
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import OnProgress, Progress
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.batch.shards import Shard
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam, shown
from prefect_wavespeed.blocks.schedules import day_of_run, rename_run
from prefect_wavespeed.errors import ManifestError, redact
from prefect_wavespeed.flows._batch_artifacts import show_quote, show_report
from prefect_wavespeed.flows._dispatch import dispatched_flow
from prefect_wavespeed.flows._retries import retry_only
from prefect_wavespeed.flows._said import completed, run_log
from prefect_wavespeed.flows._server import watching
from prefect_wavespeed.flows._shards import cancel_shards, carry_out_in_shards, check_room_for_shards
from prefect_wavespeed.flows._task_steps import TaskSteps
from prefect_wavespeed.flows.progress import ProgressArtifact, observer, updating
from prefect_wavespeed.job import Job
from prefect_wavespeed.quality.outputs import described
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.storage import layout
from prefect_wavespeed.tasks import (
    Runtime,
    collect_task_runs,
    current_batch,
    emit_batch_lineage,
    emit_rows_failed,
    open_runtime,
    restyle_chunk,
    run_info,
    sharing_events,
)
from prefect_wavespeed.words import counted, printable

WATCHABLE = 50
"""Up to this many images, every step is a task run, and every job has its own events, for people to watch."""
CHUNKS = 200
"""Beyond that, about this many task runs: Prefect's server on SQLite records some 30 a second."""
_MIN_CHUNK = 25  # images
_CLOCK_DIFFERENCE = timedelta(hours=1)  # at most, between Prefect's server and the store

_DEFAULT = BatchOptions()


def _run_name() -> str:
    parameters = runtime.flow_run.parameters
    shard, manifest = parameters.get("shard"), parameters.get("manifest", "")
    if day := parameters.get("date"):
        with suppress(ManifestError):  # is raised by the flow itself
            manifest = filled(manifest, date.fromisoformat(str(day)))
    return _name_of(manifest) + (f", {Shard.model_validate(shard).label}" if shard else "")


def _name_of(manifest: Manifest) -> str:
    if not isinstance(manifest, str):
        return f"restyle {counted(len(manifest), 'image')}"
    path = urlsplit(manifest).path if "://" in manifest else manifest
    return f"restyle {printable(PurePosixPath(path).name or manifest)}"


@dispatched_flow
@flow(
    flow_run_name=_run_name,
    retries=2,
    retry_delay_seconds=30,
    persist_result=False,
    on_cancellation=[cancel_shards],
)
async def restyle_batch(
    manifest: Annotated[str, Field(min_length=1, examples=["s3://my-bucket/in/"])]
    | Annotated[list[str | dict[str, Any]], Field(min_length=1)],
    options: BatchOptions = _DEFAULT,
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
    dry_run: bool = False,
    shards: Annotated[int, Field(ge=1, le=100)] = 1,
    date: date | None = None,
    shard: SkipJsonSchema[Shard | None] = None,  # set by a run that starts its shards; not in the form
) -> Summary:
    """Restyle all images of a manifest, bill each once, and report the outcome of every row.

    Run it again with the same parameters, however it ended: what is stored is not billed again, and what is
    in flight is joined. One bad image never stops the others.

    Args:
        manifest: What to restyle: a JSONL, JSON, CSV, TSV or Parquet file (a path, s3://bucket/key or an
            https URL) with a column image and, optionally, id, variant and any parameter; a folder, a pattern
            such as photos/**/*.jpg or s3://bucket/prefix/ for every image in it; or a list of images, or of
            rows such as {"id": "sku-1", "image": "https://…"}. {date} in its name, as in
            s3://bucket/in/dt={date}/, is replaced by the run's day.
        options: How to restyle them, what it may cost, and when the batch counts as failed.
        wavespeed: The WaveSpeed block that holds the API key, or the name of a saved one.
        output: Where the pictures go: s3-bucket/NAME or local-file-system/NAME (saved blocks),
            s3://bucket/prefix, or a directory.
        dry_run: Only find out what it would cost, and show it as an artifact of the run. Nothing is spent.
        shards: Runs that share the work: child runs of this one's deployment, on its work pool, while this
            one waits for them and writes one report. 1: this run does it all.
        date: The day that replaces {date} in the manifest. By default that of the run's scheduled time, in
            the time zone of its schedule.

    Returns:
        The run in figures; of a dry run, what it would cost (`quoted_usd`). The report of every row is below
        runs/ in the output.

    Raises:
        RestyleError: one of `prefect_wavespeed.errors`: ManifestError before anything is spent,
            BatchFailedError if more rows failed than max_failed allows, after everything else is stored.
    """
    async with retry_only():
        if date is None and is_template(manifest):
            date = await day_of_run()
            await rename_run(_name_of(filled(manifest, date)))
        if dry_run:
            return await _quote(manifest, date, options, wavespeed, output)
        if shard:
            options, shards = shard.options(options), 1  # it has the whole run's parameters, and starts none
        summary = await _restyle_all(manifest, date, options, wavespeed, output, shards, shard)
        return completed(summary, summary.outcome)


arestyle_batch = restyle_batch.aio
"""`restyle_batch` for async code: always a coroutine."""


async def _quote(
    manifest: Manifest,
    day: date | None,
    options: BatchOptions,
    wavespeed: WaveSpeedParam,
    output: OutputParam,
) -> Summary:
    """Find out what the batch would cost, and show it."""
    async with (
        open_runtime(wavespeed, output) as used,
        Batch(
            used.client, used.store, run_info(), _report_folder(), options, prices=used.steps.prices
        ) as batch,
    ):
        await batch.read(manifest, day)
        quote = await batch.quote()
        lines = quote.lines(options)
        for line in lines:
            run_log().info("%s", line)
        await show_quote(lines)
        message = f"dry run: {quote.billed:,} would be billed, {quote.usd:g} USD; nothing was spent"
        return completed(batch.quoted(), message)


async def _restyle_all(
    manifest: Manifest,
    day: date | None,
    options: BatchOptions,
    wavespeed: WaveSpeedParam,
    output: OutputParam,
    shards: int,
    shard: Shard | None,
) -> Summary:
    bar, observe, tell_unchecked = ProgressArtifact(), observer.get(), _unchecked_notice()

    def on_progress(progress: Progress) -> None:
        bar.update(progress)
        tell_unchecked(progress)
        observe(progress)

    async with open_runtime(wavespeed, output) as used, updating(bar):
        if shards > 1:
            await check_room_for_shards(shards)
        async with Batch(
            used.client,
            used.store,
            shard.run(run_info()) if shard else run_info(),
            shard.path if shard else _report_folder(),
            options,
            prices=used.steps.prices,
            since=_began_earlier(shard),
            share=await shard.share(used.store) if shard else None,
            on_progress=on_progress,
        ) as batch:
            await batch.read(manifest, day)
            if batch.table.left_out and not shard:
                run_log().warning(left_out_line(batch.table.left_out))
            await batch.afford()
            async with watching(batch.gate):
                if shards > 1:
                    await carry_out_in_shards(batch, shards, day)
                else:
                    await _carry_out(batch, wavespeed, output, used)
            summary = await batch.close()
            for line in described(
                {**summary.warnings, "not_checked": 0}, summary.flagged
            ):  # that has been logged
                run_log().warning("%s", line)
            if not shard:
                await show_report(batch.table.report, summary, batch.store, shown(output))
                emit_rows_failed(summary)
                if batch.table.job_count > WATCHABLE:
                    emit_batch_lineage(summary)
                _log_outcome(summary)
            if error := batch.verdict(summary):
                raise error
            return summary


def _began_earlier(shard: Shard | None) -> datetime | None:
    """When the first try of this run began, if this is a later one; no later by the store's clock."""
    tries = max(runtime.flow_run.run_count or 1, shard.attempt if shard else 1)
    began = shard.began if shard else runtime.flow_run.scheduled_start_time
    return began - _CLOCK_DIFFERENCE if tries > 1 else None


def _log_outcome(summary: Summary) -> None:
    """End the log with what failed, and why."""
    run_log().info("%s; %s USD spent; report: %s", summary.outcome, f"{summary.spent_usd:g}", summary.report)
    for line in summary.failure_lines:
        run_log().warning("%s", line)


def _unchecked_notice() -> OnProgress:
    """Log once that pictures are not checked for NSFW: it may be every picture of the batch."""
    logger, noticed = run_log(), False

    def tell(progress: Progress) -> None:
        nonlocal noticed
        if progress.warnings["not_checked"] and not noticed:
            noticed = True
            logger.warning(
                "WaveSpeedAI does not say whether pictures are safe for work: those are stored in "
                "quarantine/; with nsfw_unchecked=keep they are stored like others"
            )

    return tell


def _report_folder() -> str:
    started = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    return layout.run(started, str(runtime.flow_run.id or uuid4()))


async def _carry_out(batch: Batch, wavespeed: WaveSpeedParam, output: OutputParam, used: Runtime) -> None:
    token = current_batch.set(batch)
    try:
        if batch.table.job_count <= WATCHABLE and batch.options.wait:
            await batch.carry_out(_tasks(wavespeed, output, batch.options, used))
        elif batch.table.job_count <= WATCHABLE:
            await _carry_out_in_chunks(batch, wavespeed, output)
        else:
            async with sharing_events(batch.store.uri, batch.run):
                await _carry_out_in_chunks(batch, wavespeed, output)
    finally:
        current_batch.reset(token)


def _tasks(wavespeed: WaveSpeedParam, output: OutputParam, options: BatchOptions, used: Runtime) -> Carrier:
    """A task run for each step of each image."""
    steps = TaskSteps(wavespeed, output, options.nsfw_rules, retry_failed=options.retry_failed)

    async def submit_step(job: Job, *, after: int) -> Submitted:
        if not after:
            collect_task_runs()
        return await steps.submit(job, after=after)

    return Carrier(submit_step, steps.poll, steps.download, used.slot, used.steps.expect_new)


async def _carry_out_in_chunks(batch: Batch, wavespeed: WaveSpeedParam, output: OutputParam) -> None:
    """A task run for some images at a time. The next one starts as soon as all images of the last have."""
    size = max(_MIN_CHUNK, ceil(batch.table.job_count / CHUNKS))
    async with asyncio.TaskGroup() as group:
        for first in range(1, batch.table.job_count + 1, size):
            all_started = asyncio.Event()
            last = min(first + size - 1, batch.table.job_count)
            if batch.table.has_unfinished(first, last):
                group.create_task(_carry_out_chunk(first, last, all_started, wavespeed, output))
                await all_started.wait()


async def _carry_out_chunk(
    first: int, last: int, all_started: asyncio.Event, wavespeed: WaveSpeedParam, output: OutputParam
) -> None:
    try:
        await restyle_chunk(first, last, all_started, wavespeed, output)
    except Exception as error:  # its images are reported as unsubmitted; the other chunks go on
        run_log().error("images %s to %s: %s", first, last, redact(error))
    finally:
        all_started.set()  # also if the task could not even start
