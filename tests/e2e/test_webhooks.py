"""Webhooks instead of polling, with a real receiver, Prefect server and `restyle batch`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from tests.e2e.test_batch import Ground, billed_by_image, emulator_of, finished
from tests.support.batch_shell import KEY, Shell
from tests.support.batches import pictures
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import receiving

pytestmark = pytest.mark.e2e

COUNT = 200
TOKEN = "token-that-nobody-may-see"
ENDED = "wavespeed.prediction.ended"
BLOCK = "with-webhooks"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulator_of(2, 4) as running:
        yield running


@pytest.fixture(scope="module")
def hooked(prefect: PrefectServer, emulator: Emulator) -> Iterator[PrefectServer]:
    """The server with a receiver, a block with the receiver's URL, and one without."""
    with prefect.used_here():
        secret: Secret[Any] = Secret(value=SecretStr(KEY))
        secret.save(f"{BLOCK}-key", overwrite=True)
        plain = WaveSpeed(api_key=secret, base_url=emulator.url)
        plain.save("plain", overwrite=True)
    with receiving(prefect, "--wavespeed", "plain") as receiver:
        with prefect.used_here():
            plain.webhook_url = SecretStr(f"{receiver.url}/wavespeed?token={TOKEN}")
            plain.save(BLOCK, overwrite=True)
        yield prefect


class Run:
    """A batch of 200 images and its outcome."""

    def __init__(
        self,
        prefect: PrefectServer,
        emulator: Emulator,
        folder: Path,
        webhooks: tuple[dict[str, Any], ...] = (),
    ) -> None:
        emulator.reset()
        emulator.faults([{"on": "webhook", "times": None, **rule} for rule in webhooks])
        folder.mkdir(exist_ok=True)
        shell = Shell(prefect, emulator, folder)
        manifest = shell.manifest(pictures(COUNT))
        self.summary = finished(
            shell.start(manifest, "--wavespeed", BLOCK, "--concurrency", str(COUNT), "--json")
        )
        self.ledger = emulator.ledger()
        self.ground = Ground(shell)
        side_cars = self.ground.side_cars().values()
        # from the end of each prediction by the API's clock to the start of its download
        self.delays = sorted(
            (car.times.completed - car.prediction.created_at).total_seconds()
            - (car.prediction.inference_ms or 0) / 1000
            for car in side_cars
            if car.times.completed and car.prediction.created_at
        )
        print(
            f"\n{[rule['fault'] for rule in webhooks]}: {self.results_each:.3f} result calls each, "
            f"noticed after {self.delay(0.5):.2f} s (p50), {self.delay(0.95):.2f} s (p95), "
            f"{self.summary.images_per_minute:,.0f} a minute"
        )

    @property
    def results_each(self) -> float:
        calls: float = self.ledger["calls"]["result"] / COUNT
        return calls

    def delay(self, share: float) -> float:
        return self.delays[int(share * len(self.delays))]

    def check_complete(self, emulator: Emulator) -> None:
        """Every picture is stored, and was billed once."""
        assert self.summary.counts == {"stored": COUNT}
        assert len(self.ground.side_cars()) == len(self.delays) == COUNT
        assert self.ground.open() == []
        assert len(self.ledger["predictions"]) == self.ledger["billed"] == COUNT
        assert max(billed_by_image(emulator).values()) == 1


def test_webhooks_save_nearly_all_result_calls(
    hooked: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    """Without them each prediction takes one call at least; noticed without a call is noticed before one."""
    notified = Run(hooked, emulator, tmp_path)
    notified.check_complete(emulator)
    assert notified.results_each < 0.1


def test_whatever_happens_to_webhooks_all_pictures_are_stored_and_billed_once(
    hooked: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    faults: list[dict[str, Any]] = [
        {"fault": "drop", "probability": 0.25},
        {"fault": "twice", "probability": 0.3},
        {"fault": "forged", "probability": 0.3},
        {"fault": "late", "seconds": 2, "probability": 0.5},
    ]
    Run(hooked, emulator, tmp_path, webhooks=tuple(faults)).check_complete(emulator)


def test_events_say_that_no_run_waits_and_hold_no_secret(
    hooked: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.reset()
    shell = Shell(hooked, emulator, tmp_path)
    ended = shell.batch(shell.manifest(pictures(3)), "--wavespeed", BLOCK, "--no-wait", "--json")
    assert ended.status == 0, ended
    ids = {prediction["id"] for prediction in emulator.ledger()["predictions"]}
    assert len(ids) == 3

    def ours() -> list[dict[str, Any]]:
        return [event for event in hooked.events(ENDED) if event["payload"]["prediction_id"] in ids]

    wait_until(lambda: len(ours()) == 3)
    events = ours()
    assert {event["resource"]["wavespeed.waited"] for event in events} == {"false"}
    assert {event["payload"]["status"] for event in events} == {"completed"}

    stored = "".join(path.read_text() for path in Path(shell.out).rglob("*.json"))
    assert "claim" in str(list(Path(shell.out).rglob("*.json")))
    everything = f"{ended} {stored} {hooked.events()}"
    assert TOKEN not in everything
    assert "/cdn/" not in str(events)
    assert hooked.url not in stored
