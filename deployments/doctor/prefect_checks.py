"""What runs need in Prefect: its API, the `WaveSpeed` block, the concurrency limit, the work pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import prefect
from packaging.version import Version
from prefect.client.base import ServerType
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.events.clients import PrefectEventsClient
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from prefect_wavespeed.blocks.loading import BlockNotFoundError
from prefect_wavespeed.blocks.names import (
    BUCKET_OUTPUT,
    DIRECTORY_OUTPUT,
    S3_BLOCK_PREFIX,
    WORK_POOL,
    variable,
)
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.wavespeed import ApiMismatchError, WaveSpeed, load_wavespeed
from prefect_wavespeed.deployments.doctor import slots
from prefect_wavespeed.deployments.prefect_errors import describe_api_error, without_credentials
from prefect_wavespeed.deployments.setup.tiers import TIERS
from prefect_wavespeed.errors import ConfigurationError, RestyleError, redact
from prefect_wavespeed.inspect.checks import Check, error, ok, warning
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

API, BLOCK, LIMIT, POOL = "Prefect API", "WaveSpeed block", "concurrency limit", "work pool"
CAP = "nightly cap"

_SUSPICIOUS_FACTOR = 3  # by so much WaveSpeedAI's own pages differ on what a level allows
_SECONDS = 5.0
_SETUP = "run `restyle setup`"
_SET_URL = "set PREFECT_API_URL, such as http://127.0.0.1:4200/api after `prefect server start`"


@asynccontextmanager
async def _impatient_client() -> AsyncIterator[PrefectClient]:
    async with get_client(httpx_settings={"timeout": httpx.Timeout(_SECONDS)}) as client:
        yield client


async def check_api() -> Check:
    """Check that Prefect's API can be reached, and that its version fits."""
    url = get_current_settings().api.url
    try:
        async with asyncio.timeout(2 * _SECONDS if url else None), _impatient_client() as client:
            if client.server_type == ServerType.CLOUD:
                await client.read_block_type_by_slug("secret")
                return ok(API, f"Prefect Cloud, client {prefect.__version__}")
            server = await client.api_version()
    except Exception as problem:
        if not url:
            return error(API, f"PREFECT_API_URL is not set: {redact(problem)}", _SET_URL)
        return error(API, *describe_api_error(url, problem))
    if not url:
        found = f"PREFECT_API_URL is not set: every command starts a temporary server ({server}) of its own"
        return warning(API, found, f"fine to try things out; for deployments, {_SET_URL}")
    checked = _check_versions(url, server)
    if checked.status == "ok" and not await _passes_websockets(url):
        found = f"{checked.found}; websockets do not get through, so events and heartbeats are lost"
        return warning(API, found, "let the proxy before it pass websockets to /api/events/in")
    return checked


async def _passes_websockets(url: str) -> bool:
    """Whether a websocket to Prefect's API can be opened: events come by it, heartbeats among them."""
    try:
        async with asyncio.timeout(_SECONDS), PrefectEventsClient(url, reconnection_attempts=0):
            return True
    except Exception:
        return False


def _check_versions(url: str, server: str) -> Check:
    found = f"{without_credentials(url)}, server {server}, client {prefect.__version__}"
    server_version, client_version = Version(server), Version(prefect.__version__)
    if server_version.major != client_version.major:
        return error(API, found, "install the same major version of Prefect on both sides")
    if server_version.release[:2] < client_version.release[:2]:
        return warning(API, found, "upgrade the server: it should not be older than its clients")
    return ok(API, found)


async def check_block(name: str) -> tuple[Check, WaveSpeed | None]:
    """Check the `WaveSpeed` block with its key, or the environment where no block is saved.

    Returns:
        The check, and the block if it can be used.
    """
    save = f"{_SETUP} with WAVESPEED_API_KEY set: it saves the block and its key"
    try:
        block = await load_wavespeed(name)
    except ApiMismatchError as problem:
        remedy = "unset WAVESPEED_BASE_URL, or name another block with --wavespeed"
        return error(BLOCK, problem.message, remedy), None
    except BlockNotFoundError as problem:
        return error(BLOCK, problem.message, save), None
    except Exception:
        slug = f"wavespeed/{name.removeprefix('wavespeed/')}"
        found = f"{slug} cannot be loaded: a field is not valid, or its Secret block is gone"
        return error(BLOCK, found, f"`prefect block delete {slug}`, then {save}"), None
    saved, secret = block._block_document_name, block.api_key._block_document_name
    if not saved:
        found = "none is saved: WAVESPEED_API_KEY is used, which only this machine has"
        return warning(BLOCK, found, f"fine to try things out; for deployments, {_SETUP}"), block
    return ok(BLOCK, f"wavespeed/{saved} for {block.base_url}, its key in secret/{secret}"), block


