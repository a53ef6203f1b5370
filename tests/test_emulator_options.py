"""The emulator's options, and how it starts and stops."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import httpx
import pytest

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.emulator import main
from prefect_wavespeed.emulator.options import Options
from prefect_wavespeed.emulator.predictions import Predictions
from tests.support.emulator_client import EXAMPLES, Api, data_of, opened
from tests.support.emulator_process import Emulator


def test_options_set_limits_keys_balance_price_and_faults(tmp_path: Path) -> None:
    script = tmp_path / "faults.json"
    script.write_text('[{"on": "balance", "fault": "status", "status": 500}]')
    options = "--tier 4 2 --key one --key two --balance 0.06 --price 0.02 --latency 1 1 --prerendered"
    with Emulator(*options.split(), "--faults", str(script), "--dialect", "strict") as emulator:
        stranger, api = Api(emulator.url, "three"), Api(emulator.url, "two")
        assert stranger.http.get("/api/v3/balance").status_code == 401
        assert api.http.get("/api/v3/balance").status_code == 500
        assert data_of(api.http.get("/api/v3/balance")) == {"balance": 0.06}

        image = "https://example.com/never-fetched.jpg"
        created = [data_of(api.submit(image=image))["id"] for _ in range(2)]
        too_many = api.submit(image=image)
        assert (too_many.status_code, too_many.headers["Retry-After"]) == (429, "1")
        done = [api.wait(prediction_id) for prediction_id in created]
        one, two = (api.cdn.get(prediction["outputs"][0]).content for prediction in done)
        assert one == two
        assert opened(one).size == (256, 256)

        assert api.submit(image=image).status_code == 200
        assert api.submit(image=image).status_code == 402
        too_fast = api.submit(image=image)
        assert too_fast.status_code == 429
        assert 50 <= int(too_fast.headers["Retry-After"]) <= 60
        ledger = emulator.ledger()
        assert (ledger["billed"], ledger["rejected"], ledger["max_in_flight"]) == (3, 2, 2)
        assert ledger["balance"] == 0
        stranger.close()
        api.close()


def test_it_stops_quickly_with_calls_and_predictions_in_progress() -> None:
    emulator = Emulator("--latency", "60", "60")
    api = Api(emulator.url)
    data_of(api.submit(image=api.upload()))
    emulator.faults([{"on": "balance", "fault": "hang"}])
    with pytest.raises(httpx.ReadTimeout):
        api.http.get("/api/v3/balance", timeout=0.2)
    started = time.monotonic()
    assert emulator.stop() == 0
    assert time.monotonic() - started < 3
    api.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--port", "70000"], "--port"),
        (["--latency", "4", "2"], "--latency"),
        (["--latency", "nan", "2"], "--latency"),
        (["--tier", "0", "1"], "--tier"),
        (["--balance", "-1"], "--balance"),
        (["--faults", "missing.json"], "missing.json"),
        (["--faults", __file__], "not JSON"),
        (["--dialect", "retry-after", "klingon"], "history-without-inputs"),
        (["--dialect", "error-with-task", "--dialect", "error-is-task"], "alternatives"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_invalid_options_are_reported_in_one_line(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert expected in error


def test_a_port_in_use_is_reported_in_one_line(emulator: Emulator) -> None:
    port = emulator.url.rsplit(":", 1)[1]
    ended = subprocess.run(
        [sys.executable, "-m", "prefect_wavespeed.emulator", "--port", port],
        capture_output=True,
        text=True,
        check=False,
        cwd=EXAMPLES.parent,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert port in ended.stderr


async def test_predictions_are_forgotten_after_seven_days(monkeypatch: pytest.MonkeyPatch) -> None:
    async with aiohttp.ClientSession() as session:
        predictions = Predictions(Options(latency=(0, 0), prerendered=True), "http://127.0.0.1:1", session)
        request = ReduxRequest(image="https://example.com/a.jpg", size="256*256")
        prediction = predictions.create(request, {}, None, "key")
        assert prediction.task
        await prediction.task
        now = time.time_ns()
        day = 24 * 3600 * 1_000_000_000
        monkeypatch.setattr("prefect_wavespeed.emulator.predictions.time.time_ns", lambda: now + 6 * day)
        assert predictions.get(prediction.id) is prediction
        monkeypatch.setattr("prefect_wavespeed.emulator.predictions.time.time_ns", lambda: now + 7 * day + 1)
        assert predictions.get(prediction.id) is None
        assert list(predictions.newest_first()) == []
        await predictions.close()
