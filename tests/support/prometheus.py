"""A real Prometheus on loopback, Debian's: set up as docs/metrics.md says, and queried like Grafana does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.doc_pages import ROOT, blocks
from tests.support.processes import end, wait_until
from tests.support.receivers import free_port

DASHBOARD = json.loads((ROOT / "deployments" / "grafana-dashboard.json").read_text())
WINDOW = "1h"
"""The time that the dashboard shows here; as long a time is the interval of its rates."""
_NAME = re.compile(r"{{(\w+)}}")


def documented(key: str) -> str:
    """The YAML of docs/metrics.md that begins with this key."""
    (found,) = (
        block.text for block in blocks(ROOT / "docs" / "metrics.md") if block.text.startswith(f"{key}:")
    )
    return found


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes.

    Attributes:
        http: for requests to its API.
    """

    http: httpx.Client

    def get(self, path: str, **query: str) -> Any:
        """What its API answers."""
        answer = self.http.get(f"/api/v1/{path}", params=query).json()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    def ask(self, expression: str, then: float | None = None) -> list[tuple[dict[str, str], float]]:
        """What an expression comes to, now or at a time: labels and value of each series."""
        at = {} if then is None else {"time": f"{then:.3f}"}
        found = self.get("query", query=expression, **at)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def alerts(self) -> list[dict[str, Any]]:
        """Its alerting rules, and how they stand."""
        return [rule for group in self.get("rules", type="alert")["groups"] for rule in group["rules"]]

    def shows(self, panel: dict[str, Any], then: float) -> dict[str, float]:
        """What a panel of the dashboard shows at a time, by legend."""
        shown: dict[str, float] = {}
        for target in panel["targets"]:
            expression = re.sub(r"\$__(rate_interval|range)\b", WINDOW, target["expr"])
            for labels, value in self.ask(expression, then):
                legend = target["legendFormat"]
                for name in _NAME.findall(legend):
                    legend = legend.replace(f"{{{{{name}}}}}", labels[name])
                assert legend not in shown, "two series with the same legend"
                shown[legend] = value
        return shown


@contextmanager
def prometheus(folder: Path, address: str) -> Iterator[Prometheus]:
    """A server with the documentation's scrape configuration and alerts, which scrapes this address often."""
    scraping = documented("scrape_configs")
    for old, new in (("receiver.example.com:8080", address), ("15s", "1s")):
        assert old in scraping
        scraping = scraping.replace(old, new)
    (folder / "alerts.yml").write_text(documented("groups"))
    config = folder / "prometheus.yml"
    config.write_text(f"global: {{evaluation_interval: 1s}}\nrule_files: [alerts.yml]\n{scraping}\n")
    port, log = free_port(), folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM", "prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"Prometheus did not start: {log.read_text()}")
        with suppress(httpx.TransportError):
            return http.get("/-/ready").status_code == 200
        return False

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
        try:
            wait_until(ready)
            yield Prometheus(http)
        finally:
            end(process)