async def check_limit(block: WaveSpeed, *, fix: bool = False) -> Check:
    """Check the concurrency limit by which all runs share the account's slots in flight.

    Args:
        block: names it.
        fix: free its slots if no run holds them.
    """
    most, name = block.max_in_flight, block.concurrency_limit
    if name is None:
        alone = f"each process has {most:,} slots in flight" if most else "nothing limits what is in flight"
        return warning(
            LIMIT,
            f"none in the block: {alone}",
            "run `restyle setup --tier …` (your account's level), so that runs share what the account allows",
        )
    try:
        async with _impatient_client() as client:
            limit = await client.read_global_concurrency_limit_by_name(name)
            if await slots.are_held_by_nobody(client, limit):
                found = f"{name}: {counted(limit.active_slots, 'slot')} in use by no run"
                if not fix:
                    return error(
                        LIMIT, f"{found}: later runs wait for them", "free them: `restyle doctor --fix`"
                    )
                if await slots.free(client, limit):
                    return ok(LIMIT, f"{found}: freed")
                changed = f"{found} at first, but {slots.SECONDS_APART:g} s later that had changed: not freed"
                return warning(LIMIT, changed, "once no run is running: `restyle doctor --fix` again")
    except ObjectNotFound:
        remedy = f"run `restyle setup --tier …` or `prefect gcl create {name} --limit {most or 'N'}`"
        return error(LIMIT, f"{name}, which the block names, does not exist: runs fail", remedy)
    return _check_limit_value(block, limit)


def _check_limit_value(block: WaveSpeed, limit: GlobalConcurrencyLimitResponse) -> Check:
    most, name = block.max_in_flight, limit.name
    found = f"{name}: {limit.active_slots:,} of {limit.limit:,} in use"
    if limit.limit < 1:
        return error(LIMIT, f"{name} is 0: runs fail", f"prefect gcl update {name} --limit {most or 'N'}")
    if not limit.active:
        return warning(LIMIT, f"{found}, but it is disabled", f"prefect gcl enable {name}")
    if most and most > limit.limit:
        return warning(
            LIMIT,
            f"{found}, less than the {most:,} in flight that the block allows one process",
            f"prefect gcl update {name} --limit {most}, if the account allows it; else lower max_in_flight",
        )
    if (level := _level(block)) and limit.limit > _SUSPICIOUS_FACTOR * level[1]:
        tier, in_flight = level
        return warning(
            LIMIT,
            f"{found}, but an account with the block's {block.requests_per_minute:,} submissions a minute "
            f"({tier}) has about {in_flight:,}: expect to be asked to slow down (429)",
            f"`restyle setup --tier …` with your account's level, or prefect gcl update {name} "
            f"--limit {in_flight}",
        )
    return ok(LIMIT, f"{found}; one process takes at most {min(most or limit.limit, limit.limit):,}")


def _level(block: WaveSpeed) -> tuple[str, int] | None:
    """Return the lowest level that allows the block's submissions a minute, and its slots in flight."""
    wanted = block.requests_per_minute
    levels = (
        (tier, limits.in_flight)
        for tier, limits in TIERS.items()
        if wanted and wanted <= limits.requests_per_minute
    )
    return next(levels, None)


async def check_pool() -> Check:
    """Check the deployments' work pool, and that a worker serves it."""
    async with _impatient_client() as client:
        saved = await client.read_variable_by_name(variable("work_pool"))
        name = str(saved.value) if saved else WORK_POOL
        try:
            pool = await client.read_work_pool(name)
        except ObjectNotFound:
            if saved is None:
                remedy = f"nothing to do, unless flows are to be deployed: then {_SETUP}"
                return warning(POOL, "none: nothing is set up for deployments", remedy)
            return error(POOL, f"{name} does not exist: deployed flows never run", _SETUP)
        start = f"prefect worker start --pool {name}"
        if pool.is_paused:
            return error(POOL, f"{name} is paused: deployed flows wait", f"prefect work-pool resume {name}")
        if pool.is_push_pool or pool.is_managed_pool:
            return ok(POOL, f"{name} ({pool.type}), which needs no worker")
        workers = await client.read_workers_for_work_pool(name)
    live = [worker for worker in workers if worker.status == WorkerStatus.ONLINE]
    if not live:
        heartbeats = [worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time]
        last = f"; last seen: {max(heartbeats):%Y-%m-%d %H:%M} UTC" if heartbeats else ""
        return error(POOL, f"{name} has no live worker: deployed flows wait{last}", f"start one: {start}")
    return ok(POOL, f"{name} ({pool.type}), {counted(len(live), 'live worker')}")


async def check_cap() -> Check:
    """Check that the nightly batch has a cap, if there is one."""
    async with _impatient_client() as client:
        scheduled = await client.read_variable_by_name(variable("scheduled"))
        cap = await client.read_variable_by_name(variable("max_cost_usd"))
    if cap and cap.value is not None:
        return ok(CAP, f"a batch that is deployed spends at most {cap.value} USD")
    if scheduled and scheduled.value:
        remedy = f"set RESTYLE_MAX_COST_USD, {_SETUP}, and deploy again"
        return warning(CAP, "none: a night may spend the whole balance", remedy)
    return ok(CAP, "none, and no batch is scheduled")


async def find_output() -> str | None:
    """Return the output that deployments use; None where none is saved."""
    async with _impatient_client() as client:
        if saved := await client.read_variable_by_name(variable("output")):
            return str(saved.value)
        for output in (BUCKET_OUTPUT, DIRECTORY_OUTPUT):
            slug, _, name = output.partition("/")
            try:
                await client.read_block_document_by_name(name, slug)
            except ObjectNotFound:
                continue
            return output
    return None


async def open_block(output: str) -> Store:
    """Open an output that is a block.

    Raises:
        RestyleError: the block is missing, or it cannot be used.
    """
    try:
        return await open_output(output)
    except RestyleError:
        raise
    except Exception as problem:
        kind = "credentials" if output.startswith(S3_BLOCK_PREFIX) else "folder"
        raise ConfigurationError(f"output {output}: its {kind} cannot be loaded: {redact(problem)}") from None
