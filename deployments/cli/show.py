"""`restyle show`: the whole story of a job, for people or as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_wavespeed.api.models import Prediction
from prefect_wavespeed.deployments.cli._looking import Looking, open_known
from prefect_wavespeed.deployments.cli._prefect import quiet_run
from prefect_wavespeed.deployments.cli.list_jobs import COLOURS, as_dict, line, tabbed
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.inspect.advice import next_step
from prefect_wavespeed.inspect.jobs import JobView, files, find
from prefect_wavespeed.ledger.records import Attempt
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

_SHOWN = 20  # jobs that may be meant
_API_SECONDS = 15.0  # for what WaveSpeedAI says of an open job: good to know, and no more


def run(what: str, out: str, *, as_json: bool) -> int:
    """Find the job and tell its story.

    Args:
        what: its key or the first 8 characters of it, a prediction's id, or its source.
        out: the output.
        as_json: print one JSON object on stdout.

    Returns:
        The exit status: 0.

    Raises:
        BaseException: what went wrong, to be told by the caller; ConfigurationError where no job or more
            than one is meant.
    """
    with quiet_run():
        told = asyncio.run(_look(what.strip(), out))
    if isinstance(told, list):
        raise _several(what, told, as_json=as_json)
    if as_json:
        print(json.dumps(told))
    else:
        _show(told, Console(highlight=False))
    return 0


async def _look(what: str, out: str) -> dict[str, Any] | list[JobView]:
    """The story of the one job that is meant; or all that may be meant."""
    if not what:
        raise ConfigurationError("name a job by its key, a prediction's id or its source")
    store = await open_known(out)
    with Looking() as looking:
        found = await find(store, what, _SHOWN, looking.on_page)
    if not found:
        raise ConfigurationError(
            f"{what}: no such job in {store.uri}: give a job's key or its first 8 characters or more, a "
            "prediction's id, or the source as it was given; `restyle list` tells them all"
        )
    if len(found) > 1:
        return found
    facts = found[0]
    there = await files(store, facts) if facts.status == "done" else []
    prediction = await _prediction(facts)
    return _story(store, facts, there, prediction) | {"next": next_step(facts, out, prediction)}


def _several(what: str, found: list[JobView], *, as_json: bool) -> ConfigurationError:
    """Show which jobs may be meant, and ask for more."""
    more = len(found) > _SHOWN
    if not as_json:
        console = Console(highlight=False)
        for facts in found[:_SHOWN]:
            if console.is_terminal:
                console.print(line(facts, console.width), soft_wrap=True)
            else:
                print(tabbed(facts))
    keys = ", ".join(facts.key[:16] for facts in found[:_SHOWN])
    count = f"more than {_SHOWN}" if more else str(len(found))
    return ConfigurationError(
        f"{what} means {count} jobs: name one by its key: {keys}{', …' if more else ''}"
    )


async def _prediction(facts: JobView) -> Prediction | None:
    """How WaveSpeedAI tells an open job's newest prediction; None where it cannot be asked."""
    record = facts.records.get(facts.open_job.latest)
    if facts.status != "open" or record is None:
        return None
    from prefect_wavespeed.blocks.wavespeed import load_wavespeed

    with suppress(Exception):  # it is an extra: whatever is wrong here, `restyle doctor` tells
        async with asyncio.timeout(_API_SECONDS), (await load_wavespeed()).get_client() as client:
            if client.base_url == record.base_url:
                return await client.result(record.prediction_id)
    return None


# The story


def _story(store: Store, facts: JobView, there: list[Entry], prediction: Prediction | None) -> dict[str, Any]:
    """All that is known of a job."""
    told = facts.metadata or facts.letter
    request = told.request if told else facts.claim.request if facts.claim else None
    return {
        **as_dict(facts),
        "where": store.uri_of(facts.path),
        "variant": told.variant if told else facts.claim.job.variant if facts.claim else None,
        "request": request.model_dump(mode="json") if request else None,
        "attempts": [attempt.model_dump(mode="json") for attempt in _attempts(facts)],
        "prediction": _state(facts, prediction),
        "cost": facts.metadata.cost.model_dump(mode="json") if facts.metadata else None,
        "times": facts.metadata.times.model_dump(mode="json") if facts.metadata else {},
        "run": facts.metadata.run.model_dump(mode="json") if facts.metadata else _run(facts),
        "files": list(_files(store, facts, there)),
    }


def _attempts(facts: JobView) -> list[Attempt]:
    """Those that the side-car or the dead letter tells of, and those that are open."""
    earlier = facts.metadata or facts.letter
    attempts = list(earlier.attempts) if earlier else []
    for number, claimed_at in sorted(facts.open_job.claimed.items()):
        claim, record = facts.claims.get(number), facts.records.get(number)
        attempts.append(
            Attempt(
                claimed_at=claimed_at,
                flow_run_id=claim.flow_run_id if claim else None,
                prediction_id=record.prediction_id if record else None,
            )
        )
    return attempts


