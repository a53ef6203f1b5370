"""Everything about a job, for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.deployments.cli.views.jobs import COLOURS
from prefect_wavespeed.job import OutputWarning
from prefect_wavespeed.urls import readable
from prefect_wavespeed.words import counted


def print_story(story: dict[str, Any]) -> None:
    """Print two columns: on a terminal in its width and colours, otherwise as plain lines."""
    console = Console()
    rows = [(name, value) for name, value in _rows(story) if value]
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
        colour = COLOURS[story["status"]] if name == "status" else ""
        table.add_row(name if name != last else "", Text(value, colour))
        last = name
    console.print(table)


def _rows(story: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "job", story["job_key"]
    yield "status", f"{story['status']}{': ' if story['reason'] else ''}{story['reason']}"
    yield "source", readable(story["source"] or "")
    yield "request", _request(story)
    yield "prediction", _prediction(story["prediction"])
    for candidate in story["candidates"]:
        yield "may be", candidate
    if story["cost"]:
        usd, basis = story["cost"]["usd"], story["cost"]["basis"]
        yield "cost", "unknown" if usd is None else f"{usd:.4f} USD, {basis}"
    yield "run", _run(story["run"])
    for number, attempt in enumerate(story["attempts"], 1):
        yield "attempts", f"{number}. claimed {_time(attempt['claimed_at'])}{_attempt(attempt)}"
    for name, moment in story["times"].items():
        if moment:
            yield "times", f"{name} {_time(moment)}"
    if not story["times"]:
        yield "times", f"{'failed' if story['status'] == 'failed' else 'last change'} {_time(story['at'])}"
    for file in story["files"]:
        yield "files", _file(file)
    if not story["files"]:
        yield "files", story["where"]
    for warning in story["warnings"]:
        yield "warnings", OutputWarning.model_validate(warning).line
    yield "next", story["next"]


def _request(story: dict[str, Any]) -> str:
    request = story["request"]
    if request is None:
        return ""
    parts = [
        request["size"],
        f"{request['num_inference_steps']} steps",
        f"guidance {request['guidance_scale']:g}",
        counted(request["num_images"], "image"),
        request["output_format"],
        f"seed {request['seed']}",
        f"variant {story['variant']}" if story["variant"] else "",
    ]
    return ", ".join(part for part in parts if part)


def _prediction(prediction: dict[str, Any] | None) -> str:
    if prediction is None:
        return ""
    code, ms = prediction.get("code"), prediction.get("inference_ms")
    parts = [
        prediction["id"],
        prediction["status"],
        f"code {code}" if code else "",
        f"{ms / 1000:.1f} s" if ms else "",
    ]
    return ", ".join(part for part in parts if part)


def _run(run: dict[str, Any] | None) -> str:
    """The run's name first, as Prefect shows it, then its id, by which it is found."""
    if run is None:
        return ""
    name = " ".join(part for field in ("flow", "flow_run_name") if (part := run.get(field)))
    run_id, prefect, package = (run.get(f) for f in ("flow_run_id", "prefect_version", "package_version"))
    parts = [
        name,
        f"flow run {run_id}" if run_id else "without a flow",
        f"deployment {run['deployment']}" if run.get("deployment") else "",
        f"Prefect {prefect}" if prefect else "",
        f"package {package}" if package else "",
    ]
    return ", ".join(part for part in parts if part)


def _attempt(attempt: dict[str, Any]) -> str:
    run, prediction, error = (attempt[name] for name in ("flow_run_id", "prediction_id", "error"))
    line = f", prediction {prediction}" if prediction else ", no prediction recorded"
    line += f", flow run {run}" if run else ""
    return f"{line}: {error}" if error else line


def _file(file: dict[str, Any]) -> str:
    if file["bytes"] is None:
        return f"{file['uri']}  MISSING"
    size = f"  {file['bytes'] / 1000:,.1f} kB"
    pixels = f", {file['width']}×{file['height']}" if file["width"] else ""
    return f"{file['uri']}{size}{pixels}{', flagged as unsafe for work' if file['nsfw'] else ''}"


def _time(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
