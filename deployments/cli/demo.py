"""`restyle demo`: the example photographs through the real flow, with nothing but this machine.

It starts an emulator of WaveSpeedAI and a Prefect server, each as a process on a free port of loopback, and
keeps everything in ./demo: the pictures, their records, and Prefect's database.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.deployments.cli.shared.processes import (
    fetch_json,
    free_port,
    python_process,
    wait_until_healthy,
)
from prefect_wavespeed.deployments.prefect_runtime import flush, interrupt_status, quieten
from prefect_wavespeed.errors import ConfigurationError, RestyleError

if TYPE_CHECKING:
    from subprocess import Popen

    from rich.table import Table

    from prefect_wavespeed.job import Restyled

_EXAMPLES = Path(str(resources.files("prefect_wavespeed"))) / "examples"
_PREFECT = ".prefect"  # kept from one demo to the next: Prefect needs ten seconds to create a database
_MARKER = ".restyle-demo"
# Nobody opens this server's UI, and its block types are registered by the next one: a second less each.
_SERVER_ENV = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}
# On SQLite a Prefect server answers 503 to flow runs that start together, and its client then waits 2, 4, 8
# seconds: four at once take longer than one after the other.
_CONCURRENCY = 2


@dataclass(frozen=True)
class _Row:
    name: str
    restyled: Restyled
    seconds: float


def demo() -> int:
    """Run the demo and print a table of the pictures.

    An interrupted demo ends its child processes and exits at once: a flow that Prefect could not finish would
    start threads while the interpreter shuts down, and hang.

    Raises:
        RestyleError: ./demo belongs to something else, or a server did not start.
    """
    try:
        return _run()
    except BaseException as error:
        status = interrupt_status(error)
        if status is None:
            raise
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)


def _run() -> int:
    from rich.console import Console

    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _raise_interrupt)
    started, since = time.monotonic(), datetime.now(UTC)
    console.print("starting a Prefect server and an emulator of WaveSpeedAI …")
    folder = _prepare_folder(Path.cwd() / "demo")
    pictures = sorted(_EXAMPLES.resolve().glob("*.jpg"))
    with ExitStack() as stack:
        emulator_url = _start_servers(stack, folder / _PREFECT)
        stack.callback(_flush)
        ready = time.monotonic()

        rows = asyncio.run(_restyle_all(pictures, folder))
        first = fetch_json(f"{emulator_url}/emulator/ledger")
        console.print(_table(rows))
        again = asyncio.run(_restyle_all(pictures, folder))
        second = fetch_json(f"{emulator_url}/emulator/ledger")
        _check(rows, again, first, second)
        done = time.monotonic()
        asyncio.run(_wait_until_recorded(2 * len(pictures), since))

    console.print(
        f"billed after the first run: {first['billed']} predictions, {first['spent']:.3f} USD; "
        f"after running the same again: {second['billed']}, {second['spent']:.3f} USD"
    )
    console.print(
        f"{ready - started:.1f} s to start, {done - ready:.1f} s for two runs of {len(pictures)} pictures"
    )
    prefect = Path(sys.executable).with_name("prefect")
    console.print(
        "\nTo see the runs in Prefect's UI at http://127.0.0.1:4200, run\n"
        f"  PREFECT_HOME={folder / _PREFECT} {prefect} server start",
        soft_wrap=True,
    )
    return 0


# --- its own servers ---


def _start_servers(stack: ExitStack, home: Path) -> str:
    """Start both, set up this process for them, and return the emulator's URL."""
    port = free_port()
    _use_own_prefect(home, port)
    home.mkdir(exist_ok=True)

    def start(log: str, *arguments: str, capture_stdout: bool = False) -> Popen[str]:
        env = {**os.environ, **_SERVER_ENV}
        return stack.enter_context(
            python_process(arguments, log=home / log, cwd=home, env=env, capture_stdout=capture_stdout)
        )

    server = start("prefect.log", "-m", "prefect", "server", "start", "--port", str(port))
    emulator = start(
        "emulator.log",
        *("-m", "prefect_wavespeed.emulator", "--port", "0", "--latency", "0.3", "0.6"),
        capture_stdout=True,
    )
    url = _emulator_url(emulator, home / "emulator.log")
    os.environ["WAVESPEED_BASE_URL"] = url
    os.environ["WAVESPEED_API_KEY"] = f"demo-{secrets.token_hex(8)}"
    from prefect_wavespeed.flows import restyle_image  # noqa: F401 - takes seconds, like the server's start

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


def _raise_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# --- the runs ---


def _prepare_folder(folder: Path) -> Path:
    """Create ./demo, or empty it but for Prefect's database if an earlier demo made it."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise ConfigurationError(f"{folder} exists and was not made by a demo: move it away")
    folder.mkdir(exist_ok=True)
    (folder / _MARKER).touch()
    for old in folder.iterdir():
        if old.name in (_MARKER, _PREFECT):
            continue
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    return folder


async def _restyle_all(pictures: Sequence[Path], folder: Path) -> list[_Row]:
    return await map_all(lambda picture: _restyle(picture, folder), pictures, _CONCURRENCY)


async def _restyle(picture: Path, folder: Path) -> _Row:
    from prefect_wavespeed.flows import restyle_image

    started = time.monotonic()
    restyled = await restyle_image(str(picture), output=str(folder))
    return _Row(picture.name, restyled, time.monotonic() - started)


def _check(
    rows: Sequence[_Row], again: Sequence[_Row], first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Fail rather than claim what did not happen."""
    same = all(a.restyled.outputs == b.restyled.outputs for a, b in zip(rows, again, strict=True))
    if not (same and first["billed"] == second["billed"] == len(rows)):
        raise RestyleError(
            f"the emulator billed {first['billed']} predictions, then {second['billed']}, "
            f"for {len(rows)} jobs: please report this"
        )


def _table(rows: Sequence[_Row]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("picture")
    table.add_column("seed", justify="right")
    table.add_column("cost", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("file", overflow="fold")
    for row in rows:
        for output in row.restyled.outputs:
            file = os.path.relpath(output.uri) if output.uri else "dropped"
            cost = "?" if row.restyled.cost_usd is None else f"{row.restyled.cost_usd:.3f} USD"
            table.add_row(row.name, str(row.restyled.seed), cost, f"{row.seconds:.1f}", file)
    return table


async def _wait_until_recorded(runs: int, since: datetime) -> None:
    """Wait until the server has recorded all runs and their tasks: it lags by some seconds."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterStartTime

    await flush()
    deadline = time.monotonic() + 10
    recent = TaskRunFilter(start_time=TaskRunFilterStartTime.model_validate({"after_": since}))
    # a run that makes a picture has three tasks, one that finds it stored has one
    expected = runs // 2 * 3 + runs // 2
    async with get_client() as client:
        while time.monotonic() < deadline:
            tasks = await client.read_task_runs(task_run_filter=recent)
            if sum(run.state is not None and run.state.is_completed() for run in tasks) >= expected:
                return
            await asyncio.sleep(0.2)


def _flush() -> None:
    with suppress(Exception):  # the pictures are stored; only Prefect's last events are at stake
        asyncio.run(flush())