def _state(facts: JobView, prediction: Prediction | None) -> dict[str, Any] | None:
    if facts.metadata:
        told = facts.metadata.prediction
        return {"id": told.id, "status": "completed", "inference_ms": told.inference_ms}
    if facts.letter and facts.status == "failed":
        error = facts.letter.error
        return (
            {"id": error.prediction_id, "status": error.status, "code": error.code}
            if error.prediction_id
            else None
        )
    record = facts.records.get(facts.open_job.latest)
    if record is None:
        return None
    return {"id": record.prediction_id, "status": prediction.status if prediction else None}


def _run(facts: JobView) -> dict[str, Any] | None:
    """The run that gave it up, or that holds it."""
    run_id = facts.letter.flow_run_id if facts.letter else facts.claim.flow_run_id if facts.claim else None
    return {"flow_run_id": run_id} if run_id else None


def _files(store: Store, facts: JobView, there: list[Entry]) -> Iterator[dict[str, Any]]:
    """What there is, and what there should be."""
    sizes = {entry.path: entry.size for entry in there}
    outputs = facts.metadata.outputs if facts.metadata else []
    facts_of = {output.key: output for output in outputs if output.key}
    for path in dict.fromkeys([*facts_of, *sizes]):
        output = facts_of.get(path)
        yield {
            "uri": store.uri_of(path),
            "bytes": sizes.get(path),
            "width": output.width if output else None,
            "height": output.height if output else None,
            "nsfw": output.nsfw if output else False,
        }


# For people


def _show(told: dict[str, Any], console: Console) -> None:
    """Two columns; on a terminal in its width and colours."""
    rows = [(name, value) for name, value in _rows(told) if value]
    if not console.is_terminal:
        last = ""
        for name, value in rows:
            print(f"{name if name != last else '':10}  {value}".rstrip())
            last = name
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    last = ""
    for name, value in rows:
        colour = COLOURS[told["status"]] if name == "status" else ""
        table.add_row(name if name != last else "", Text(value, colour))
        last = name
    console.print(table)


def _rows(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "job", told["job_key"]
    yield "status", f"{told['status']}{': ' if told['reason'] else ''}{told['reason']}"
    yield "source", told["source"] or ""
    yield "request", _request(told)
    yield "prediction", _prediction_words(told["prediction"])
    if told["cost"]:
        usd, basis = told["cost"]["usd"], told["cost"]["basis"]
        yield "cost", "not known" if usd is None else f"{usd:.4f} USD, {basis}"
    yield "run", _run_words(told["run"])
    for number, attempt in enumerate(told["attempts"], 1):
        yield "attempts", f"{number}. claimed {_when(attempt['claimed_at'])}{_attempt(attempt)}"
    for name, moment in told["times"].items():
        if moment:
            yield "times", f"{name} {_when(moment)}"
    if not told["times"]:
        yield "times", f"{'given up' if told['status'] == 'failed' else 'last heard of'} {_when(told['at'])}"
    for file in told["files"]:
        yield "files", _file(file)
    if not told["files"]:
        yield "files", told["where"]
    yield "next", told["next"]


def _request(told: dict[str, Any]) -> str:
    asked = told["request"]
    if asked is None:
        return ""
    parts = [
        asked["size"],
        f"{asked['num_inference_steps']} steps",
        f"guidance {asked['guidance_scale']:g}",
        counted(asked["num_images"], "image"),
        asked["output_format"],
        f"seed {asked['seed']}",
        f"variant {told['variant']}" if told["variant"] else "",
    ]
    return ", ".join(part for part in parts if part)


def _prediction_words(told: dict[str, Any] | None) -> str:
    if told is None:
        return ""
    code, ms = told.get("code"), told.get("inference_ms")
    parts = [told["id"], told["status"], f"code {code}" if code else "", f"{ms / 1000:.1f} s" if ms else ""]
    return ", ".join(part for part in parts if part)


def _run_words(told: dict[str, Any] | None) -> str:
    """The run's name first, as Prefect shows it, and its id, by which it is found."""
    if told is None:
        return ""
    named = " ".join(part for name in ("flow", "flow_run_name") if (part := told.get(name)))
    run_id, prefect, package = (told.get(f) for f in ("flow_run_id", "prefect_version", "package_version"))
    parts = [
        named,
        f"flow run {run_id}" if run_id else "without a flow",
        f"deployment {told['deployment']}" if told.get("deployment") else "",
        f"Prefect {prefect}" if prefect else "",
        f"package {package}" if package else "",
    ]
    return ", ".join(part for part in parts if part)


def _attempt(attempt: dict[str, Any]) -> str:
    run, prediction, error = (attempt[name] for name in ("flow_run_id", "prediction_id", "error"))
    told = f", prediction {prediction}" if prediction else ", no prediction recorded"
    told += f", flow run {run}" if run else ""
    return f"{told}: {error}" if error else told


def _file(file: dict[str, Any]) -> str:
    if file["bytes"] is None:
        return f"{file['uri']}  MISSING"
    size = f"  {file['bytes'] / 1000:,.1f} kB"
    pixels = f", {file['width']}×{file['height']}" if file["width"] else ""
    return f"{file['uri']}{size}{pixels}{', flagged as unsafe for work' if file['nsfw'] else ''}"


def _when(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
