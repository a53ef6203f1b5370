"""The dashboard and the alerts of docs/metrics.md, with a real Prometheus that scrapes what counts."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.job import WarningCode
from prefect_wavespeed.ledger.records import Metadata
from tests.support.batches import pictures, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.metered_batch import FAULTS, PRICE, ROWS, STORED, Metered
from tests.support.notifications import aws
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.prometheus import DASHBOARD, Prometheus, documented, prometheus
from tests.support.receivers import receiving

QUANTILES = "Seconds a job"
# Each alert: what an hour of its series may be like, a sample a minute; when it fires; and its labels then.
ALERTS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "RestyleReceiverIsDown": ("up{job='restyle'}", "1x56 0x3", "1x50 0x9", {"job": "restyle"}),
    "RestyleJobsFail": ("restyle_jobs_total{outcome='failed'}", "0x50 10x9", "0x50 12x9", {}),
    "RestyleSpendsTooFast": ("restyle_spent_usd_total", "0+0.3x60", "0+0.4x60", {}),
    "RestyleReceiverCannotReachPrefect": ("restyle_receiver_prefect_up", "1x56 0x3", "1x50 0x9", {}),
}


@dataclass(frozen=True)
class Scraped:
    """What Prometheus has seen of a receiver, and of a batch beside it from before it began.

    Attributes:
        prometheus: the server.
        receiver: its address.
        before: what the panels showed before anything happened.
        after: and when all was over.
        summary: what the batch came to.
        out: where its pictures are.
    """

    prometheus: Prometheus
    receiver: str
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]
    summary: Summary
    out: Path


def panels(prometheus: Prometheus, after: float = 0) -> dict[str, dict[str, float]]:
    """What each panel shows, by title and legend, when the first scrape after a time is done.

    Just then: increase() guesses how it goes on since.
    """
    scraped = f"timestamp(restyle_receiver_prefect_up) > {after}"
    wait_until(lambda: prometheus.ask(scraped))
    ((_, then),) = prometheus.ask(scraped)
    return {panel["title"]: prometheus.shows(panel, then) for panel in DASHBOARD["panels"]}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "1.5", "3") as running:
        yield running


@pytest.fixture(scope="module")
def scraped(
    prefect: PrefectServer, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    (figures := folder / "figures").mkdir()
    emulator.faults(FAULTS)
    manifest, out = write_manifest(folder / "m.jsonl", pictures(ROWS)), folder / "out"
    with receiving(prefect, env={"PROMETHEUS_MULTIPROC_DIR": str(figures)}) as receiver:
        address = receiver.url.removeprefix("http://")
        with prometheus(folder, address) as server:
            wait_until(lambda: server.ask("count_over_time(restyle_receiver_prefect_up[1h]) > 1"))
            before = panels(server)
            with Metered(prefect, emulator, manifest, out, figures) as batch:
                assert receiver.notify(aws("in/a.jpg")).status_code == 200
                assert receiver.notify(aws("in/a.jpg", event="ObjectRemoved:Delete")).status_code == 200
                assert receiver.notify(aws("in/b.jpg"), token="another").status_code == 401
                summary = batch.summary()
            after = panels(server, time.time())
            yield Scraped(server, address, before, after, summary, out)


def test_before_the_first_run_every_panel_shows_zero_and_none_is_empty(scraped: Scraped) -> None:
    before = scraped.before
    assert before.pop(QUANTILES) == {}, "not NaN"
    assert before.pop("Receiver: Prefect accepts events") == {scraped.receiver: 1}
    assert all(before.values()), before
    assert {value for shown in before.values() for value in shown.values()} == {0}


def test_the_dashboard_shows_what_the_batch_and_the_receiver_have_counted(scraped: Scraped) -> None:
    assert scraped.summary.counts == {"stored": STORED, "failed": 2}
    shown = scraped.after
    quantiles = shown.pop(QUANTILES)
    assert shown.pop("In flight") == {"in flight": 0}
    assert shown.pop("Predictions in flight") == {scraped.receiver: 0}
    assert shown.pop("Receiver: Prefect accepts events") == {scraped.receiver: 1}
    assert shown == {
        "Stored": {"stored": pytest.approx(STORED)},
        "Failed for good": {"failed": pytest.approx(1)},
        "Spent": {"USD": pytest.approx(ROWS * PRICE)},
        "429s": {"429": pytest.approx(3)},
        "Adopted": {"adopted": pytest.approx(1)},
        "Jobs a minute": a_minute({"stored": STORED, "found": 0, "failed": 1}),
        "USD an hour": {"USD an hour": pytest.approx(ROWS * PRICE)},
        "Submissions a minute": a_minute(
            {"accepted": ROWS - 1, "refused": 1, "rate_limited": 3, "unsent": 0, "unanswered": 1}
        ),
        "Failures a minute": a_minute(
            {
                "HTTP 400": 1,
                "HTTP 429": 3,
                "HTTP 500": 0,
                "HTTP 503": 0,
                "no answer": 1,
                "further attempts": 1,
                "adoptions": 1,
            }
        ),
        "Warnings a minute": a_minute({**dict.fromkeys(get_args(WarningCode), 0), "blank": 1}),
        "Receiver: events a minute": a_minute(
            {"restyle.object.created": 1, "wavespeed.prediction.ended": 0, "ignored": 1}
        ),
        "Receiver: requests and messages a minute": a_minute(
            {f"{path} {status}": 0 for path in ("/s3", "/wavespeed") for status in (200, 400, 401, 503)}
            | {f"SQS {outcome}": 0 for outcome in ("done", "left", "not_understood")}
            | {"/s3 200": 2, "/s3 401": 1}
        ),
    }

    files = scraped.out.glob("images/*/metadata.json")
    times = [Metadata.model_validate_json(file.read_bytes()).times for file in files]
    seconds = [(time.stored - time.claimed).total_seconds() for time in times if time.claimed]
    # a quantile is somewhere in a bucket, whose bounds differ by a factor of three at most
    assert min(seconds) / 3 < quantiles["p50"] <= quantiles["p95"] < 3 * max(seconds)


def a_minute(counts: Mapping[str, float]) -> dict[str, Any]:
    """The same as rates of the hour that the dashboard shows."""
    return {legend: pytest.approx(value / 60) for legend, value in counts.items()}


def test_the_alerts_of_the_documentation_are_evaluated_and_none_fires_without_a_cause(
    scraped: Scraped,
) -> None:
    def evaluated() -> bool:
        return all(alert["health"] == "ok" for alert in scraped.prometheus.alerts())

    wait_until(evaluated)
    alerts = scraped.prometheus.alerts()
    assert {alert["name"] for alert in alerts} == set(ALERTS)
    assert "firing" not in {alert["state"] for alert in alerts}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_not_just_before(alert: str, tmp_path: Path) -> None:
    series, quiet, loud, labels = ALERTS[alert]
    (tmp_path / "alerts.yml").write_text(documented("groups"))
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values}],
            "alert_rule_test": [{"eval_time": "1h", "alertname": alert, "exp_alerts": firing}],
        }
        for values, firing in ((quiet, []), (loud, [{"exp_labels": labels}]))
    ]
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": ["alerts.yml"], "tests": tests}))
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "tests.yml"]):
        ended = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
