"""`restyle demo`: a small batch through the real flow, two rows of which fail, with nothing but this machine.

It starts an emulator of WaveSpeedAI and a Prefect server, each as a process on a free port of loopback, and
keeps everything in ./demo: the pictures, their records, the reports, and Prefect's database.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_wavespeed.deployments.cli.shared.processes import (
    fetch_json,
    free_port,
    python_process,
    wait_until_healthy,
)
from prefect_wavespeed.deployments.prefect_runtime import flush, quieten
from prefect_wavespeed.errors import ConfigurationError, RestyleError

if TYPE_CHECKING:
    from subprocess import Popen

    from rich.table import Table

    from prefect_wavespeed.batch.report.rows import Summary

_EXAMPLES = Path(str(resources.files("prefect_wavespeed"))) / "examples"
_PREFECT = ".prefect"  # kept from one demo to the next: Prefect needs ten seconds to create a database
_MARKER = ".restyle-demo"
# Nobody opens this server's UI, and its block types are registered by the next one: a second less each.
_SERVER_ENV = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}
_REFUSED_SEED = 13
"""The emulator refuses the picture with this seed, as moderation would."""
_FAULTS = [
    {
        "on": "prediction",
        "fault": "failed",
        "code": 1200,
        "message": "content moderation",
        "match": {"seed": _REFUSED_SEED},
        "times": None,
    }
]


def demo() -> int:
    """Run the demo, print a table of its rows, and say where its gallery is.

    Raises:
        RestyleError: ./demo belongs to something else, or a server did not start.
    """
    from prefect_wavespeed.deployments.cli.shared.console import Console

    console = Console()
    started, since = time.monotonic(), datetime.now(UTC)
    console.print("starting a Prefect server and an emulator of WaveSpeedAI …")
    folder = _prepare_folder(Path.cwd() / "demo")
    manifest = _write_manifest(folder / "catalogue.jsonl")
    with ExitStack() as stack:
        emulator_url = _start_servers(stack, folder / _PREFECT)
        stack.callback(_flush)
        ready = time.monotonic()

        console.print("restyling four photographs; a fifth is missing, and a sixth will be refused …")
        summary = asyncio.run(_restyle_all(manifest, folder))
        first = fetch_json(f"{emulator_url}/emulator/ledger")
        console.print(_table(summary))
        again = asyncio.run(_restyle_all(manifest, folder))
        second = fetch_json(f"{emulator_url}/emulator/ledger")
        _check(summary, again, first, second)
        done = time.monotonic()
        asyncio.run(_wait_until_recorded(2, since))

    console.print(
        f"billed after the first run: {first['billed']} predictions, {first['spent']:.3f} USD; "
        f"after running the same again: {second['billed']}, {second['spent']:.3f} USD"
    )
    console.print(f"{ready - started:.1f} s to start, {done - ready:.1f} s for both runs")
    prefect = Path(sys.executable).with_name("prefect")
    console.print(
        "\nTo see the runs in Prefect's UI at http://127.0.0.1:4200, run\n"
        f"  PREFECT_HOME={folder / _PREFECT} {prefect} server start\n"
        f"\nThe gallery, for your browser:\n  {summary.report}gallery.html",
        soft_wrap=True,
    )
    return 0


# --- its own servers ---


def _start_servers(stack: ExitStack, home: Path) -> str:
    """Start both, set up this process for them, and return the emulator's URL."""
    port = free_port()
    _use_own_prefect(home, port)
    home.mkdir(exist_ok=True)
    faults = home / "faults.json"
    faults.write_text(json.dumps(_FAULTS))

    def start(log: str, *arguments: str, capture_stdout: bool = False) -> Popen[str]:
        env = {**os.environ, **_SERVER_ENV}
        return stack.enter_context(
            python_process(arguments, log=home / log, cwd=home, env=env, capture_stdout=capture_stdout)
        )

    server = start("prefect.log", "-m", "prefect", "server", "start", "--port", str(port))
    emulator = start(
        "emulator.log",
        *("-m", "prefect_wavespeed.emulator", "--port", "0", "--latency", "0.3", "0.6"),
        *("--faults", str(faults)),
        capture_stdout=True,
    )
    url = _emulator_url(emulator, home / "emulator.log")
    os.environ["WAVESPEED_BASE_URL"] = url
    os.environ["WAVESPEED_API_KEY"] = f"demo-{secrets.token_hex(8)}"
    from prefect_wavespeed.flows import restyle_batch  # noqa: F401 - takes seconds, like the server's start

    wait_until_healthy(server, f"http://127.0.0.1:{port}/api/health", home / "prefect.log")
    return url


