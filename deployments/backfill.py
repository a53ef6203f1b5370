"""Runs of a deployment for a range of days: each begun once, and all of them within one cap.

Every day is quoted before any run is begun, and each run gets its part of what is left of the cap as its own
cap. So the cap holds however many run at once, and nobody has to wait for them. What runs that an earlier
command has begun may spend is set aside.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from math import floor
from typing import Any, Literal

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, ParameterTypeError, SignatureMismatchError

from prefect_wavespeed.batch.manifest.partition import day_at, filled, is_template
from prefect_wavespeed.batch.manifest.read import safe_name
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.quoting import BatchQuote
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.blocks.names import BATCH_DEPLOYMENT, DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.parameters import shown
from prefect_wavespeed.blocks.schedules import zone_of
from prefect_wavespeed.blocks.used_output import UsedOutput
from prefect_wavespeed.blocks.wavespeed import load_wavespeed
from prefect_wavespeed.errors import (
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    ManifestError,
)
from prefect_wavespeed.flows import restyle_batch
from prefect_wavespeed.inspect.days import days as reported_days
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

MOST_RUNS = 100
"""Runs that are begun without `yes`."""

_KEYS_AT_ONCE = 100  # Prefect answers with 200 runs at most
_ROUNDING = 1e-6  # USD; far less than any picture costs
_ONE = timedelta(days=1)


@dataclass(frozen=True)
class Backfill:
    """What is to be begun.

    Attributes:
        deployment: name of a deployment of the flow `restyle_batch`, with or without the flow's name.
        first, last: the days.
        missing_only: leave out days that are whole, and begin anew those whose runs have ended without that.
        max_cost_usd: cap on all days together; by default the deployment's own.
        yes: more than `MOST_RUNS` runs may be begun.
        dry_run: only quote.
    """

    deployment: str
    first: date
    last: date
    missing_only: bool = False
    max_cost_usd: float | None = None
    yes: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class DayRun:
    """What becomes of a day.

    Attributes:
        day: which one.
        status: new: quoted, and not begun yet; begun; earlier: an earlier command has begun it; whole: every
            row has its pictures; refused: its manifest cannot be used.
        manifest: as filled in.
        key: by which Prefect knows that its run was begun.
        quote: what it would cost.
        run: of Prefect.
        reason: why it is refused.
    """

    day: date
    status: Literal["new", "begun", "earlier", "whole", "refused"]
    manifest: str
    key: str = ""
    quote: BatchQuote | None = None
    run: FlowRun | None = None
    reason: str = ""


async def begin_backfill(asked: Backfill, on_day: Callable[[date], None] = lambda _: None) -> list[DayRun]:
    """Begin the runs, unless all of it is refused first.

    Args:
        asked: which.
        on_day: called before a day is quoted.

    Returns:
        What became of each day, in order.

    Raises:
        RestyleError: nothing was begun, and why.
    """
    async with get_client() as client:
        deployed = _Deployed(await _deployment(client, asked.deployment))
        deployed.check_range(asked)
        store = await open_output(deployed.output)
        await UsedOutput(store).check()
        plan = await _without_whole(deployed.days(asked), asked, store)
        plan, set_aside = await _without_begun(client, deployed, plan, asked)
        new = sum(day.status == "new" for day in plan)
        if new > MOST_RUNS and not asked.yes:
            raise InvalidRequestError(
                f"--from {asked.first} --to {asked.last}: would begin {new:,} runs, more than {MOST_RUNS}: "
                "give a shorter range, or --yes"
            )
        plan = await _quoted(plan, deployed, store, on_day)
        cap = asked.max_cost_usd or deployed.options.max_cost_usd
        _check_costs(plan, cap, set_aside)
        if asked.dry_run:
            return plan
        left = None if cap is None else max(0.0, cap - set_aside)
        total = _usd(plan)
        return [await _begin(client, deployed, day, _share(day, left, total)) for day in plan]


class _Deployed:
    """A deployment of the flow, and what its runs are given."""

    def __init__(self, deployment: DeploymentResponse) -> None:
        self.deployment = deployment
        given = deployment.parameters
        template = given.get("manifest")
        if not isinstance(template, str) or not is_template(template):
            name = safe_name(template) if isinstance(template, str) else "(none)"
            raise ManifestError(
                f"manifest {name} of deployment {deployment.name}: it has no {{date}}, so all days would be "
                "the same: deploy one such as s3://bucket/in/dt={date}/"
            )
        try:
            typed = restyle_batch.validate_parameters(given)
        except (ParameterTypeError, SignatureMismatchError):
            raise ConfigurationError(
                f"deployment {deployment.name}: its parameters are not those of restyle_batch: give another"
            ) from None
        self.template = template
        self.output = typed.get("output", DEFAULT_OUTPUT)
        self.wavespeed = typed.get("wavespeed", WAVESPEED_BLOCK)
        self.options: BatchOptions = typed.get("options", BatchOptions())

    def check_range(self, asked: Backfill) -> None:
        """Refuse a range that is turned round, or that has not come yet."""
        zone = zone_of(self.deployment)
        today = day_at(datetime.now(UTC), zone)
        if asked.last < asked.first:
            raise InvalidRequestError(
                f"--from {asked.first} --to {asked.last}: the range is turned round: swap the two days"
            )
        if asked.last > today:
            raise InvalidRequestError(
                f"--to {asked.last}: this day is in the future (today is {today}, {zone}): give --to {today}"
            )

    def days(self, asked: Backfill) -> list[DayRun]:
        """All days of the range."""
        range_ = (asked.first + number * _ONE for number in range((asked.last - asked.first).days + 1))
        return [DayRun(day, "new", safe_name(filled(self.template, day))) for day in range_]

    def key(self, day: date, attempt: int) -> str:
        """The idempotency key of a run: the same for the same template, output and options but the cap."""
        options = self.options.model_dump(mode="json", exclude={"max_cost_usd"})
        content = [self.template, shown(self.output), shown(self.wavespeed), options]
        digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"restyle backfill {digest} {day} {attempt}"


async def _deployment(client: PrefectClient, name: str) -> DeploymentResponse:
    """Find a deployment; the flow's name may be left out."""
    try:
        return await client.read_deployment_by_name(name if "/" in name else f"{BATCH_DEPLOYMENT}/{name}")
    except (ObjectNotFound, ValueError):
        raise ConfigurationError(
            f"deployment {name}: there is none of this name: give one that `prefect deployment ls` shows, "
            "whose manifest has a {date}; manifest, output and options are the deployment's"
        ) from None


