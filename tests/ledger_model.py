"""An explicit-state model of the ledger: every interleaving of a few runners and settlers, with crashes, lost
answers, late creation and slow processes, is visited, and each state is checked.

    python -m tests.ledger_model [HORIZON RUNNERS SETTLERS CRASHES FAILURES]      (4 1 1 1 1)

prints the states visited and what was found, with the shortest way to it. A rule of the ledger is changed
here first.

Time is in ticks of the store's clock. The bound that the ledger rests on: ``HALF`` (a claim older than this
may not POST) + ``POST`` (longest time from sending to creation) < ``LEASE``.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

LEASE, HALF, POST, ATTEMPTS = 2, 0, 1, 3


class Runner(NamedTuple):
    """A process: a runner, or one that settles."""

    pc: str = "start"
    n: int = 0  # attempt that it works on
    sent: int = -1  # when its POST left
    pid: int = -1  # prediction that it knows
    answer: str = ""  # what came of the POST: "", "id", "lost"


class Claim(NamedTuple):
    n: int
    owner: int
    time: int


class Record(NamedTuple):
    n: int
    pid: int


class Prediction(NamedTuple):
    pid: int
    created: int
    ok: bool


class Flying(NamedTuple):
    """A request that the server may still act on."""

    owner: int
    n: int
    sent: int


class State(NamedTuple):
    """All that there is."""

    runners: tuple[Runner, ...]
    crashes: int
    fails: int  # predictions that may still fail with a 5xxx code
    now: int = 0
    meta: bool = False
    dead: int = 0  # dead letter: last attempt number, 0 for none
    claims: tuple[Claim, ...] = ()
    records: tuple[Record, ...] = ()
    api: tuple[Prediction, ...] = ()
    flying: tuple[Flying, ...] = ()

    @property
    def latest(self) -> int:
        numbers = [claim.n for claim in self.claims] + [record.n for record in self.records]
        return max(numbers, default=0)

    def claim(self, n: int) -> Claim | None:
        return next((claim for claim in self.claims if claim.n == n), None)

    def record(self, n: int) -> Record | None:
        return next((record for record in self.records if record.n == n), None)

    def found(self) -> list[int]:
        """What the history shows that has not failed, as far as anybody knows."""
        recorded = {record.pid for record in self.records}
        return [one.pid for one in self.api if one.ok or one.pid not in recorded]

    def closed(self, upto: int) -> dict[str, Any]:
        """Claims and records without those of attempts up to this one."""
        return {
            "claims": tuple(claim for claim in self.claims if claim.n > upto),
            "records": tuple(record for record in self.records if record.n > upto),
        }

    def put(self, i: int, runner: Runner, **facts: Any) -> State:
        runners = (*self.runners[:i], runner, *self.runners[i + 1 :])
        return self._replace(runners=runners, **facts)


@dataclass(frozen=True)
class Model:
    """How much is visited.

    Attributes:
        careless: settlers remove old claims of which the history knows nothing, as they must not.
    """

    horizon: int = 4
    runners: int = 1
    settlers: int = 1
    crashes: int = 1
    fails: int = 1
    careless: bool = False

    def explore(self) -> tuple[int, list[State]]:
        """How many states there are, and the shortest way to two bills; empty where there is none."""
        runners = (Runner(),) * self.runners + (Runner("settle"),) * self.settlers
        first = State(runners, self.crashes, self.fails)
        parents: dict[State, State | None] = {first: None}
        queue = deque([first])
        while queue:
            state = queue.popleft()
            if sum(one.ok for one in state.api) > 1:
                way: list[State] = []
                at: State | None = state
                while at is not None:
                    way.insert(0, at)
                    at = parents[at]
                return len(parents), way
            for after in self._steps(state):
                if after not in parents:
                    parents[after] = state
                    queue.append(after)
        return len(parents), []

    def _steps(self, s: State) -> Iterator[State]:
        if s.now < self.horizon:
            yield s._replace(now=s.now + 1)
        for flying in s.flying:
            yield from self._serve(s, flying)
        for i, runner in enumerate(s.runners):
            fresh = "start" if i < self.runners else "settle"
            if s.crashes and runner.pc not in (fresh, "done"):
                yield s.put(i, Runner(fresh), crashes=s.crashes - 1)
            yield from _run(s, i, runner) if i < self.runners else self._settle(s, i, runner)

    def _serve(self, s: State, flying: Flying) -> Iterator[State]:
        """The server acts on a request, or never does."""
        rest = tuple(one for one in s.flying if one != flying)
        runner = s.runners[flying.owner]
        waits = (runner.pc, runner.n, runner.sent) == ("posting", flying.n, flying.sent)
        if s.now - flying.sent <= POST:
            pid = len(s.api) + 1
            for ok in (True, False) if s.fails else (True,):
                created = s._replace(
                    api=(*s.api, Prediction(pid, s.now, ok)), flying=rest, fails=s.fails - (not ok)
                )
                yield created  # and its answer is lost
                if waits:
                    yield created.put(flying.owner, runner._replace(answer="id", pid=pid))
        yield s._replace(flying=rest)

    def _settle(self, s: State, i: int, r: Runner) -> Iterator[State]:
        """Settling: like running, but it never claims and never POSTs."""
        n, again = s.latest, Runner("settle")
        claim = s.claim(n if r.pc == "settle" else r.n)
        match r.pc:
            case "settle":
                record = s.record(n)
                if s.meta and n:
                    yield s.put(i, r, **s.closed(n))
                elif 0 < n <= s.dead:
                    yield s.put(i, r, **s.closed(s.dead))
                elif record:
                    yield s.put(i, r._replace(pc="collect", n=n, pid=record.pid))
                elif claim and s.now - claim.time >= LEASE:
                    yield s.put(i, r._replace(pc="search", n=n))
            case "search":
                if found := s.found():
                    yield s.put(i, r._replace(pc="record", pid=found[-1]))
                elif self.careless:
                    yield s.put(i, again, **s.closed(r.n))
                elif claim and n == r.n and s.now - claim.time > LEASE:  # "for a week"
                    yield s.put(i, r._replace(pc="bury"))
                else:
                    yield s.put(i, again)
            case "bury":  # whatever has happened since it looked
                dead = max(s.dead, r.n)
                yield s.put(i, again, dead=dead, **s.closed(dead))
            case "record":  # whatever has happened since it looked: the job may be closed by now
                records = s.records if s.record(r.n) else (*s.records, Record(r.n, r.pid))
                yield s.put(i, again, records=records)
            case "collect":
                if s.meta:
                    yield s.put(i, again, **s.closed(n))
                elif _ok(s, r.pid):
                    yield s.put(i, r._replace(pc="closing"), meta=True)
                elif r.n >= ATTEMPTS:
                    yield s.put(i, again, dead=max(s.dead, r.n), **s.closed(r.n))
                else:
                    yield s.put(i, r._replace(pc="done"))  # left to whoever may submit
            case "closing":
                yield from _close(s, i, r)


def _run(s: State, i: int, r: Runner) -> Iterator[State]:
    """A step of a runner."""
    match r.pc:
        case "start":
            yield from _start(s, i, r)
        case "claim" | "takeover":
            if r.n > ATTEMPTS:  # used up
                yield s.put(i, r._replace(pc="done"), dead=ATTEMPTS, **s.closed(ATTEMPTS))
            elif s.claim(r.n):
                yield s.put(i, Runner())
            else:
                then = "check" if r.pc == "claim" else "wait"
                yield s.put(i, r._replace(pc=then), claims=(*s.claims, Claim(r.n, i, s.now)))
        case "wait":  # the old claim must be a lease older than ours, or gone
            old = s.claim(r.n - 1)
            if old is None or s.now - old.time >= LEASE:
                yield s.put(i, r._replace(pc="search"))
        case "search":
            if r.sent >= 0 and any(one.owner == i and s.now - one.sent <= POST for one in s.flying):
                return  # it looks until its own lost request can no longer be acted on
            if found := s.found():
                yield s.put(i, r._replace(pc="record", pid=found[-1]))
            elif r.sent >= 0:
                yield s.put(i, r._replace(pc="claim", n=r.n + 1, sent=-1, answer=""))
            else:
                yield s.put(i, r._replace(pc="check"))
        case "check":
            if s.meta or s.dead >= r.n:
                yield s.put(i, r._replace(pc="done"), **s.closed(r.n))
            else:
                yield s.put(i, r._replace(pc="post"))
        case "post":
            yield from _post(s, i, r)
        case "posting":
            if r.answer == "id":
                yield s.put(i, r._replace(pc="record"))
            else:
                yield s.put(i, r._replace(pc="search", answer="lost"))  # dropped or timed out, at any time
        case "record":
            if there := s.record(r.n):
                yield s.put(i, r._replace(pc="collect", pid=there.pid))
            else:
                yield s.put(i, r._replace(pc="collect"), records=(*s.records, Record(r.n, r.pid)))
        case "collect":
            yield from _collect(s, i, r)
        case "closing":
            yield from _close(s, i, r)


def _start(s: State, i: int, r: Runner) -> Iterator[State]:
    n = s.latest
    record, claim = s.record(n), s.claim(n)
    if s.meta or s.dead:
        yield s.put(i, r._replace(pc="done"))
    elif n == 0:
        yield s.put(i, r._replace(pc="claim", n=1))
    elif record:
        yield s.put(i, r._replace(pc="collect", n=n, pid=record.pid))
    elif claim and s.now - claim.time >= LEASE:
        yield s.put(i, r._replace(pc="takeover", n=n + 1))


def _post(s: State, i: int, r: Runner) -> Iterator[State]:
    mine = s.claim(r.n)
    if not mine or mine.owner != i or s.latest != r.n:
        yield s.put(i, Runner())
    elif s.now - mine.time > HALF:
        yield s.put(i, r._replace(pc="claim", n=r.n + 1))
    else:
        flying = (*s.flying, Flying(i, r.n, s.now))
        yield s.put(i, r._replace(pc="posting", sent=s.now, answer=""), flying=flying)


def _collect(s: State, i: int, r: Runner) -> Iterator[State]:
    if s.meta:
        yield s.put(i, r._replace(pc="done"), **s.closed(r.n))
    elif _ok(s, r.pid):
        yield s.put(i, r._replace(pc="closing"), meta=True)
    elif r.n >= ATTEMPTS:
        yield s.put(i, r._replace(pc="done"), dead=max(s.dead, r.n), **s.closed(r.n))
    else:
        yield s.put(i, r._replace(pc="claim", n=r.n + 1, sent=-1, answer="", pid=-1))


def _close(s: State, i: int, r: Runner) -> Iterator[State]:
    """Claims and records go one by one, in any options."""
    claims = [claim for claim in s.claims if claim.n <= r.n]
    records = [record for record in s.records if record.n <= r.n]
    if not claims and not records:
        yield s.put(i, r._replace(pc="done"))
    for gone in claims:
        yield s.put(i, r, claims=tuple(claim for claim in s.claims if claim != gone))
    for lost in records:
        yield s.put(i, r, records=tuple(record for record in s.records if record != lost))


def _ok(s: State, pid: int) -> bool:
    return next(one.ok for one in s.api if one.pid == pid)


def main(argv: list[str]) -> int:
    """Visit all states, and return 1 where a picture is billed twice."""
    names = ("horizon", "runners", "settlers", "crashes", "fails")
    given: dict[str, Any] = {name: int(number) for name, number in zip(names, argv, strict=False)}
    states, way = Model(**given).explore()
    for state in way:
        print(state)
    print(f"{states} states: {'two pictures billed' if way else 'never more than one picture billed'}")
    return bool(way)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
