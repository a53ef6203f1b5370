"""The open client and store that tasks work with, shared by all runs of an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any

from prefect.blocks.core import Block
from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.blocks.used_output import UsedOutput
from prefect_wavespeed.blocks.wavespeed import load_wavespeed
from prefect_wavespeed.job import Job, NsfwRules, Restyled
from prefect_wavespeed.steps.attempts import Polled, Submitted
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.tasks._options import safe_errors
from prefect_wavespeed.tasks._shared import shared
from prefect_wavespeed.tasks.allowance import Allowance
from prefect_wavespeed.tasks.context import current_batch, record_task_run, run_info
from prefect_wavespeed.tasks.events import emit_stored, emit_submitted, emitting_failure
from prefect_wavespeed.tasks.webhook_listener import WebhookListener


class Runtime:
    """The engine's steps on an open client and store, by the run that is current, with Prefect's events.

    Attributes:
        client: the API.
        store: where outputs go.
        steps: the engine's steps on both, without events.
        slot: a slot in flight, as the block allows.
    """

    def __init__(
        self, client: WaveSpeedClient, store: Store, allowance: Allowance, listener: WebhookListener
    ) -> None:
        self.client = client
        self.store = store
        self.steps = StepSet(
            client, store, admit=self._admit, on_thumbnail=_keep_thumbnail, inbox=listener.inbox
        )
        self.slot = allowance.slot
        self._allowance = allowance
        self._used_output = UsedOutput(store)
        self._listener = listener

    async def submit(self, job: Job, **options: Any) -> Submitted:
        """``StepSet.submit`` with the same options."""
        with emitting_failure(job, self.store.uri):
            batch = current_batch.get()
            webhook_url = await self._listener.webhook_url(wait=batch is None or batch.options.wait)
            submitted = await self.steps.submit(job, run=run_info(), webhook_url=webhook_url, **options)
        if submitted.restyled:  # the run that stored it may have been killed before it emitted this
            emit_stored(job, self.store.uri, submitted.restyled)
        else:
            emit_submitted(job, self.store.uri, submitted)
        return submitted

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """``StepSet.poll``."""
        record_task_run()
        with emitting_failure(job, self.store.uri):
            return await self.steps.poll(job, submitted)

    async def download(self, job: Job, submitted: Submitted, *, nsfw: NsfwRules) -> Restyled:
        """``StepSet.download``."""
        with emitting_failure(job, self.store.uri):
            restyled = await self.steps.download(job, submitted, run=run_info(), nsfw=nsfw)
        emit_stored(job, self.store.uri, restyled)
        return restyled

    async def _admit(self, job: Job, attempt: int, usd: float | None) -> None:
        await self._used_output.use()
        await self._allowance.pace()
        if batch := current_batch.get():
            await batch.admit(job, attempt)


@asynccontextmanager
async def open_runtime(wavespeed: WaveSpeedParam, output: OutputParam) -> AsyncIterator[Runtime]:
    """Open a block and an output, or join the runs that use them. Errors that leave it are safe to store.

    Blocks are loaded for the first user, so one that is saved anew is used as soon as all earlier runs of
    this block and output have ended.

    Args:
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: a storage block, the name of a saved one, ``s3://bucket/prefix`` or a directory.

    Raises:
        ConfigurationError: one of them does not exist or cannot be used.
    """
    key = (Runtime, _identity(wavespeed), _identity(output))
    with safe_errors():
        async with shared(key, partial(_open, wavespeed, output)) as runtime:
            yield runtime


@asynccontextmanager
async def _open(wavespeed: WaveSpeedParam, output: OutputParam) -> AsyncIterator[Runtime]:
    store = await open_output(output)
    await UsedOutput(store).check()
    block = await load_wavespeed(wavespeed)
    content = _identity(block)  # not its name: two outputs share the slots of a block, unless it was changed
    async with (
        shared((Allowance, content), partial(Allowance.open, block)) as allowance,
        shared((WebhookListener, content), partial(WebhookListener.open, block)) as listener,
        block.get_client() as client,
    ):
        yield Runtime(client, store, allowance, listener)


def _identity(block: Block | str) -> tuple[str, str]:
    """What tells a block from others: its type and a digest of its content, secrets included; or its name."""
    if isinstance(block, str):
        return "", block
    return block.get_block_type_slug(), sha256(repr(_content(block)).encode()).hexdigest()


def _content(value: Any) -> Any:
    """All that a block holds, with secrets; not `model_dump_json`, which works out its schema each time."""
    if isinstance(value, BaseModel):
        return {name: _content(item) for name, item in value}
    return value.get_secret_value() if isinstance(value, Secret | SecretStr | SecretBytes) else value


def _keep_thumbnail(job_key: str, number: int, jpeg: bytes) -> None:
    if batch := current_batch.get():
        batch.table.keep_thumbnail(job_key, number, jpeg)