def _use_own_prefect(home: Path, port: int) -> None:
    """Point this process and its children at the demo's Prefect, whatever the user's settings say."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "RESTYLE_", "WAVESPEED_"))]:
        del os.environ[name]
    quieten()
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"


def _emulator_url(emulator: Popen[str], log: Path) -> str:
    line = emulator.stdout.readline() if emulator.stdout else ""
    if not line.startswith("listening on "):
        raise RestyleError(f"the emulator did not start: see {log}")
    return line.removeprefix("listening on ").strip()


# --- the runs ---


def _prepare_folder(folder: Path) -> Path:
    """Create ./demo, or empty it but for Prefect's database if an earlier demo made it."""
    from prefect_wavespeed.storage import layout

    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise ConfigurationError(f"{folder} exists and was not made by a demo: move it away")
    folder.mkdir(exist_ok=True)
    (folder / _MARKER).touch()
    for old in folder.iterdir():
        if old.name in (_MARKER, _PREFECT, layout.MARKER):  # runs of the database have used this output
            continue
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    return folder


def _write_manifest(path: Path) -> Path:
    """Write a manifest of the examples, with a row whose file is missing and one that is refused."""
    pictures = sorted(_EXAMPLES.resolve().glob("*.jpg"))
    rows: list[dict[str, object]] = [{"id": picture.stem, "image": str(picture)} for picture in pictures]
    rows.append({"id": "missing", "image": str(path.with_name("missing.jpg"))})
    rows.append({"id": "refused", "image": str(pictures[0]), "seed": _REFUSED_SEED})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


async def _restyle_all(manifest: Path, folder: Path) -> Summary:
    from prefect_wavespeed.batch.options import BatchOptions
    from prefect_wavespeed.flows import restyle_batch

    options = BatchOptions(on_bad_row="skip", max_failed=1)
    return await restyle_batch.once(str(manifest), options, output=str(folder))


def _check(summary: Summary, again: Summary, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Fail rather than claim what did not happen."""
    stored = summary.counts.get("stored")
    if not (first["billed"] == second["billed"] == stored == again.counts.get("done")):
        raise RestyleError(
            f"the emulator billed {first['billed']} predictions, then {second['billed']}, "
            f"for {stored} jobs: please report this"
        )


def _table(summary: Summary) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("row")
    table.add_column("status")
    table.add_column("cost", justify="right")
    table.add_column("picture below demo/, or what went wrong", overflow="fold")
    for row in summary.rows():
        cost = "" if row.cost_usd is None else f"{row.cost_usd:.3f} USD"
        pictures = "\n".join(os.path.relpath(uri, summary.output) for uri in row.outputs)
        table.add_row(row.id, row.status, cost, pictures or row.error_message)
    return table


async def _wait_until_recorded(runs: int, since: datetime) -> None:
    """Wait until the server has recorded the tasks of all runs: it lags by some seconds."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterStartTime

    await flush()
    deadline = time.monotonic() + 10
    recent = TaskRunFilter(start_time=TaskRunFilterStartTime.model_validate({"after_": since}))
    async with get_client() as client:
        while time.monotonic() < deadline:
            tasks = await client.read_task_runs(task_run_filter=recent)
            completed = [run for run in tasks if run.state is not None and run.state.is_completed()]
            if len({run.flow_run_id for run in completed}) >= runs and len(completed) == len(tasks):
                return
            await asyncio.sleep(0.2)


def _flush() -> None:
    with suppress(Exception):  # the pictures are stored; only Prefect's last events are at stake
        asyncio.run(flush())
