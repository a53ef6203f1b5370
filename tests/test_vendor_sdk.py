"""The vendor's own SDK, unchanged, against the emulator: the emulator answers as the API does."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from wavespeed import Client  # type: ignore[import-untyped]

from prefect_wavespeed.emulator.dialects import DIALECTS
from tests.support.emulator_process import Emulator

ASTRONAUT = Path(__file__).resolve().parent.parent / "examples" / "astronaut.jpg"
MODEL = "wavespeed-ai/flux-redux-dev"
QUICK: dict[str, Any] = {"poll_interval": 0.02}


@pytest.fixture
def sdk(emulator: Emulator) -> Client:
    return Client("sdk-key", emulator.url, retry_interval=0.01)


@pytest.fixture
def asked(sdk: Client) -> dict[str, Any]:
    return {"image": sdk.upload(str(ASTRONAUT)), "size": "320*256", "seed": 11}


@pytest.mark.parametrize("mode", [{}, {"enable_sync_mode": True}], ids=["polled", "sync"])
def test_the_sdk_runs_a_model(
    sdk: Client, emulator: Emulator, asked: dict[str, Any], mode: dict[str, Any]
) -> None:
    outputs = sdk.run(MODEL, {**asked, "num_images": 2}, **mode, **QUICK)["outputs"]
    assert len(outputs) == 2
    for url in outputs:
        with Image.open(io.BytesIO(requests.get(url, timeout=5).content)) as picture:
            assert (picture.size, picture.format) == ((320, 256), "JPEG")
    ledger = emulator.ledger()
    assert (ledger["billed"], ledger["spent"], ledger["calls"]["submit"]) == (1, 0.05, 1)
    assert not ledger["keys_seen_on_cdn"]


def test_the_sdk_uploads_what_can_be_downloaded_again(sdk: Client, emulator: Emulator) -> None:
    data = ASTRONAUT.read_bytes()
    for file in (str(ASTRONAUT), io.BytesIO(data)):
        assert requests.get(sdk.upload(file), timeout=5).content == data
    assert emulator.ledger()["uploads"] == 2


def test_the_sdk_finds_a_result_again(sdk: Client, asked: dict[str, Any]) -> None:
    result = sdk.run_no_throw(MODEL, asked, **QUICK)
    assert (result["status"], result["error"]) == ("completed", None)
    again = sdk.get_result(result["task_id"])["data"]
    assert (again["status"], again["outputs"]) == ("completed", result["outputs"])


def test_the_sdk_hears_of_a_wrong_field(sdk: Client, emulator: Emulator, asked: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r'HTTP 400: .*\\"size\\"'):
        sdk.run(MODEL, {**asked, "size": "1*1"})
    assert emulator.ledger()["billed"] == 0


def test_the_sdk_hears_of_an_unknown_model(sdk: Client) -> None:
    with pytest.raises(RuntimeError, match="HTTP 404"):
        sdk.run("wavespeed-ai/another", {})


@pytest.mark.parametrize("mode", [{}, {"enable_sync_mode": True}], ids=["polled", "sync"])
def test_the_sdk_hears_of_a_failed_prediction(
    sdk: Client, emulator: Emulator, asked: dict[str, Any], mode: dict[str, Any]
) -> None:
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "moderated"}])
    with pytest.raises(RuntimeError, match=r"Prediction failed \(task_id: \w{32}\): moderated"):
        sdk.run(MODEL, asked, **mode, **QUICK)
    assert emulator.ledger()["billed"] == 0


@pytest.mark.parametrize("status", ["cancelled", "timeout", "deleted"])
def test_the_sdk_hears_of_every_other_end(
    sdk: Client, emulator: Emulator, asked: dict[str, Any], status: str
) -> None:
    emulator.faults([{"on": "prediction", "fault": status}])
    with pytest.raises(RuntimeError, match=f"Prediction {status}"):
        sdk.run(MODEL, asked, **QUICK)


def test_the_sdk_hears_of_a_sync_mode_that_waited_too_long(
    sdk: Client, emulator: Emulator, asked: dict[str, Any]
) -> None:
    emulator.faults([{"on": "submit", "fault": "sync_timeout"}])
    result = sdk.run_no_throw(MODEL, asked, enable_sync_mode=True)
    assert result["status"] == "processing"
    assert len(result["task_id"]) == 32
    assert emulator.ledger()["billed"] == 1


@pytest.mark.parametrize("fault", ["drop_after", "status_after", "no_id"])
def test_the_sdk_submits_once_even_when_the_answer_is_lost(
    sdk: Client, emulator: Emulator, asked: dict[str, Any], fault: str
) -> None:
    emulator.faults([{"on": "submit", "fault": fault}])
    with pytest.raises(RuntimeError):
        sdk.run(MODEL, asked, max_retries=2, **QUICK)
    ledger = emulator.ledger()
    assert (ledger["calls"]["submit"], ledger["billed"]) == (1, 1)


def test_the_sdk_polls_on_through_passing_errors(
    sdk: Client, emulator: Emulator, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.faults(
        [
            {"on": "result", "fault": "status", "status": 503},
            {"on": "result", "fault": "drop"},
            {"on": "result", "fault": "status", "status": 429, "retry_after": 1},
        ]
    )
    assert sdk.run(MODEL, asked, **QUICK)["outputs"]
    assert "retrying" in capsys.readouterr().out
    assert emulator.ledger()["billed"] == 1


def test_the_sdk_with_a_wrong_key_is_refused() -> None:
    with Emulator("--key", "right") as emulator:
        client = Client("wrong", emulator.url)
        with pytest.raises(RuntimeError, match="HTTP 401"):
            client.run(MODEL, {"image": "https://example.com/a.jpg"})
        with pytest.raises(RuntimeError, match="HTTP 401"):
            client.upload(str(ASTRONAUT))


# --- dialects ---

UNBEARABLE = {
    # Any status but 200 is an error to it: it overlooks the prediction in the body, which is billed.
    "submit-error-with-task": "Failed to submit prediction: HTTP 400",
    # It uploads by ticket only.
    "upload-binary-only": "Failed to create upload: HTTP 404",
    "upload-url": "Failed to create upload: HTTP 404",
}


@pytest.mark.parametrize("dialect", ["strict", *(name for name in DIALECTS if name not in UNBEARABLE)])
def test_the_sdk_bears_this_dialect(sdk: Client, emulator: Emulator, dialect: str) -> None:
    emulator.dialects(dialect)
    asked = {"image": sdk.upload(str(ASTRONAUT)), "size": "256*256", "seed": 11}
    done = sdk.run_no_throw(MODEL, asked, **QUICK)
    assert (done["status"], done["error"]) == ("completed", None)
    outputs = done["outputs"]
    assert sdk.get_result(done["task_id"])["data"]["outputs"] == outputs
    output = outputs if isinstance(outputs, str) else outputs[0]
    url = (
        output if isinstance(output, str) else output["url"]
    )  # it passes on whatever the API calls an output
    with Image.open(io.BytesIO(requests.get(url, timeout=5).content)) as picture:
        assert (picture.size, picture.format) == ((256, 256), "JPEG")

    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "moderated"}])
    with pytest.raises(RuntimeError, match="moderated"):
        sdk.run(MODEL, asked, **QUICK)
    drops_fields = dialect == "fields-dropped"
    if drops_fields:  # it checks none itself
        assert len(sdk.run(MODEL, {**asked, "num_images": 5}, **QUICK)["outputs"]) == 1
    else:
        with pytest.raises(RuntimeError, match="num_images"):
            sdk.run(MODEL, {**asked, "num_images": 5})
    with pytest.raises(RuntimeError, match="prediction not found"):
        sdk.get_result("unknown")
    emulator.price(1000)
    with pytest.raises(RuntimeError, match="top up"):
        sdk.run(MODEL, asked)
    assert emulator.ledger()["billed"] == 1 + drops_fields


@pytest.mark.parametrize("dialect", UNBEARABLE)
def test_the_sdk_cannot_bear_this_dialect(
    sdk: Client, emulator: Emulator, asked: dict[str, Any], dialect: str
) -> None:
    emulator.dialects(dialect)
    call = partial(sdk.upload, str(ASTRONAUT)) if "upload" in dialect else partial(sdk.run, MODEL, asked)
    with pytest.raises(RuntimeError, match=UNBEARABLE[dialect]):
        call()
    assert emulator.ledger()["billed"] == ("submit" in dialect)


def test_the_sdk_runs_again_what_failed_with_http_502_in_its_text(
    sdk: Client, emulator: Emulator, asked: dict[str, Any]
) -> None:
    emulator.dialects("failed-without-code")
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 5000}])
    assert sdk.run(MODEL, asked, max_retries=1, **QUICK)["outputs"]
    ledger = emulator.ledger()
    assert (ledger["calls"]["submit"], ledger["billed"]) == (2, 1)
