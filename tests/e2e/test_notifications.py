"""docs/notifications.md: a message names the job that failed, the reason and the next step."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.batches import write_manifest
from tests.support.doc_pages import ROOT, blocks, documented_events
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e

_SAVE = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block
message = {{"subject": "{{{{subject}}}}", "body": "{{{{body}}}}"}}
print(Block(name="test", url="{url}", json_data=message).save("restyle-test", overwrite=True))
"""
_FAIL = """
from prefect import flow, tags
@flow(name="restyle-batch", flow_run_name="restyle june.csv")
def fail():
    raise ValueError("3 of 4 rows failed")
with tags("restyle"):
    fail(return_state=True)
"""


@dataclass
class Inbox:
    """Where notifications go instead of Slack: what a notification block sent."""

    url: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def about(self, text: str) -> list[dict[str, Any]]:
        """The messages with this in their subject."""
        return [message for message in self.messages if text in message["subject"]]


@contextmanager
def _inbox() -> Iterator[Inbox]:
    inbox = Inbox()

    class Receive(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            inbox.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    inbox.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield inbox
    finally:
        server.shutdown()


def test_a_message_about_a_failure_names_the_job_the_reason_and_the_next_step(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    (described,) = (
        block.text
        for block in blocks(ROOT / "docs" / "notifications.md")
        if block.title == "restyle-failures.yaml"
    )
    server, out = prefect, tmp_path / "out"
    with _inbox() as inbox:
        saved = server.python("-c", _SAVE.format(url=inbox.url)).ended()
        assert saved.status == 0, saved
        automations = tmp_path / "failures.yaml"
        automations.write_text(described.replace("BLOCK_ID", saved.stdout.split()[-1]))
        created = server.python(
            "-m", "prefect", "automation", "create", "--from-file", str(automations)
        ).ended()
        assert created.status == 0, created

        emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "not this one"}])
        env = {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": emulator.url}
        rows: list[dict[str, Any]] = [{"image": str(PHOTO), "seed": 99}, {"image": "gone.jpg", "id": "sku-2"}]
        manifest = write_manifest(tmp_path / "may.jsonl", rows)
        skip = ("--on-bad-row", "skip", "--max-failed", "1")
        ended = server.restyle("batch", manifest, "--out", str(out), "--size", "256*256", *skip, env=env)
        assert ended.status == 0, ended
        assert server.python("-c", _FAIL).ended().status == 0

        wait_until(lambda: inbox.about("Not restyled") and inbox.about("june.csv") and inbox.about("may"))

    (job,) = inbox.about("Not restyled")
    (letter,) = (out / "failed").iterdir()
    assert PHOTO.stem in job["subject"]
    assert "not this one" in job["body"]
    assert "code 1200" in job["body"]
    assert f"restyle show {letter.stem}" in job["body"]

    (batch,) = inbox.about("may.jsonl")
    assert batch["subject"] == "restyle may.jsonl: 2 failed, of 2 rows"
    assert "1 failed: not this one (code 1200): row 1" in batch["body"]
    assert "1 failed: no such file: image gone.jpg: sku-2" in batch["body"]
    assert "restyle failures --out" in batch["body"]

    (run,) = inbox.about("june.csv")
    assert run["subject"] == "restyle june.csv: Failed"
    assert "restyle-batch / restyle june.csv: " in run["body"]
    assert "3 of 4 rows failed" in run["body"]
    assert re.search(r"Look: http://\S+/runs/flow-run/", run["body"])
    assert "{{" not in json.dumps(inbox.messages)
    print(job["subject"], job["body"], run["subject"], run["body"], sep="\n")


def test_events_of_jobs_are_as_documented(prefect: PrefectServer, emulator: Emulator, tmp_path: Path) -> None:
    env = {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": emulator.url}
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "match": {"seed": 1}}])
    for seed, status in (("1", 1), ("2", 0)):
        image = ("image", str(PHOTO), "--out", str(tmp_path), "--size", "256*256", "--seed", seed)
        assert prefect.restyle(*image, env=env).status == status
    documented = {
        name: fields for name, fields in documented_events().items() if name.startswith("wavespeed.job.")
    }

    def emitted() -> dict[str, set[str]]:
        return {event["event"]: set(event["payload"]) for event in prefect.events("wavespeed.job.")}

    wait_until(lambda: emitted().keys() == documented.keys())
    assert emitted() == documented
