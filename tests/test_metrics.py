"""Metrics for Prometheus of processes that share a machine, and the dashboard that shows them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from prefect_wavespeed import metrics as of_engine
from prefect_wavespeed.deployments.receiver import metrics as of_receiver

_ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = json.loads((_ROOT / "deployments" / "grafana-dashboard.json").read_text())
DOCS = (_ROOT / "docs" / "metrics.md").read_text()
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
KNOWN = {
    family.name + suffix
    for module in (of_engine, of_receiver)
    for thing in vars(module).values()
    if isinstance(thing, MetricWrapperBase)
    for family in thing.describe()
    for suffix in SUFFIXES[family.type]
}
_METRIC = re.compile(r"\brestyle_\w+")


def in_process(code: str, directory: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(_ROOT), "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=True
    )
    return ended.stdout


def latest(directory: Path) -> dict[str, float]:
    """The metrics that the receiver serves."""
    text = in_process(
        "from prefect_wavespeed.deployments.receiver import metrics; print(metrics.latest().decode())",
        directory,
    )
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("restyle_")]
    return {name: float(value) for name, value in lines}


def test_the_receiver_sums_the_metrics_of_runs_on_its_machine_even_of_ended_ones(
    tmp_path: Path,
) -> None:
    for usd in (0.025, 0.05):
        in_process(
            f"from prefect_wavespeed import metrics; metrics.STORED.inc(); metrics.SPENT.inc({usd})", tmp_path
        )
    metrics = latest(tmp_path)
    assert metrics['restyle_jobs_total{outcome="stored"}'] == 2
    assert metrics["restyle_spent_usd_total"] == pytest.approx(0.075)
    assert latest(tmp_path) == metrics, "reading changes nothing"


def test_what_a_killed_run_had_in_flight_is_in_flight_no_more(tmp_path: Path) -> None:
    killed = (
        "import os, signal; from prefect_wavespeed import metrics; metrics.IN_FLIGHT.inc(7); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(subprocess.CalledProcessError):
        in_process(killed, tmp_path)
    running = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from prefect_wavespeed import metrics; metrics.IN_FLIGHT.inc(3); print(flush=True); input()",
        ],
        env={**os.environ, "PYTHONPATH": str(_ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert running.stdout is not None
        running.stdout.readline()
        assert latest(tmp_path)["restyle_predictions_in_flight"] == 3
    finally:
        running.communicate()


def test_the_dashboard_shows_every_metric_and_none_that_does_not_exist() -> None:
    shown = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in _METRIC.findall(target["expr"])
    }
    assert shown <= KNOWN
    assert {re.sub("_(total|bucket|count|sum)$", "", name) for name in shown} == {
        re.sub("_(total|bucket|count|sum)$", "", name) for name in KNOWN
    }


def test_the_documentation_names_every_metric_and_none_that_does_not_exist() -> None:
    named = set(_METRIC.findall(DOCS))
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in KNOWN}
    assert named <= KNOWN | families
    assert families <= named


def test_panels_of_the_dashboard_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        assert panel["title"]
        assert panel["description"].endswith(".")
        taken |= cells
