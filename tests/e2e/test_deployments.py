"""A bucket is pointed at the project, and it runs by itself; then things go wrong.

Nothing is mocked but the vendor: a Prefect server that asks for a password, a process worker in a folder of
its own, the deployments of prefect.yaml, `restyle setup`, `restyle receiver`, a Ceph gateway that notifies.
The tests build on one another, in this order: the last ones look at all that the others did.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import pairwise

import pytest

from tests.support.ceph import CephGateway
from tests.support.deployed import RUNS, Deployed, deployed, seconds_until
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.processes import wait_until
from tests.support.schemas import check

PICTURE = PHOTO.read_bytes()
OTHER_PICTURE = PHOTO.with_name("coffee.jpg").read_bytes()


@pytest.fixture(scope="module")
def team(ceph: CephGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with (
        Emulator("--latency", "0.5", "1", "--prerendered") as emulator,
        deployed(ceph, emulator, tmp_path_factory.mktemp("deployed")) as team,
    ):
        yield team


def test_what_is_put_into_the_bucket_comes_out_restyled(team: Deployed) -> None:
    took = []
    for number in range(5):
        key = f"in/first/ä b+{number}%20'&.jpg"
        uri = team.put(key, PICTURE)
        took.append(seconds_until(partial(_is_stored, team, uri)))
    print(f"\nfrom put to stored: p50 {statistics.median(took):.1f} s, worst {max(took):.1f} s")
    side_cars = team.side_cars()
    assert len(side_cars) == team.billed() == 5
    for key in side_cars:
        check("metadata", team.read(key))
        assert f"{key.rpartition('/')[0]}/1.jpeg" in team.keys("out/images/")


def _is_stored(team: Deployed, uri: str) -> bool:
    return uri in team.stored("in/")


def _each_billed_once(team: Deployed) -> bool:
    """Whether there are exactly as many predictions as jobs, in all that was done so far."""
    return team.billed() == sum(team.stored("").values())


def _notify(team: Deployed, key: str, sequencer: str, etag: str) -> None:
    """Send the receiver a notification of an object, as a Ceph gateway does."""
    about = {"key": key, "eTag": etag, "sequencer": sequencer, "size": 1, "versionId": ""}
    s3 = {"bucket": {"name": team.ceph.bucket}, "object": about}
    record = {"eventSource": "ceph:s3", "eventName": "s3:ObjectCreated:Put", "s3": s3}
    assert team.receiver.notify({"Records": [record]}, token=team.token).status_code == 200


def test_an_object_notified_of_again_is_billed_once_and_an_overwritten_one_anew(team: Deployed) -> None:
    key = "in/again/a.jpg"
    uri = team.put(key, PICTURE)
    wait_until(lambda: team.stored("in/again/")[uri] == 1, 240)
    etag = team.ceph.client().head_object(Bucket=team.ceph.bucket, Key=key)["ETag"].strip('"')
    for _ in range(5):
        _notify(team, key, "FIVE-TIMES", etag)
    for sequencer in ("ONE", "TWO"):
        _notify(team, key, sequencer, etag)
    wait_until(lambda: len(team.runs_of(key)) == 4, 60)  # the five alike started one
    for run in team.runs_of(key):
        assert team.ended(run["id"])["state_type"] == "COMPLETED"
    assert team.stored("in/again/")[uri] == 1
    assert _each_billed_once(team)

    team.put(key, OTHER_PICTURE)
    wait_until(lambda: team.stored("in/again/")[uri] == 2, 240)
    assert len(team.runs_of(key)) == 5
    assert _each_billed_once(team)


def test_what_cannot_be_restyled_gets_a_dead_letter_once_and_the_rest_goes_on(team: Deployed) -> None:
    text = team.put("in/bad/text.jpg", b"this is no picture")
    large = team.put("in/bad/large.jpg", PICTURE + random.Random(7).randbytes(30 << 20))
    gone = team.put("in/bad/gone.jpg", PICTURE)
    team.ceph.client().delete_object(Bucket=team.ceph.bucket, Key="in/bad/gone.jpg")
    good = team.put("in/bad/good.jpg", PICTURE)
    wait_until(lambda: len(team.letters()) == 3 and good in team.stored("in/bad/"), 240)
    reasons = team.letters()
    print("\n" + "\n".join(f"{uri}: {reason}" for uri, reason in reasons.items()))
    assert "not an image" in reasons[text]
    assert "MB" in reasons[large]
    assert "no such object" in reasons[gone]
    for uri in (text, large, gone):
        (run,) = team.runs_of(uri.removeprefix(f"s3://{team.ceph.bucket}/"))
        run = team.ended(run["id"])
        assert (run["state_type"], run["run_count"]) == ("FAILED", 1)  # and not again
    # The text is given up for good; the large one would fail every night, one in less than twenty rows.
    team.ceph.client().delete_object(Bucket=team.ceph.bucket, Key=large.split("/", 3)[3])
    assert _each_billed_once(team)


def test_objects_that_come_while_prefect_is_away_are_all_restyled(team: Deployed) -> None:
    away = time.monotonic()
    team.prefect.halt()
    uris = {team.put(f"in/away/{number:02}.jpg", PICTURE) for number in range(10)}
    wait_until(lambda: team.receiver.http.get("/health").status_code == 503, 30)
    time.sleep(max(0.0, 15 - (time.monotonic() - away)))
    team.prefect.start_again()
    took = seconds_until(lambda: team.stored("in/away/").keys() >= uris, 500)
    print(f"\n10 objects that came while Prefect was away: stored {took:.0f} s after it is back")
    assert set(team.stored("in/away/").values()) == {1}
    assert _each_billed_once(team)


def test_objects_whose_worker_was_killed_are_all_restyled_and_no_run_hangs(team: Deployed) -> None:
    uris = {team.put(f"in/killed/{number:02}.jpg", PICTURE) for number in range(8)}
    team.shorten("restyle: runs that never started", 60)
    wait_until(lambda: len(team.stored("in/killed/")) >= 2, 240)
    team.kill_worker()
    left = {
        run["id"]: run["state_name"]
        for run in team.runs("restyle-object")
        if run["state_type"] not in ("COMPLETED", "FAILED", "SCHEDULED")
    }
    print(f"\nkilled with {len(team.stored('in/killed/'))} of 8 stored, and left behind: {left}")
    assert 0 < len(left) <= RUNS + 1
    time.sleep(5)
    team.start_worker()
    took = seconds_until(lambda: team.stored("in/killed/").keys() >= uris, 500)
    print(f"all stored {took:.0f} s after another worker was started")
    assert set(team.stored("in/killed/").values()) == {1}
    assert _each_billed_once(team)
    for run in left:  # marked as crashed first, and then run again
        wait_until(lambda run=run: team.ended(run)["state_type"] == "COMPLETED", 240)


def test_webhooks_that_no_run_waits_for_start_settle(team: Deployed) -> None:
    uris = [team.put(f"other/{number}.jpg", PICTURE) for number in range(3)]
    began = len(_settles(team))
    run = team.ended(team.start("restyle-batch", manifest=uris, options={"wait": False}))
    assert run["state_type"] == "COMPLETED"
    took = seconds_until(lambda: team.stored("other/").keys() >= set(uris), 120)
    print(f"\nwhat was submitted without waiting is stored {took:.0f} s after the run")
    wait_until(lambda: len(_settles(team)) > began, 60)
    assert len(_settles(team)) <= began + 2
    assert _each_billed_once(team)


def _settles(team: Deployed) -> list[str]:
    """What the automation of webhooks has done."""
    done = team.prefect.events("prefect.automation.action.executed")
    name = "restyle: settle after webhooks"
    return [event["id"] for event in done if event["resource"]["prefect.resource.name"] == name]


def test_the_nightly_batch_restyles_what_events_missed_and_bills_nothing_twice(team: Deployed) -> None:
    before = team.billed()
    team.listen("elsewhere/")
    missed = team.put("in/missed.jpg", PICTURE)
    team.set_up(RESTYLE_SCHEDULE="* * * * * */20")
    wait_until(lambda: missed in team.stored("in/missed"), 240)
    by_hand = [team.start("restyle-batch") for _ in range(4)]
    ended = [team.ended(run) for run in by_hand]
    nightly = [run for run in team.runs("restyle-batch") if run["auto_scheduled"] and run["start_time"]]
    team.set_up(RESTYLE_SCHEDULE="0 2 * * *")
    assert [run["state_type"] for run in ended] == ["COMPLETED"] * 4
    spans = sorted((run["start_time"], team.ended(run["id"])["end_time"]) for run in [*ended, *nightly])
    overlapping = [first for first, then in pairwise(spans) if then[0] < first[1]]
    print(f"\n{len(nightly)} runs by schedule and 4 by hand, {len(overlapping)} overlapping with the next")
    assert nightly
    assert overlapping
    assert datetime.fromisoformat(nightly[0]["expected_start_time"]).second % 20 == 0
    assert team.billed() == before + 1


def test_an_output_that_overlaps_what_is_watched_is_refused_at_run(team: Deployed) -> None:
    before = team.billed()
    created = {"bucket": team.ceph.bucket, "key": "in/first/0.jpg"}
    run = team.ended(
        team.start(
            "restyle-object",
            created=created,
            watched=f"s3://{team.ceph.bucket}/",
            output=f"s3://{team.ceph.bucket}/out",
        )
    )
    assert (run["state_type"], run["run_count"]) == ("FAILED", 1)
    assert "overlap" in run["state"]["message"]
    assert team.billed() == before


def test_nothing_feeds_on_itself_and_nothing_is_left_running(team: Deployed) -> None:
    """After a while in which each object would have come round twice, exactly what is expected is there."""
    before = sorted(team.keys("")), team.billed()
    time.sleep(20)
    images = [key for key in team.keys("out/images/") if not key.endswith("/metadata.json")]
    assert len(images) == sum(team.stored("").values()) == team.billed()
    sources = {f"s3://{team.ceph.bucket}/{key}" for folder in ("in/", "other/") for key in team.keys(folder)}
    assert set(team.stored("")) == sources - set(team.letters())
    assert {uri for uri, jobs in team.stored("").items() if jobs > 1} <= {f"{team.watch}again/a.jpg"}
    assert team.keys("out/open/") == []
    created = {run["parameters"]["created"]["key"] for run in team.runs("restyle-object")}
    assert not [key for key in created if not key.startswith("in/")]
    assert [key for key in sorted(team.keys("")) if not key.startswith("out/runs/")] == [
        key for key in before[0] if not key.startswith("out/runs/")
    ]
    assert team.billed() == before[1]
    running = team.prefect.all("flow_runs", flow_runs={"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
    assert [run["name"] for run in running if run["deployment_id"] != team.deployment("settle")["id"]] == []
