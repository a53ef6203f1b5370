"""What a run counts for Prometheus: scraped while it goes on, and held against its report."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batch_shell import KEY
from tests.support.batches import pictures, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.metered_batch import FAULTS, PRICE, ROWS, STORED, Metered
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def slow_emulator() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "1.5", "3") as running:
        yield running


def test_what_is_scraped_while_a_batch_goes_on_agrees_with_its_report(
    prefect: PrefectServer, slow_emulator: Emulator, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(ROWS))
    slow_emulator.faults(FAULTS)
    with Metered(prefect, slow_emulator, manifest, tmp_path / "out") as batch:
        flying = 0.0
        seen: list[float] = []
        while sum(seen[-1:]) < STORED and batch.process.poll() is None:
            now = batch.scrape()
            flying = max(flying, now.get("restyle_predictions_in_flight", 0))
            seen.append(now.get('restyle_jobs_total{outcome="stored"}', 0))
            time.sleep(0.1)
        summary = batch.summary()
        metrics = batch.scrape()
    assert seen == sorted(seen)
    assert len(set(seen)) > 3, "it was scraped while it went on"
    assert 1 < flying <= ROWS
    created = len(slow_emulator.ledger()["predictions"])
    assert metrics['restyle_jobs_total{outcome="stored"}'] == summary.counts["stored"] == STORED
    assert metrics['restyle_jobs_total{outcome="failed"}'] == 1
    assert metrics['restyle_jobs_total{outcome="found"}'] == 0
    assert (
        metrics['restyle_submissions_total{outcome="unanswered"}'] == metrics["restyle_adoptions_total"] == 1
    )
    assert metrics['restyle_submissions_total{outcome="refused"}'] == 1
    assert metrics['restyle_submissions_total{outcome="rate_limited"}'] == 3
    assert metrics['restyle_api_answers_total{status="429"}'] == 3
    assert metrics['restyle_api_answers_total{status="none"}'] == 1
    assert metrics["restyle_retries_total"] == 1
    assert metrics['restyle_warnings_total{code="blank"}'] == summary.warnings["blank"] == 1
    accepted = metrics['restyle_submissions_total{outcome="accepted"}']
    assert accepted + metrics["restyle_adoptions_total"] == created == ROWS
    assert metrics["restyle_spent_usd_total"] == pytest.approx(created * PRICE)
    refunded = 2 * PRICE  # the predictions that failed, hours later
    assert metrics["restyle_spent_usd_total"] - refunded == pytest.approx(summary.spent_usd)
    assert metrics["restyle_predictions_in_flight"] == 0
    assert metrics["restyle_job_seconds_count"] == STORED
    assert metrics["restyle_job_seconds_sum"] / STORED > 1.5


def test_what_is_stored_already_is_found_and_not_spent_again(
    prefect: PrefectServer, slow_emulator: Emulator, tmp_path: Path
) -> None:
    slow_emulator.reset()
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(3))
    for found, spent in ((0, 3 * PRICE), (3, 0)):
        with Metered(prefect, slow_emulator, manifest, tmp_path / "out") as batch:
            batch.summary()
            metrics = batch.scrape()
        assert metrics['restyle_jobs_total{outcome="found"}'] == found
        assert metrics["restyle_spent_usd_total"] == pytest.approx(spent)


def test_the_receiver_tells_what_runs_of_a_worker_counted_before_they_ended(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    usual = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": emulator.url}
    for arguments in (
        ["-m", "prefect_wavespeed", "setup", "--out", str(tmp_path / "out")],
        ["-m", "prefect", "work-pool", "create", "metered", "--type", "process"],  # with no runs of others
    ):
        ended = prefect.python(*arguments, env=usual).ended()
        assert ended.status == 0, ended
    prefect.deploy("--name", "restyle-image", "--pool", "metered", env=usual)
    deployment = prefect.call("GET", "/deployments/name/restyle-image/restyle-image")
    created = [
        prefect.call(
            "POST",
            f"/deployments/{deployment['id']}/create_flow_run",
            {"parameters": {"image": str(PHOTO), "variant": variant}},
        )["id"]
        for variant in (0, 1)
    ]
    worker = prefect.python(
        *("-m", "prefect", "worker", "start", "--pool", "metered"),
        env={**usual, "PROMETHEUS_MULTIPROC_DIR": str(figures)},
    )
    try:
        wait_until(
            lambda: all(
                prefect.call("GET", f"/flow_runs/{run}")["state_type"] == "COMPLETED" for run in created
            ),
            240,
        )
        code = "from prefect_wavespeed.deployments.receiver.metrics import latest; print(latest().decode())"
        asked = prefect.python(
            *("-c", code),
            env={"PROMETHEUS_MULTIPROC_DIR": str(figures)},
        ).ended()
    finally:
        worker.send(signal.SIGTERM)
        worker.ended(60)
    lines = asked.stdout.splitlines()
    assert 'restyle_jobs_total{outcome="stored"} 2.0' in lines
    assert "restyle_spent_usd_total 0.05" in lines
    assert "restyle_predictions_in_flight 0.0" in lines
