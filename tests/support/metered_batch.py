"""A batch whose process waits at its end, so that what it has counted can be read.

    python -m tests.support.metered_batch MANIFEST OUTPUT

prints the run's summary as one line of JSON, and ends when its standard input closes.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from prefect_wavespeed.batch.report.rows import Summary
from tests.support.batch_shell import KEY, TIMES
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import end
from tests.support.receivers import free_port

ROWS = 24
PRICE = 0.025
FAULTS: list[dict[str, Any]] = [
    {"on": "submit", "fault": "refused", "status": 429, "retry_after": 0.3, "times": 3},
    {"on": "submit", "fault": "drop_after", "match": {"image": "/5.jpg"}},
    {"on": "submit", "fault": "refused", "status": 400, "match": {"image": "/11.jpg"}},
    {"on": "prediction", "fault": "failed", "code": 5000, "match": {"image": "/7.jpg"}},
    {"on": "prediction", "fault": "failed", "code": 1200, "match": {"image": "/9.jpg"}},
    {"on": "prediction", "fault": "black", "match": {"image": "/13.jpg"}},
]
STORED = ROWS - 2


class Metered:
    """A batch under way whose counters can be read.

    Args:
        figures: where its process keeps them, as those of a process worker do; None lets Prefect's own client
            serve them, as in a container.

    Attributes:
        address: where they are served, if they are.
    """

    def __init__(
        self,
        prefect: PrefectServer,
        emulator: Emulator,
        manifest: str,
        out: Path,
        figures: Path | None = None,
    ) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        credentials = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": emulator.url, **TIMES}
        if figures:
            counting = {"PROMETHEUS_MULTIPROC_DIR": str(figures)}
        else:
            counting = {"PREFECT_CLIENT_METRICS_ENABLED": "true", "PREFECT_CLIENT_METRICS_PORT": str(port)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.metered_batch", manifest, str(out)],
            env={**prefect.env, **credentials, **counting},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def scrape(self) -> dict[str, float]:
        """The figures now, as ``restyle_jobs_total{outcome="stored"}`` and the like; empty at first."""
        with suppress(httpx.TransportError):
            text = httpx.get(f"http://{self.address}/metrics", trust_env=False).text
            return {
                _name(sample.name, sample.labels): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name.startswith("restyle_")
            }
        return {}

    def summary(self) -> Summary:
        """What the run came to, once it has ended."""
        assert self.process.stdout is not None
        return Summary.model_validate_json(self.process.stdout.readline())

    def __enter__(self) -> Metered:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process, patience=0)


def _name(metric: str, labels: dict[str, str]) -> str:
    return metric + "".join(f'{{{name}="{value}"}}' for name, value in labels.items())


def main(manifest: str, output: str) -> None:
    """Carry the batch out, and wait."""
    from prefect_wavespeed.api.models import ReduxParams
    from prefect_wavespeed.batch.options import BatchOptions
    from prefect_wavespeed.flows import restyle_batch

    options = BatchOptions(params=ReduxParams(size="256*256"), max_failed=1.0)
    summary = restyle_batch(manifest, options, output=output)
    print(summary.model_dump_json(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
