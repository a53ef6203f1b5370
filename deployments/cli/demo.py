"""`restyle demo`: the photographs in examples/ through the real flow, with nothing but this machine.

It starts an emulator of WaveSpeedAI and a Prefect server, each a process of its own on a free port of
loopback, and keeps everything in ./demo: the pictures, their records, and Prefect's own database.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.deployments.cli._prefect import flush, interrupted, quieten
from prefect_wavespeed.errors import ConfigurationError, RestyleError

if TYPE_CHECKING:
    from prefect_wavespeed.job import Restyled

_EXAMPLES = Path(str(files("prefect_wavespeed"))) / "examples"
_PREFECT = ".prefect"  # kept from one demo to the next: a fresh database takes Prefect ten seconds
_MARKER = ".restyle-demo"
_START_SECONDS = 120.0
# Nobody sees this server's UI, and its block types are there when the next one starts: a second less each.
_SERVER_ENV = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}
# On SQLite a Prefect server answers 503 to flow runs that start together, and its client then waits 2, 4, 8
# seconds: four at once take longer than one after the other.
_AT_ONCE = 2


@dataclass(frozen=True)
class _Row:
    """A picture of the table."""

    name: str
    restyled: Restyled
    seconds: float


def run() -> int:
    """Run the demo in ./demo and print a table of what came of it.

    Interrupted, it ends its processes and then its own at once: a flow that Prefect could not finish
    would otherwise start threads while the interpreter goes down, and hang there.

    Returns:
        The exit status: 0.

    Raises:
        RestyleError: ./demo is something else, or a server did not start.
    """
    try:
        return _run()
    except BaseException as stopped:
        status = interrupted(stopped)
        if status is None:
            raise
        print("interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)


def _run() -> int:
    pictures = sorted(_EXAMPLES.glob("*.jpg"))
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _as_interrupt)
    started, since = time.monotonic(), datetime.now(UTC)
    console.print("starting a Prefect server and an emulator of WaveSpeedAI …")
    folder = _own_folder(Path.cwd() / "demo")
    with ExitStack() as stack:
        port = _free_port()
        home = folder / _PREFECT
        _use_own_prefect(home, port)
        server = stack.enter_context(
            _process("Prefect server", ["-m", "prefect", "server", "start", "--port", str(port)], home)
        )
        emulator = stack.enter_context(
            _process(
                "emulator",
                ["-m", "prefect_wavespeed.emulator", "--port", "0", "--latency", "0.3", "0.6"],
                home,
            )
        )
        url = _emulator_url(emulator)
        os.environ["WAVESPEED_BASE_URL"] = url
        os.environ["WAVESPEED_API_KEY"] = f"demo-{secrets.token_hex(8)}"
        import prefect_wavespeed.flows  # noqa: F401  # takes seconds, and so does the server

        _wait_for(server, f"http://127.0.0.1:{port}/api/health")
        stack.callback(_flush)
        ready = time.monotonic()

        rows = asyncio.run(_restyle_all(pictures, folder))
        first = _ledger(url)
        console.print(_table(rows))
        again = asyncio.run(_restyle_all(pictures, folder))
        second = _ledger(url)
        _check(rows, again, first, second)
        done = time.monotonic()
        asyncio.run(_recorded(2 * len(pictures), since))

    console.print(
        f"billed after the first run: {first['billed']} predictions, {first['spent']:.3f} USD; "
        f"after a second run of the same: {second['billed']}, {second['spent']:.3f} USD"
    )
    console.print(
        f"{ready - started:.1f} s to start, {done - ready:.1f} s for two runs of {len(pictures)} pictures"
    )
    prefect = Path(sys.executable).with_name("prefect")
    console.print(
        "\nLook at the runs in Prefect's UI, http://127.0.0.1:4200, with\n"
        f"  PREFECT_HOME={home} {prefect} server start",
        soft_wrap=True,
    )
    return 0


async def _restyle_all(pictures: Sequence[Path], folder: Path) -> list[_Row]:
    return await map_all(lambda picture: _restyle(picture, folder), pictures, _AT_ONCE)


async def _restyle(picture: Path, folder: Path) -> _Row:
    from prefect_wavespeed.flows import restyle_image

    started = time.monotonic()
    restyled = await restyle_image(str(picture), output=str(folder))
    return _Row(picture.name, restyled, time.monotonic() - started)


def _table(rows: Sequence[_Row]) -> Table:
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


async def _recorded(runs: int, since: datetime) -> None:
    """Wait until the server has written down all runs and their tasks: it is behind by some seconds."""
    await flush()
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterStartTime

    give_up = time.monotonic() + 10
    recent = TaskRunFilter(start_time=TaskRunFilterStartTime.model_validate({"after_": since}))
    # a run that makes a picture has three tasks, one that finds it has one
    expected = runs // 2 * 3 + runs // 2
    async with get_client() as client:
        while time.monotonic() < give_up:
            tasks = await client.read_task_runs(task_run_filter=recent)
            if sum(run.state is not None and run.state.is_completed() for run in tasks) >= expected:
                return
            await asyncio.sleep(0.2)


def _flush() -> None:
    with suppress(Exception):  # it is the end, and the pictures are there
        asyncio.run(flush())


def _own_folder(folder: Path) -> Path:
    """./demo, without what an earlier demo left there but Prefect's database."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise ConfigurationError(f"{folder} is there and no earlier demo made it: move it away")
    folder.mkdir(exist_ok=True)
    (folder / _MARKER).touch()
    for old in folder.iterdir():
        if old.name in (_MARKER, _PREFECT):
            continue
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    return folder


def _use_own_prefect(home: Path, port: int) -> None:
    """Point this process and its children at the demo's Prefect, whatever the user's settings say."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "RESTYLE_", "WAVESPEED_"))]:
        del os.environ[name]
    quieten()
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"


@contextmanager
def _process(name: str, arguments: Sequence[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process of this demo, in a group of its own that is gone at the end, whatever happens."""
    home.mkdir(exist_ok=True)
    with (home / f"{name.split()[0].lower()}.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments],
            env={**os.environ, **_SERVER_ENV},
            stdout=subprocess.PIPE if name == "emulator" else log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            cwd=home,  # `python -m` puts it first on the path: not the user's folder, not this package's
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
            break
    with suppress(ProcessLookupError):  # what the leader left behind
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()


def _emulator_url(emulator: subprocess.Popen[str]) -> str:
    line = emulator.stdout.readline() if emulator.stdout else ""
    if not line.startswith("listening on "):
        raise RestyleError("the emulator did not start: see demo/.prefect/emulator.log")
    return line.removeprefix("listening on ").strip()


def _wait_for(server: subprocess.Popen[str], url: str) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and server.poll() is None:
        with suppress(OSError), _direct.open(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise RestyleError("the Prefect server did not start: see demo/.prefect/prefect.log")


def _ledger(url: str) -> dict[str, Any]:
    with _direct.open(f"{url}/emulator/ledger", timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


# a proxy in the environment has no business with loopback
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