async def _without_whole(plan: list[DayRun], asked: Backfill, store: Store) -> list[DayRun]:
    if not asked.missing_only:
        return plan
    reported = await reported_days(store, asked.first)
    whole = {(one.day, one.last.manifest) for one in reported if one.is_whole}
    return [replace(one, status="whole") if (one.day, one.manifest) in whole else one for one in plan]


async def _without_begun(
    client: PrefectClient, deployed: _Deployed, plan: list[DayRun], asked: Backfill
) -> tuple[list[DayRun], float]:
    """Find the runs that earlier commands have begun, and what all of them together may spend, in USD."""
    begun: dict[date, FlowRun] = {}
    keys: dict[date, str] = {}
    set_aside, attempt, days = 0.0, 1, [one.day for one in plan]
    while days:
        keys |= {day: deployed.key(day, attempt) for day in days}
        runs = await _runs(client, [keys[day] for day in days])
        begun |= {day: runs[keys[day]] for day in days if keys[day] in runs}
        set_aside += sum(map(_cap_of, runs.values()))
        days, attempt = [day for day in days if keys[day] in runs], attempt + 1

    def after(one: DayRun) -> DayRun:
        run = begun.get(one.day)
        is_over = run is None or (asked.missing_only and run.state is not None and run.state.is_final())
        status = one.status if is_over or one.status == "whole" else "earlier"
        return replace(one, status=status, key=keys[one.day], run=None if status == "new" else run)

    return list(map(after, plan)), set_aside


