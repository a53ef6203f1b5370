"""`restyle doctor`: check what a run needs; with --live, find out what the API does.

The checks spend nothing and leave nothing behind. The other bills a few pictures.
"""

from __future__ import annotations

import json
import sys
from math import isfinite
from typing import TYPE_CHECKING, Annotated

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.options import AsJson, Flag, WaveSpeedBlock
from prefect_wavespeed.deployments.prefect_runtime import quiet_run
from prefect_wavespeed.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from prefect_wavespeed.inspect.checks import Check
    from prefect_wavespeed.inspect.live.report import LiveReport

_SPEND = 0.10


def doctor(
    *,
    out: str | None = None,
    live: Annotated[bool, Flag] = False,
    spend: float | None = None,
    resume: Annotated[bool, Flag] = False,
    fix: Annotated[bool, Flag] = False,
    wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK,
    as_json: AsJson = False,
) -> int:
    """Run the checks and print their results.

    Args:
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks). By
            default the output that deployments use; with --live it has to be given.
        live: Find out how the API behaves where its documentation and records disagree, instead of checking:
            a few pictures are billed. They are ordinary jobs in the output, so the same command again bills
            nothing.
        spend: With --live: what these pictures may cost in all, in USD (0.10 by default).
        resume: With --live, an hour later: add what the billing says. Bills nothing.
        fix: Free slots of the concurrency limit that no run holds, as after a restart of Prefect's server:
            all of them, if twice, 5 seconds apart, no flow run is running and as many slots are in use. Only
            for a limit that flow runs alone use: other programs that hold its slots are not seen.
    """
    if live:
        if fix:
            raise InvalidRequestError("--fix does not go with --live: run `restyle doctor --fix` first")
        return _live(out, spend, resume, wavespeed, as_json)
    if resume or spend is not None:
        raise InvalidRequestError(f"{'--resume' if resume else '--spend'} needs --live")
    with quiet_run():
        checks = _run_checks(out, wavespeed, fix)
    healthy = all(check.status != "error" for check in checks)
    if as_json:
        print(json.dumps({"ok": healthy, "checks": [check.model_dump() for check in checks]}))
    else:
        from prefect_wavespeed.deployments.cli.views.checks import print_checks

        print_checks(checks)
    return 0 if healthy else 1


def _live(out: str | None, spend: float | None, resume: bool, wavespeed: str, as_json: bool) -> int:
    if out is None:
        raise InvalidRequestError("--live needs --out: the output where its pictures and its report are kept")
    if resume and spend is not None:
        raise InvalidRequestError("--resume spends nothing: leave out --spend")
    limit = _SPEND if spend is None else spend
    if not (isfinite(limit) and limit > 0):
        raise ConfigurationError(f"--spend {limit:g}: give an amount above 0, in USD")
    with quiet_run("the same command continues where it stopped; nothing is billed twice"):
        report, notes = _find_out(out, wavespeed, limit, resume)
    if as_json:
        print(report.model_dump_json(by_alias=True))
        return 0
    from prefect_wavespeed.deployments.cli.views.findings import print_findings

    print_findings(report)
    for note in notes:
        print(note)
    return 0


def _find_out(out: str, wavespeed: str, limit: float, resume: bool) -> tuple[LiveReport, list[str]]:
    import asyncio

    from prefect_wavespeed.deployments.doctor.live import examine_live, resume_live

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if resume:
        return asyncio.run(resume_live(out, wavespeed))
    return asyncio.run(examine_live(out, wavespeed, limit, say))


def _run_checks(out: str | None, wavespeed: str, fix: bool) -> list[Check]:
    import asyncio
    from contextlib import nullcontext

    from prefect_wavespeed.deployments.cli.shared.console import Console
    from prefect_wavespeed.deployments.doctor.examine import examine

    stderr = Console(stderr=True)
    with stderr.status("checking") if stderr.is_terminal else nullcontext():
        return asyncio.run(examine(out, wavespeed, fix=fix))
