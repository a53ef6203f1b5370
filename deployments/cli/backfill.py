"""`restyle backfill`: runs of a deployment for a range of days, each begun once, within one cap."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from prefect_wavespeed.blocks.names import BATCH_DEPLOYMENT
from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.deployments.cli.shared.errors import as_restyle_error
from prefect_wavespeed.deployments.cli.shared.flags import SWITCH
from prefect_wavespeed.deployments.cli.shared.options import AsJson
from prefect_wavespeed.deployments.cli.shared.since import parse_day
from prefect_wavespeed.deployments.prefect_runtime import quiet_run
from prefect_wavespeed.errors import InvalidRequestError
from prefect_wavespeed.words import counted

if TYPE_CHECKING:
    from prefect_wavespeed.deployments.backfill import Backfill, Backfilled, DayRun

_AHEAD = timedelta(hours=14)  # of UTC, where a day begins first


def backfill(
    deployment: str = BATCH_DEPLOYMENT,
    /,
    *,
    first: Annotated[str, Parameter(name="--from", help="First day, as YYYY-MM-DD.")],
    last: Annotated[str, Parameter(name="--to", help="Last day, as YYYY-MM-DD.")],
    missing_only: Annotated[bool, SWITCH] = False,
    max_cost_usd: float | None = None,
    yes: Annotated[bool, SWITCH] = False,
    dry_run: Annotated[bool, SWITCH] = False,
    as_json: AsJson = False,
) -> int:
    """Begin the runs and print what became of each day; the exit status is 1 if one was refused.

    Args:
        deployment: A deployment of the flow restyle_batch, whose manifest has a {date}.
        missing_only: Leave out days that are whole, and begin those again whose runs have ended without that.
        max_cost_usd: Spending cap in USD on all days together; by default the deployment's own, which each
            run keeps.
        yes: Begin even more than 100 runs.
        dry_run: Report what each day would cost, and begin nothing.
    """
    import asyncio

    from_, to = parse_day("--from", first), parse_day("--to", last)
    if max_cost_usd is not None and not 0 < max_cost_usd < float("inf"):
        raise InvalidRequestError(f"--max-cost-usd {max_cost_usd:g}: must be greater than 0")
    if to < from_:
        raise InvalidRequestError(f"--from {from_} --to {to}: the range is turned round: swap the two days")
    if to > (datetime.now(UTC) + _AHEAD).date():
        today = datetime.now().astimezone().date()
        raise InvalidRequestError(
            f"--to {to}: this day is in the future (today is {today}): give --to {today}"
        )
    with quiet_run("run the same command again: no day is begun twice"):
        from prefect_wavespeed.deployments.backfill import Backfill

        asked = Backfill(deployment, from_, to, missing_only, max_cost_usd, yes, dry_run)
        result = asyncio.run(_begin(asked))
    days = result.days
    problem = as_restyle_error(result.problem).message if result.problem else None
    if as_json:
        print(json.dumps({"days": list(map(_as_dict, days)), "not_enough": problem}))
    else:
        for day in days:
            print(f"{day.day}  {_said(day)}")
        print(_total(days, dry_run=dry_run))
        if problem:
            print(f"not enough: {problem}")
    return 1 if any(day.status == "refused" for day in days) else 0


async def _begin(asked: Backfill) -> Backfilled:
    from prefect_wavespeed.deployments.backfill import begin_backfill

    console = Console(stderr=True)
    if not console.is_terminal:
        return await begin_backfill(asked)
    with console.status("looking up runs") as status:
        return await begin_backfill(asked, lambda day: status.update(f"looking up what is stored of {day}"))


def _said(day: DayRun) -> str:
    run = f"run {day.run.name} ({day.run.id})" if day.run else ""
    cost = f"{day.quote.billed:,} would be billed, {day.quote.usd:g} USD" if day.quote else ""
    match day.status:
        case "whole":
            return "whole"
        case "refused":
            return f"not begun: {day.reason}"
        case "earlier":
            return f"begun earlier: {run}: {day.run.state_name or '' if day.run else ''}"
        case "begun":
            return f"begun: {run}: {cost}"
    return cost


def _total(days: list[DayRun], *, dry_run: bool) -> str:
    quotes = [day.quote for day in days if day.quote]
    begun = f"{len(quotes):,} of {counted(len(days), 'day')}"
    usd = f"{sum(quote.usd for quote in quotes):g} USD"
    if dry_run:
        return f"{begun} would be begun, quoted at {usd}; nothing was begun"
    return f"{begun} begun, quoted at {usd}"


def _as_dict(day: DayRun) -> dict[str, Any]:
    return {
        "day": day.day.isoformat(),
        "status": day.status,
        "manifest": day.manifest,
        "billed": day.quote.billed if day.quote else None,
        "usd": day.quote.usd if day.quote else None,
        "flow_run_id": str(day.run.id) if day.run else None,
        "flow_run_name": day.run.name if day.run else None,
        "reason": day.reason or None,
    }
