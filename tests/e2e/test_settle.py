"""200 jobs of a runner that died right after submitting them, settled on a real Ceph gateway."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from prefect_wavespeed.settling.summary import Settled
from tests.support import settler
from tests.support.ceph import CephGateway
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended

COUNT = 200


def _keys(ceph: CephGateway, prefix: str) -> list[str]:
    pages = ceph.client().get_paginator("list_objects_v2").paginate(Bucket=ceph.bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


@pytest.mark.parametrize("at_once", [1, 2])
def test_all_that_was_submitted_is_stored_and_none_is_billed_again(at_once: int, ceph: CephGateway) -> None:
    prefix = f"settle-{at_once}"
    out = f"s3://{ceph.bucket}/{prefix}"
    with Emulator("--prerendered") as emulator:
        killed = settler.start("submit", out, emulator.url, "--count", str(COUNT), env=ceph.env).ended()
        assert killed.status == -signal.SIGKILL, killed
        assert emulator.ledger()["billed"] == emulator.ledger()["calls"]["submit"] == COUNT
        assert len(_keys(ceph, f"{prefix}/open/")) == 2 * COUNT

        settling = [settler.start("settle", out, emulator.url, env=ceph.env) for _ in range(at_once)]
        for ended in [one.ended() for one in settling]:
            assert ended.status == 0, ended
            assert Settled.model_validate_json(ended.stdout).problems == []

        ledger = emulator.ledger()
    assert ledger["billed"] == ledger["calls"]["submit"] == COUNT
    assert _keys(ceph, f"{prefix}/open/") == _keys(ceph, f"{prefix}/failed/") == []
    images = [key for key in _keys(ceph, f"{prefix}/images/") if "/.names/" not in key]
    assert len(images) == 2 * COUNT
    assert len([key for key in images if key.endswith("/metadata.json")]) == COUNT


def test_the_commands_settle_and_account_for_what_is_open(ceph: CephGateway, prefect: PrefectServer) -> None:
    out = f"s3://{ceph.bucket}/settle-command"
    with Emulator("--prerendered", "--latency", "0.1", "0.2") as emulator:
        settler.start("submit", out, emulator.url, "--count", "30", env=ceph.env).ended()

        def answer_of(*command: str) -> dict[str, Any]:
            env = {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": emulator.url, **ceph.env}
            ended: Ended = prefect.restyle(*command, "--out", out, "--json", env=env)
            assert (ended.status, ended.stderr) == (0, "")
            answer: dict[str, Any] = json.loads(ended.stdout)
            return answer

        before = answer_of("costs")
        assert (before["total"]["jobs"], before["without_side_car"]["open"]["predictions"]) == (0, 30)
        assert answer_of("settle")["stored"] == 30
        after = answer_of("costs", "--since", "1d")
        assert (after["total"]["jobs"], after["agreed"], after["without_side_car"]) == (30, 30, {})
        assert emulator.ledger()["billed"] == 30
