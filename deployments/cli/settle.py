"""`restyle settle`: every open job of an output brought forward, told in a line a group or as JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_wavespeed.deployments.cli._prefect import quiet_run
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.settings import get_settings

if TYPE_CHECKING:
    from prefect_wavespeed.steps.settle import Settled
    from prefect_wavespeed.storage.store import Store

_SHOWN = 20  # problems; `--json` tells more


def run(out: str, wavespeed: str, *, as_json: bool) -> int:
    """Settle the output and print what was done.

    Returns:
        The exit status: 0, also where jobs stay open or have failed.

    Raises:
        BaseException: what went wrong, to be told by the caller.
    """
    with quiet_run("what is stored is stored; run the same command again for the rest"):
        settled = asyncio.run(_settle(out, wavespeed))
    print(settled.model_dump_json() if as_json else _lines(settled))
    return 0


async def _settle(out: str, wavespeed: str) -> Settled:
    get_settings()
    if store := await known_store(out):
        await store.ensure_conditional_put()
    from prefect_wavespeed.flows import settle

    # whoever sits at the terminal decides whether to go again
    return await settle.with_options(retries=0)(wavespeed=wavespeed, output=out)


async def known_store(out: str) -> Store | None:
    """The store of an output that has been written to; None for a block: only Prefect knows what it names.

    To find out what cannot work before Prefect is started, which takes seconds.

    Raises:
        ConfigurationError: there is no such directory, or it is no name of an output.
    """
    from prefect_wavespeed.storage.open_store import is_block, open_store

    if is_block(out):
        return None
    if "://" not in out and not await asyncio.to_thread(_is_directory, out):
        raise ConfigurationError(f"--out {out}: no such directory: name the one that the pictures went to")
    return open_store(out)


def _is_directory(path: str) -> bool:
    return Path(path).expanduser().is_dir()


def _lines(settled: Settled) -> str:
    groups = [f"{count:7}  {what}" for what, count in settled.groups() if count]
    shown = [f"{p.standing}: {p.source or p.job_key}: {p.message}" for p in settled.problems[:_SHOWN]]
    if more := len(settled.problems) + settled.problems_left_out - len(shown):
        shown.append(f"… and {more} more: --json tells them")
    return "\n".join([*groups, *shown]) or "nothing is open"