async def _runs(client: PrefectClient, keys: list[str]) -> dict[str, FlowRun]:
    found: dict[str, FlowRun] = {}
    for first in range(0, len(keys), _KEYS_AT_ONCE):
        some = FlowRunFilterIdempotencyKey(any_=keys[first : first + _KEYS_AT_ONCE])
        runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=some))
        found |= {run.idempotency_key: run for run in runs if run.idempotency_key}
    return found


def _cap_of(run: FlowRun) -> float:
    return float((run.parameters.get("options") or {}).get("max_cost_usd") or 0)


async def _quoted(
    plan: list[DayRun], deployed: _Deployed, store: Store, on_day: Callable[[date], None]
) -> list[DayRun]:
    """Quote the new days, one after the other; one whose manifest cannot be used is refused."""
    block = await load_wavespeed(deployed.wavespeed)
    async with block.get_client() as api:
        prices, quoted = PriceCache(api), []
        for one in plan:
            if one.status == "new":
                on_day(one.day)
                folder = layout.run(one.day, "backfill")  # nothing is written
                run = RunInfo(package_version="")
                try:
                    async with Batch(api, store, run, folder, deployed.options, prices=prices) as batch:
                        await batch.read(deployed.template, one.day)
                        one = replace(one, quote=await batch.quote())
                except ManifestError as error:
                    one = replace(one, status="refused", reason=error.message)
            quoted.append(one)
    if quoted and all(one.status == "refused" for one in quoted):
        raise ManifestError(f"no day has a manifest that can be used: {quoted[0].reason}")
    return quoted


def _usd(plan: list[DayRun]) -> float:
    return sum(one.quote.usd for one in plan if one.quote)


def _check_costs(plan: list[DayRun], cap: float | None, set_aside: float) -> None:
    """Refuse what cannot be paid for, before anything begins."""
    usd, new = _usd(plan), [one.quote for one in plan if one.quote]
    days = counted(len(new), "day")
    if cap is not None and usd > max(0.0, cap - set_aside) + _ROUNDING:
        held = f", and runs begun earlier may spend {set_aside:g} USD" if set_aside else ""
        raise BudgetExceededError(
            f"max_cost_usd {cap:g}: {days} would cost {usd:g} USD{held}: give {usd + set_aside:g} or more, "
            "or a shorter range; nothing was begun"
        )
    if new and usd > (balance := new[-1].balance_usd) + _ROUNDING:
        raise InsufficientCreditsError(
            f"{days} would cost {usd:g} USD, and the account holds {balance:g} USD: top it up, or give a "
            "shorter range; nothing was begun"
        )


def _share(one: DayRun, left: float | None, usd: float) -> float | None:
    """A run's own cap: its part of what is left, by what it would cost. All parts together are not more.

    A day that costs nothing gets a cap that pays for nothing; zero is none.
    """
    if left is None or one.quote is None:
        return None
    part = left * one.quote.usd / usd if usd else 0.0
    return max(_ROUNDING, floor(part / _ROUNDING + 1e-3) * _ROUNDING)


async def _begin(
    client: PrefectClient, deployed: _Deployed, one: DayRun, max_cost_usd: float | None
) -> DayRun:
    if one.status != "new":
        return one
    given: dict[str, Any] = {"date": one.day.isoformat()}
    if max_cost_usd is not None:
        options = deployed.deployment.parameters.get("options") or {}
        given["options"] = {**options, "max_cost_usd": round(max_cost_usd, 6)}
    run = await client.create_flow_run_from_deployment(
        deployed.deployment.id, parameters=given, idempotency_key=one.key
    )
    return replace(one, status="begun", run=run)
