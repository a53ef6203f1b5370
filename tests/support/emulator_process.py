"""The emulator as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


class Emulator:
    """Starts ``python -m prefect_wavespeed.emulator`` on a free port and stops it again.

    Args:
        options: as on its command line, such as ``"--latency", "0.05", "0.1"``.

    Attributes:
        url: where it listens.
    """

    def __init__(self, *options: str) -> None:
        path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH")) if part)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefect_wavespeed.emulator", "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.stop()
            raise RuntimeError(f"the emulator did not start: {line!r}")
        self.url = line.removeprefix("listening on ").strip()

    def ledger(self) -> dict[str, Any]:
        """What it created and billed, and the number of each call."""
        ledger: dict[str, Any] = self._call("GET", "/emulator/ledger")
        return ledger

    def faults(self, rules: list[dict[str, Any]]) -> None:
        """Replace the fault script; raises ``ValueError`` when it is not valid."""
        self._call("PUT", "/emulator/faults", rules)

    def dialects(self, *names: str) -> None:
        """Let it speak these dialects alone; raises ``ValueError`` when there are no such ones."""
        self._call("PUT", "/emulator/dialects", list(names))

    def price(self, usd: float) -> None:
        """Let a picture cost this much from now on; raises ``ValueError`` when that is no price."""
        self._call("PUT", "/emulator/price", {"usd": usd})

    def reset(self) -> None:
        """Back to an empty account with its first balance and dialects, and nothing going wrong."""
        self._call("POST", "/emulator/reset")

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        self.process.terminate()
        try:
            status = self.process.wait(timeout=10)
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
        return status

    def __enter__(self) -> Emulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from None
