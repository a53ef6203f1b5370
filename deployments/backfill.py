"""Runs of a deployment for a range of days: each begun once, and all of them within one cap.

Every day is quoted before any run is begun, and each run gets its part of what is left of the cap as its own
cap. So the cap holds however many run at once, and nobody has to wait for them. What runs that an earlier
command has begun has spent, or may spend while it is not over, is set aside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from itertools import chain
from math import inf
from typing import Any, Literal
from uuid import uuid4

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, ParameterTypeError, SignatureMismatchError
from prefect.settings import get_current_settings

from prefect_wavespeed.batch.manifest.partition import day_at, filled, is_template
from prefect_wavespeed.batch.manifest.read import safe_name
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.quoting import ROUNDING, BatchQuote
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.blocks.names import BATCH_DEPLOYMENT, DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.parameters import shown
from prefect_wavespeed.blocks.schedules import zones_of
from prefect_wavespeed.blocks.used_output import UsedOutput
from prefect_wavespeed.blocks.wavespeed import load_wavespeed
from prefect_wavespeed.deployments.begun_runs import begun_runs, is_over, set_aside, spent_by_run
from prefect_wavespeed.errors import (
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    ManifestError,
    RestyleError,
    redact,
)
from prefect_wavespeed.flows import restyle_batch
from prefect_wavespeed.inspect.days import days_of, read_summaries
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

MOST_RUNS = 100
"""Runs that are begun without `yes`."""

_LABEL = "restyle.backfill"
_NOTHING = 1e-9  # USD: a cap that pays for nothing; zero is none
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

    @property
    def days(self) -> list[date]:
        """All days of the range."""
        return [self.first + number * _ONE for number in range((self.last - self.first).days + 1)]


@dataclass(frozen=True)
class DayRun:
    """What becomes of a day.

    Attributes:
        day: which one.
        manifest: as filled in.
        status: new: quoted, and not begun yet; begun; earlier: another command has begun it; whole: every
            row has its pictures; refused: its manifest cannot be used, or the cap no longer covers it.
        key: by which Prefect knows that its run was begun.
        quote: what it would cost.
        run: of Prefect.
        reason: why it is refused.
    """

    day: date
    manifest: str
    status: Literal["new", "begun", "earlier", "whole", "refused"]
    key: str = ""
    quote: BatchQuote | None = None
    run: FlowRun | None = None
    reason: str = ""


@dataclass(frozen=True)
class Backfilled:
    """What came of a backfill.

    Attributes:
        days: what became of each day, in order.
        problem: of a dry run, why nothing would be begun.
    """

    days: list[DayRun]
    problem: RestyleError | None = None


async def begin_backfill(asked: Backfill, on_day: Callable[[date], None] = lambda _: None) -> Backfilled:
    """Begin the runs, unless all of it is refused first.

    Args:
        asked: which.
        on_day: called before a day is quoted.

    Raises:
        RestyleError: nothing was begun, and why.
    """
    if not get_current_settings().api.url:  # a temporary server has no deployments
        raise ConfigurationError(
            "there is no Prefect server with deployments: set PREFECT_API_URL, such as "
            "http://127.0.0.1:4200/api"
        )
    async with get_client() as client:
        deployed = _Deployed(await _deployment(client, asked.deployment))
        deployed.check_range(asked)
        store = await open_output(deployed.output)
        await UsedOutput(store).check()
        begun = await begun_runs(client, deployed.key, asked.days)
        ended = any(map(is_over, chain(*begun.values())))
        summaries = await read_summaries(store, asked.first) if asked.missing_only or ended else []
        spent = spent_by_run(summaries)
        plan = _without_begun(deployed.plan(asked, summaries), begun, deployed, asked)
        new = sum(day.status == "new" for day in plan)
        if new > MOST_RUNS and not asked.yes:
            raise InvalidRequestError(
                f"--from {asked.first} --to {asked.last}: would begin {new:,} runs, more than {MOST_RUNS}: "
                "give a shorter range, or --yes"
            )
        plan = await _quoted(plan, deployed, store, on_day)
        caps = Caps(asked.max_cost_usd or deployed.options.max_cost_usd, deployed.options.max_cost_usd)
        problem = caps.problem(plan, set_aside(chain(*begun.values()), spent))
        if asked.dry_run:
            return Backfilled(plan, problem)
        if problem:
            raise problem
        begun = await begun_runs(client, deployed.key, asked.days)  # another command may have begun some
        plan = _without_begun(plan, begun, deployed, asked)
        held = set_aside(chain(*begun.values()), spent)
        return Backfilled(await _begin_all(client, deployed, plan, caps, held))


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
        self.zones = zones_of(deployment)

    def check_range(self, asked: Backfill) -> None:
        """Refuse a range that has not come yet in any of its time zones."""
        today, zone = max((day_at(datetime.now(UTC), zone), zone) for zone in self.zones)
        if asked.last > today:
            raise InvalidRequestError(
                f"--to {asked.last}: this day is in the future (today is {today}, {zone}): give --to {today}"
            )

    def plan(self, asked: Backfill, summaries: Iterable[Summary]) -> list[DayRun]:
        """All days of the range; those are whole of which runs with the same parameters say so."""
        reported = days_of(summaries, self.zones, self.options.digest) if asked.missing_only else []
        whole = {(one.day, one.last.manifest) for one in reported if one.is_whole}
        manifests = [(day, safe_name(filled(self.template, day))) for day in asked.days]
        return [DayRun(*each, "whole" if each in whole else "new") for each in manifests]

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
        server = redact(str(client.api_url))
        raise ConfigurationError(
            f"deployment {name}: {server} has none of this name: give one that `prefect deployment ls` "
            "shows, whose manifest has a {date}; manifest, output and options are the deployment's"
        ) from None


def _without_begun(
    plan: list[DayRun], begun: Mapping[date, list[FlowRun]], deployed: _Deployed, asked: Backfill
) -> list[DayRun]:
    def after(one: DayRun) -> DayRun:
        runs = begun[one.day]
        if one.status != "new":
            return one
        if runs and not (asked.missing_only and is_over(runs[-1])):
            return replace(one, status="earlier", quote=None, run=runs[-1])
        return replace(one, key=deployed.key(one.day, len(runs) + 1))

    return list(map(after, plan))


async def _quoted(
    plan: list[DayRun], deployed: _Deployed, store: Store, on_day: Callable[[date], None]
) -> list[DayRun]:
    """Quote the new days, one after the other; one whose manifest cannot be used is refused."""
    if all(one.status != "new" for one in plan):
        return plan
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


@dataclass(frozen=True)
class Caps:
    """What may be spent, in USD; None: no limit.

    Attributes:
        total: by all days together.
        each: by a run, as the deployment says.
    """

    total: float | None
    each: float | None

    def problem(self, plan: list[DayRun], held: float) -> RestyleError | None:
        """Why new days cannot be paid for, if runs that were begun earlier spend what is set aside."""
        new = [one for one in plan if one.quote]
        usd, quotes = _usd(new), [one.quote for one in new if one.quote]
        days = counted(len(new), "day")
        if not quotes:
            return None
        if self.total is not None and held == inf:
            return BudgetExceededError(
                f"max_cost_usd {self.total:g}: a run that was begun earlier, and is not over, has no cap of "
                "its own, so what it may spend is not known: wait for it or cancel it, or leave the days of "
                "such runs out; nothing was begun"
            )
        if self.total is not None and usd > max(0.0, self.total - held) + ROUNDING:
            more = f", and runs begun earlier have spent or may spend {held:g} USD" if held else ""
            return BudgetExceededError(
                f"max_cost_usd {self.total:g}: {days} would cost {usd:g} USD{more}: give {usd + held:g} or "
                "more, or a shorter range; nothing was begun"
            )
        dearest = max(new, key=lambda one: one.quote.usd if one.quote else 0.0)
        if self.each is not None and _usd([dearest]) > self.each + ROUNDING:
            return BudgetExceededError(
                f"{dearest.day} would cost {_usd([dearest]):g} USD, and the deployment lets a run spend "
                f"{self.each:g} USD (max_cost_usd of its options): raise that, or leave the day out; nothing "
                "was begun"
            )
        if usd > (balance := quotes[-1].balance_usd) + ROUNDING:
            return InsufficientCreditsError(
                f"{days} would cost {usd:g} USD, and the account holds {balance:g} USD: top it up, or give a "
                "shorter range; nothing was begun"
            )
        return None

    def share(self, rest: list[DayRun], left: float | None) -> float | None:
        """The own cap of the run for the first of the days: its quote, and its part of what is over.

        That is divided by jobs, those in flight included, which may have to be paid for again.

        Args:
            rest: the days that are not begun yet.
            left: USD, at least their quotes.
        """
        if left is None:
            return None
        jobs = [one.quote.billed + one.quote.open for one in rest if one.quote]
        surplus = max(0.0, left - _usd(rest))
        usd = _usd(rest[:1]) + surplus * jobs[0] / (sum(jobs) or 1)
        return max(_NOTHING, usd if self.each is None else min(usd, self.each))


def _usd(plan: list[DayRun]) -> float:
    return sum(one.quote.usd for one in plan if one.quote)


async def _begin_all(
    client: PrefectClient, deployed: _Deployed, plan: list[DayRun], caps: Caps, held: float
) -> list[DayRun]:
    """Begin the new days, while what is left of the cap covers all of them.

    Whatever another command begins at the same time counts against it.
    """
    left = None if caps.total is None else caps.total - held
    rest = [one for one in plan if one.status == "new"]
    done: dict[date, DayRun] = {}
    while rest:
        if left is not None and _usd(rest) > max(0.0, left) + ROUNDING:
            reason = (
                "another command has begun runs meanwhile, and what is left of the cap "
                f"({max(0.0, left):g} USD) does not cover the days that are left ({_usd(rest):g} USD)"
            )
            done |= {one.day: replace(one, status="refused", quote=None, reason=reason) for one in rest}
            break
        one = await _begin(client, deployed, rest[0], caps.share(rest, left))
        if left is not None and one.run:
            left -= set_aside([one.run], {})
        done[one.day] = one
        rest = rest[1:]
    return [done.get(one.day, one) for one in plan]


async def _begin(
    client: PrefectClient, deployed: _Deployed, one: DayRun, max_cost_usd: float | None
) -> DayRun:
    given: dict[str, Any] = {"date": one.day.isoformat()}
    if max_cost_usd is not None:
        options = deployed.deployment.parameters.get("options") or {}
        given["options"] = {**options, "max_cost_usd": max_cost_usd}
    mine = uuid4().hex  # Prefect answers with the run that has the key, whoever began it
    run = await client.create_flow_run_from_deployment(
        deployed.deployment.id, parameters=given, idempotency_key=one.key, labels={_LABEL: mine}
    )
    if run.labels.get(_LABEL) != mine:
        return replace(one, status="earlier", quote=None, run=run)
    return replace(one, status="begun", run=run)
