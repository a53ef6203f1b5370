"""What may happen to the runners of a job: killed, raced, paused, given a wrong clock, cut off from S3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.s3_proxy import Fault

CLAIMED, RECORDED, DONE = "*.claim.json", "*.prediction.json", "*/metadata.json"
AHEAD, BEHIND = 600.0, -600.0  # seconds


@dataclass(frozen=True)
class Run:
    """One runner: what happens to it where (see support/runner.py), its clock, and when it starts."""

    at: str = ""
    do: str = "kill"
    clock: float = 0
    retry_failed: bool = False
    delay: float = 0

    @property
    def options(self) -> list[str]:
        """Its command line."""
        at = ["--at", self.at, "--do", self.do] if self.at else []
        return [*at, "--clock", str(self.clock), *(["--retry-failed"] if self.retry_failed else [])]


@dataclass(frozen=True)
class Case:
    """Rounds of runners, each starting when the one before has ended.

    Attributes:
        rules: what goes wrong at WaveSpeedAI.
        faults: what goes wrong on the way to the store; only on S3.
        errors: those of the runners that end in one.
        created: how many predictions there are after each round.
        attempts: how many the side-car tells of.
        killed: how many runners get killed; by default all of those that are alone in their round.
        on_s3: whether it is worth its time on S3, too.
    """

    name: str
    rounds: Sequence[Sequence[Run]]
    rules: tuple[dict[str, Any], ...] = ()
    images: int = 1
    killed: int | None = None
    on_s3: bool = True
    faults: tuple[Fault, ...] = ()
    errors: tuple[str, ...] = ()
    created: tuple[int, ...] = ()
    attempts: int | None = None

    @property
    def deaths(self) -> int:
        """How many runners get killed."""
        alone = [runs[0] for runs in self.rounds if len(runs) == 1]
        return sum(bool(run.at) and run.do == "kill" for run in alone) if self.killed is None else self.killed


def dies(at: str, clock: float = 0) -> list[Run]:
    return [Run(at, clock=clock)]


OK = [Run()]
LATER = [Run(delay=1)]
EIGHT = [Run()] * 8

LOST = {"on": "submit", "fault": "drop_after"}
HANGS = {"on": "submit", "fault": "hang_after"}
SLOW = {"on": "prediction", "fault": "slow", "seconds": 2.5}
VERY_SLOW = {"on": "prediction", "fault": "slow", "seconds": 5}
DRIBBLES = {"on": "cdn", "fault": "slow", "seconds": 1}

KILLED = [
    Case("killed before the claim", [dies(f"before create {CLAIMED}"), OK]),
    Case("killed after the claim", [dies(f"after create {CLAIMED}"), OK]),
    Case("killed before the POST", [dies("before submit"), OK]),
    Case("killed during the POST", [dies("during submit"), OK], (HANGS,)),
    Case("killed after the POST", [dies("after submit"), OK]),
    Case("killed after recording", [dies(f"after create {RECORDED}"), OK]),
    Case("killed while polling", [dies("after result"), OK], (SLOW,)),
    Case("killed before the download", [dies("before download"), OK]),
    Case("killed while downloading", [dies("during download"), OK], (DRIBBLES,)),
    Case("killed after the first image", [dies("after create */1.jpeg"), OK], images=3),
    Case("killed before the last image", [dies("before create */3.jpeg"), OK], images=3),
    Case("killed before the side-car", [dies(f"before create {DONE}"), OK], images=3),
    Case("killed after the side-car", [dies(f"after create {DONE}"), OK], images=3),
    Case("killed before the claim is removed", [dies(f"before delete {CLAIMED[:-5]}*"), OK]),
]
KILLED_AGAIN = [
    Case("killed before the POST, four times", [*[dies("before submit")] * 4, OK], on_s3=False),
    Case("killed before recording, twice", [*[dies(f"before create {RECORDED}")] * 2, OK], on_s3=False),
    Case("killed before recording, three times", [*[dies(f"before create {RECORDED}")] * 3, OK]),
    Case("killed before polling, three times", [*[dies("before result")] * 3, OK], on_s3=False),
    Case("killed before the side-car, three times", [*[dies(f"before create {DONE}")] * 3, OK], on_s3=False),
    Case(
        "killed before the POST, then after it",
        [dies("before submit"), dies("after submit"), OK],
        on_s3=False,
    ),
    Case("killed after the POST, then while taking over", [dies("after submit"), dies("after history"), OK]),
]
MANY = [
    Case("eight at once", [EIGHT]),
    Case("eight at once, the answer lost", [EIGHT], (LOST,)),
    Case("eight at once, the owner killed after the POST", [[Run("after submit")] * 8], killed=1),
    Case(
        "eight at once after one that was killed before the POST", [dies("before submit"), EIGHT], on_s3=False
    ),
    Case(
        "four at once, all killed before recording",
        [[Run(f"before create {RECORDED}")] * 4, OK],
        killed=4,
        on_s3=False,
    ),
]
ASLEEP = [
    Case("asleep before the claim, done meanwhile", [[Run(f"before create {CLAIMED}", "sleep 3.5"), *OK]]),
    Case(
        "asleep with the claim for half a lease", [[Run(f"after create {CLAIMED}", "sleep 6.5")]], attempts=2
    ),
    Case(
        "frozen with the claim, taken over",
        [[Run(f"after create {CLAIMED}", "freeze 16"), *LATER]],
        (VERY_SLOW,),
    ),
    Case("asleep with the claim, taken over", [[Run(f"after create {CLAIMED}", "sleep 16"), *LATER]]),
    Case("asleep after the POST, taken over", [[Run("after submit", "sleep 16"), *LATER]], on_s3=False),
    Case("asleep before the side-car", [[Run(f"before create {DONE}", "sleep 3"), *LATER]], on_s3=False),
]
CLOCKS = [
    Case("clocks ahead, behind and right", [[Run(clock=AHEAD), Run(clock=BEHIND), Run()]]),
    Case(
        "one ahead killed before the POST, then three clocks",
        [dies("before submit", AHEAD), [Run(), Run(clock=BEHIND), Run(clock=AHEAD)]],
    ),
    Case(
        "one behind killed before the POST, then three clocks",
        [dies("before submit", BEHIND), [Run(), Run(clock=BEHIND), Run(clock=AHEAD)]],
    ),
    Case(
        "one ahead killed after the POST",
        [dies("after submit", AHEAD), [Run(), Run(clock=BEHIND)]],
        on_s3=False,
    ),
    Case(
        "one behind killed after the POST",
        [dies("after submit", BEHIND), [Run(), Run(clock=AHEAD)]],
        on_s3=False,
    ),
    Case("one ahead takes over", [dies("after submit"), [Run(clock=AHEAD)]]),
    Case("one behind takes over", [dies("after submit"), [Run(clock=BEHIND)]], on_s3=False),
    Case("one behind, the answer lost", [[Run(clock=BEHIND), Run()]], (LOST,), on_s3=False),
]


def met(name: str, what: Any, path: str) -> Case:
    """The store plays a trick on one put, and nobody is to notice."""
    return Case(name, [OK], faults=(Fault(what, "PUT", path),), attempts=1)


def cut(name: str, what: Any, path: str, times: int = 1, created: tuple[int, ...] = ()) -> Case:
    """The store fails at a put: an error, and the next run goes on from there."""
    faults = (Fault(what, "PUT", path, times),)
    return Case(name, [OK, OK], faults=faults, errors=("StoreError",), created=created)


STORE = [
    # obstore sends a put again whose answer was lost, and it meets itself
    met("the claim's answer is lost", "drop", ".claim.json"),
    met("the claim is answered with 500", "fail", ".claim.json"),
    met("the record's answer is lost", "drop", ".prediction.json"),
    met("the picture's answer is lost", "drop", "/1.jpeg"),
    met("the side-car's answer is lost", "drop", "/metadata.json"),
    met("the claim meets a conflict", "conflict", ".claim.json"),
    met("the record meets a conflict", "conflict", ".prediction.json"),
    met("the side-car meets a conflict", "conflict", "/metadata.json"),
    cut("down before the claim", "down", ".claim.json", created=(0, 1)),
    cut("down after the claim", "down_after", ".claim.json", created=(0, 1)),
    cut("down after the POST", "down", ".prediction.json", created=(1, 1)),
    cut("busy after the POST", "refuse", ".prediction.json", 5, created=(1, 1)),
    cut("down after the record", "down_after", ".prediction.json"),
    cut("down before the side-car", "down", "/metadata.json"),
    cut("down after the side-car", "down_after", "/metadata.json"),
]
CASES = [*KILLED_AGAIN, *STORE, *MANY, *CLOCKS, *ASLEEP, *KILLED]  # the longest first
