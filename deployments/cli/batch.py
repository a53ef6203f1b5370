"""`restyle batch`: many images through the flow, with a progress bar and a few closing lines, or as JSON."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from json import dumps
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.deployments.cli.shared.flags import (
    INLINE,
    NO_FLAG,
    SWITCH,
    PictureFlags,
    with_flags,
)
from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out, WaveSpeedBlock
from prefect_wavespeed.deployments.cli.shared.progress import BatchProgress
from prefect_wavespeed.deployments.prefect_runtime import all_imported, quiet_run

if TYPE_CHECKING:
    from prefect_wavespeed.batch.progress import OnProgress
    from prefect_wavespeed.batch.quoting import BatchQuote
    from prefect_wavespeed.batch.report.rows import Summary
    from prefect_wavespeed.storage.store import Store


@with_flags(seed=NO_FLAG)
class _PictureFlags(PictureFlags):
    """Parameters of the model as flags; in a manifest, each image may have a seed."""


_NONE = Parameter(show_default=False)


@with_flags(
    params=INLINE, columns=_NONE, carry=_NONE, ignore_columns=_NONE, allow_local=SWITCH, retry_failed=SWITCH
)
class _BatchFlags(BatchOptions):
    """The options of a batch as flags."""

    params: _PictureFlags = _PictureFlags()


_OPTIONS = _BatchFlags()


def batch(
    manifest: str,
    /,
    *,
    out: Out,
    options: Annotated[_BatchFlags, INLINE] = _OPTIONS,
    dry_run: Annotated[bool, SWITCH] = False,
    wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK,
    as_json: AsJson = False,
) -> int:
    """Restyle the images, or report what that would cost, and print the outcome.

    Args:
        manifest: JSONL, JSON, CSV, TSV or Parquet (a path, s3://bucket/key or an https URL) with a column
            image and, optionally, id, variant and any parameter; or a folder, a pattern such as
            'photos/**/*.jpg' or s3://bucket/prefix/ for every image in it, except those that this project
            stored there. {date} in its name, as in s3://bucket/in/dt={date}/, is replaced by today's date.
        options: How to restyle them, what it may cost, and when the batch counts as failed.
        dry_run: Report what is done already, what would be billed and what it would cost. Spends nothing.
    """
    asked = _Command(manifest, _today(manifest), out, wavespeed, BatchOptions(**options.model_dump()))
    with quiet_run(
        "run the same command again to continue, nothing is billed twice; "
        "or let `restyle settle` finish what was submitted"
    ):
        asyncio.run(_check(asked, dry_run))
        if dry_run:
            with BatchProgress(Console(stderr=True)) as bar:
                quote = asyncio.run(_quote(asked, bar.update))
        else:
            summary = _restyle(asked, Console(stderr=True))
    if dry_run:
        print(dumps(asdict(quote)) if as_json else "\n".join(quote.lines(asked.options, _flag)))
    else:
        print(summary.model_dump_json() if as_json else "\n".join(summary.closing_lines))
    return 0


@dataclass(frozen=True)
class _Command:
    """What the command was given."""

    manifest: str
    day: date | None
    out: str
    wavespeed: str
    options: BatchOptions


def _today(manifest: str) -> date | None:
    """The day of a manifest that has one: today, where the command is typed, even if it ends tomorrow."""
    from prefect_wavespeed.batch.manifest.partition import day_at, is_template

    return day_at(datetime.now(UTC), None) if is_template(manifest) else None


async def _check(asked: _Command, dry_run: bool) -> None:
    """Refuse what cannot work before Prefect is started, which takes seconds."""
    from prefect_wavespeed.deployments.cli.shared.access import check_access
    from prefect_wavespeed.deployments.cli.shared.outputs import new_output
    from prefect_wavespeed.settings import get_settings

    get_settings()
    async with new_output(asked.out, dry_run=dry_run) as store:
        if store:  # a mistake in the manifest is found without Prefect, which `check_access` may import
            await _check_first_rows(asked, store)
        check_access(asked.wavespeed)
        if store:
            await store.ensure_conditional_put()


async def _check_first_rows(asked: _Command, store: Store) -> None:
    """Most manifests that are wrong are wrong in their first rows."""
    from prefect_wavespeed.batch.manifest.partition import filled
    from prefect_wavespeed.batch.manifest.read import read_manifest
    from prefect_wavespeed.batch.manifest.rows import BadRow
    from prefect_wavespeed.batch.run import bad_rows_error

    options = asked.options
    reading = read_manifest(
        filled(asked.manifest, asked.day),
        options.params,
        store,
        columns=options.manifest_columns,
        allow_local=options.allow_local,
    )
    async with aclosing(reading) as pages:
        rows = await anext(pages)
        bad = [row for row in rows if isinstance(row, BadRow)]
        if bad and options.on_bad_row == "fail":
            has_more = await anext(pages, None) is not None
            of_rows = f"{'the first ' if has_more else ''}{len(rows):,}"
            raise bad_rows_error(bad, len(bad), of_rows, skippable=len(bad) < len(rows))


async def _quote(asked: _Command, on_progress: OnProgress) -> BatchQuote:
    from prefect_wavespeed.batch.run import Batch
    from prefect_wavespeed.blocks.output import open_output
    from prefect_wavespeed.blocks.used_output import UsedOutput
    from prefect_wavespeed.blocks.wavespeed import load_wavespeed
    from prefect_wavespeed.job import RunInfo
    from prefect_wavespeed.storage import layout

    all_imported()
    store = await open_output(asked.out)
    await UsedOutput(store).check()
    block = await load_wavespeed(asked.wavespeed)
    run, folder = RunInfo(package_version=""), layout.run(datetime.now(UTC), "dry-run")
    async with (
        block.get_client() as client,
        Batch(client, store, run, folder, asked.options, on_progress=on_progress) as batch,
    ):
        await batch.read(asked.manifest, asked.day)
        return await batch.quote()


def _restyle(asked: _Command, console: Console) -> Summary:
    from prefect_wavespeed.flows import restyle_batch
    from prefect_wavespeed.flows.progress import announce, observer

    all_imported()
    with BatchProgress(console) as bar:
        token, announcing = observer.set(bar.update), announce.set(bar.say)
        try:
            # no retries: the user decides whether to run it again
            return asyncio.run(
                restyle_batch.once(
                    asked.manifest,
                    asked.options,
                    wavespeed=asked.wavespeed,
                    output=asked.out,
                    date=asked.day,
                )
            )
        finally:
            observer.reset(token)
            announce.reset(announcing)


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
