"""Files that people name: pipes, devices, files that grow, and file systems that do not answer."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.api.urls import trusted_authorities
from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.manifest import read
from prefect_wavespeed.batch.manifest.rows import BadRow
from prefect_wavespeed.batch.manifest.text import UnreadableError, lines
from prefect_wavespeed.errors import ConfigurationError, ManifestError, ScratchError, SourceError
from prefect_wavespeed.local_files import in_time, in_time_sync
from prefect_wavespeed.sources.files import read_file
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.scratch import scratch_folder


def _socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as unix:
        unix.bind(str(path))


def _hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/ptmx"),
    "standard input": lambda path: path.symlink_to("/dev/stdin"),
    "itself": lambda path: path.symlink_to(path),
    "no longer there": lambda path: path.symlink_to(path.with_name("gone")),
    "folder in /proc": lambda path: path.symlink_to("/proc/self/task"),
    "endless in /proc": lambda path: path.symlink_to("/proc/self/pagemap"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "hole": _hole,
}


@pytest.mark.parametrize("kind", NOT_FILES)
async def test_what_is_no_regular_file_is_refused_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    NOT_FILES[kind](path)
    started = time.monotonic()
    with pytest.raises(SourceError, match=f"image {path}"):
        await read_file(str(path))
    with pytest.raises(ManifestError, match=f"manifest {path}"):
        await rows_of(path, tmp_path / "out")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with pytest.raises(ConfigurationError, match="AWS_CA_BUNDLE"):
        trusted_authorities()
    assert time.monotonic() - started < 10


async def test_the_home_of_nobody_is_one_bad_row(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such user.*: image ~nosuchuser/a\.jpg"):
        await read_file("~nosuchuser/a.jpg")
    with pytest.raises(ManifestError, match="no such user"):
        await rows_of("~nosuchuser/a.csv", tmp_path / "out")


@pytest.mark.parametrize("packed", [False, True])
def test_a_manifest_that_grows_while_it_is_read_is_refused(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    more = b"x" * 70_000 + b"\n"
    path.write_bytes(gzip.compress(more, 0) if packed else more)
    read_lines: Iterator[str] = lines(path)
    next(read_lines)
    with path.open("ab") as file:
        file.write(gzip.compress(more, 0) if packed else more)
    with pytest.raises(UnreadableError, match="it grows while it is read"):
        list(read_lines)


async def test_a_file_system_that_does_not_answer_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("{}")
    answered, open_ = threading.Event(), os.open

    def hung(name: object, *args: int) -> int:
        if str(name) == str(path):
            answered.wait(60)
        return open_(str(name), *args)

    monkeypatch.setattr(os, "open", hung)
    monkeypatch.setattr(read, "LONGEST_WAIT", 0.2)
    with pytest.raises(ManifestError, match=r"no answer from the file system for 0\.2 s"):
        await rows_of(path, tmp_path / "out")
    reading = asyncio.ensure_future(read_file(str(path)))
    await asyncio.sleep(0.1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(reading, 5)
    with pytest.raises(TimeoutError, match="no answer"):
        in_time_sync(lambda: answered.wait(60), 0.1)
    answered.set()


def test_what_still_blocks_does_not_keep_the_process() -> None:
    code = (
        "import asyncio, time; from prefect_wavespeed.local_files import in_time\n"
        "try: asyncio.run(in_time(lambda: time.sleep(60), 0.1))\n"
        "except TimeoutError as error: print(error.strerror)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "no answer from the file system for 0.1 s\n"


async def test_results_and_errors_come_through() -> None:
    assert await in_time(lambda: 7) == in_time_sync(lambda: 7) == 7
    with pytest.raises(KeyError):
        await in_time(lambda: os.environ["NOT_SET"])


def test_a_full_disk_of_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    says = "temporary folder .*: free some space there, .*nothing is billed twice"
    with pytest.raises(ScratchError, match=f"No space left on device: {says}"), scratch_folder():
        Path("/dev/full").write_bytes(b"x")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(ScratchError, match=f"Not a directory: {says}"), scratch_folder():
        pass
    table, rows = JobTable(), (BadRow(number, "x" * 1_000) for number in range(1_000))
    table._db.execute("PRAGMA max_page_count = 20")
    with pytest.raises(ScratchError, match=f"database or disk is full: {says}"):
        table.add_bad(rows)
    table.close()


async def rows_of(manifest: Path | str, out: Path) -> list[object]:
    """All rows of a manifest."""
    pages = read.read_manifest(str(manifest), ReduxParams(), open_store(str(out)))
    return [row async for page in pages for row in page]
