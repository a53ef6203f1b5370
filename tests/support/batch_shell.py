"""The command `restyle batch` run as a process, against a Prefect server and an emulator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from tests.support.batches import write_manifest
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended
from tests.support.records import report_rows

KEY = "key-that-nobody-may-see"
# Short enough not to wait for long after a kill, long enough for a busy machine.
TIMES = {
    "RESTYLE_LEASE_SECONDS": "12",
    "RESTYLE_SUBMIT_TIMEOUT_SECONDS": "4",
    "RESTYLE_RECONCILE_SECONDS": "1.5",
}


@dataclass
class Shell:
    """Runs `restyle batch` with a key and the emulator's URL."""

    prefect: PrefectServer
    emulator: Emulator
    folder: Path

    @property
    def out(self) -> str:
        """Where the pictures go."""
        return str(self.folder / "out")

    def manifest(self, rows: list[dict[str, Any]], name: str = "m.jsonl") -> str:
        """Write a manifest."""
        return write_manifest(self.folder / name, rows)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Command:
        """Start the command; into `out` and with small pictures, if the arguments do not say otherwise."""
        usual = {"--out": self.out, "--size": "256*256"}
        more = [word for name in usual if name not in arguments for word in (name, usual[name])]
        return self.prefect.start("batch", *arguments, *more, env={**self.env, **(env or {})})

    def batch(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run the command to its end."""
        return self.start(*arguments, env=env).ended()

    @property
    def env(self) -> dict[str, str]:
        """What the command finds in its environment, on top of the server's."""
        return {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": self.emulator.url, **TIMES}

    def report(self, summary: Summary) -> list[ReportRow]:
        """The rows of a run's report."""
        return report_rows((Path(summary.report) / "report.jsonl").read_bytes())

    def stored(self) -> int:
        """How many jobs are done."""
        return len(list((self.folder / "out" / "images").glob("*/metadata.json")))


# Without a terminal, a batch says what it does before it can count, and now and then how far it is.
PROGRESS = re.compile(
    r"^(created directory /.*|reading the manifest|checking [\d,]+ images?|looking up what is stored"
    r"|writing the report"
    r"|[\d,]+ of [\d,]+ rows(, [\d,]+/min)?, [\d,.]+ USD(, [\d,]+ failed)?)\n",
    re.MULTILINE,
)


def without_progress(ended: Ended) -> str:
    """What is on stderr, without the lines that say how far the batch is."""
    return PROGRESS.sub("", ended.stderr)


def one_line(ended: Ended, status: int = 1, begins: str = "error: ") -> str:
    """What a command that fails says: one line on stderr, and nothing else."""
    line = without_progress(ended)
    assert (ended.status, ended.stdout) == (status, ""), ended
    assert line.startswith(begins), ended
    assert line.count("\n") == 1
    assert KEY not in line
    return line
