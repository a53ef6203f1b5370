"""An explicit-state model of the ledger: every interleaving of a few runners and settlers, with crashes, lost
and late answers, failing searches, refusals, given-back claims, fast clocks, forgotten predictions, and jobs
seen by a listing of any age.

    python -m tests.ledger_model          # the table: what breaks when a rule is left out

What a runner does next is decided by ``ledger.rules.next_move`` itself. The model carries the moves out, on a
world of a few tuples, in two steps as the code does: it looks, and acts on what it saw, whatever has happened
meanwhile. Three things must never happen: a second bill, a paid or never tried job that is buried, a POST by
a process that may not send one.

Time is in ticks of the store's clock. ``HALF`` is half the lease, ``POST`` the longest time from sending a
request to its effect; half the lease plus that is less than the lease.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from prefect_wavespeed.ledger import moves, rules
from prefect_wavespeed.ledger.rules import HISTORY_SECONDS, RULES, JobState, LetterState, Rule

LEASE, HALF, POST, WEEK = 2, 1, 1, 4

Kind = Literal["run", "retry_failed", "settle"]


class Runner(NamedTuple):
    """A process: it looks, decides, acts.

    ``step``: "look", "act" (on ``move``), "posting", "collect" (prediction ``pid`` of attempt ``n``),
    "closing" (of attempts up to ``n``) or "ended".
    """

    mind: rules.Runner
    step: str = "look"
    move: moves.Move | None = None
    begun: bool = False
    since: int = 0  # when its claim was made
    sent: int = 0  # when its POST left
    answer: str = ""  # to the POST: "", "id", "refused"
    n: int = 0
    pid: int = 0
    last: bool = False  # when its prediction fails, the job has failed


class Prediction(NamedTuple):
    pid: int
    good: bool
    excused: bool  # sent with retry_failed, after asking for the one before, which is lost
    shown: bool = True  # the API knows it
    was_lost: bool = False  # the API did not, for a while
    ended: bool = False  # failed, as the history says
    born: int = 0


class Flying(NamedTuple):
    """A request that the API may still act on."""

    owner: int
    sent: int
    excused: bool


class Budget(NamedTuple):
    """How often each thing may still go wrong."""

    crashes: int = 0
    failures: int = 0  # predictions that fail with a code that allows another attempt
    searches: int = 0  # searches of the history that fail
    refusals: int = 0  # POSTs that are refused
    losses: int = 0  # predictions that the API forgets, and may know again
    fast_clocks: int = 0  # looks by a clock that is far ahead
    unsure: int = 0  # searches that cannot tell, because the API does not say what was asked for
    verdicts: int = 0  # jobs that a person has looked into
    listings: int = 0  # runners that go by a listing, of any age, that held nothing of the job


class State(NamedTuple):
    """All that there is."""

    runners: tuple[Runner, ...]
    budget: Budget
    now: int = 0
    done: bool = False
    letter: tuple[int, int, int] | None = None  # last attempt, its prediction or 0, who wrote it
    ruled_out: int = 0
    doubtful: int = 0
    claims: tuple[tuple[int, int], ...] = ()  # attempt, time
    records: tuple[tuple[int, int], ...] = ()  # attempt, prediction
    api: tuple[Prediction, ...] = ()
    flying: tuple[Flying, ...] = ()
    posts: int = 0  # that were not refused
    broken: str = ""  # what must never happen has happened

    def put(self, i: int, runner: Runner, **changes: Any) -> State:
        return self._replace(runners=(*self.runners[:i], runner, *self.runners[i + 1 :]), **changes)

    def counts(self, prediction: Prediction) -> bool:
        """Whether it is a picture that was paid for, and that a search finds, or somebody doubts."""
        return prediction.good and (self.now - prediction.born < WEEK or self.doubtful > 0)

    def prediction(self, pid: int) -> Prediction:
        return self.api[pid - 1]


@dataclass(frozen=True)
class Model:
    """How much is visited.

    Attributes:
        kinds: the processes.
        horizon: the last tick.
        budget: how often each thing may go wrong.
        ids_in_refusals_count: a refusal that bears a prediction's id is taken for a submission.
        most_posts: how many POSTs may leave.
        persons_wait: a person says that nothing was submitted only once nothing can be any more.
        without: the rule that is left out.
    """

    kinds: tuple[Kind, ...]
    horizon: int
    budget: Budget
    ids_in_refusals_count: bool = True
    most_posts: int = 3
    persons_wait: bool = True
    without: Rule | None = None

    def explore(self, most: int = 3_000_000) -> tuple[int, list[State]]:
        """Visit all states, or stop at the first broken one.

        Returns:
            How many were visited, and the shortest way to a broken one; empty where there is none.
        """
        first = State(tuple(map(_fresh, self.kinds)), self.budget)
        parents: dict[State, State | None] = {first: None}
        queue = deque([first])
        while queue:
            state = queue.popleft()
            if state.broken or _buried(state):
                return len(parents), _way(parents, state)
            if len(parents) > most:
                raise AssertionError(f"{self}: more than {most:,} states")
            for after in self._steps(state):
                if after not in parents:
                    parents[after] = state
                    queue.append(after)
        return len(parents), []

    @property
    def _rules(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in RULES if rule is not self.without)

    def _steps(self, s: State) -> Iterator[State]:
        if s.now < self.horizon:
            yield s._replace(now=s.now + 1)
        for flying in s.flying:
            yield from _take_effect(s, flying, born=s.now if self.horizon >= WEEK else 0)
        for one in s.api:  # a prediction is forgotten by the API, or known again
            newest = max((n for n, _ in s.claims + s.records), default=0)
            in_use = dict(s.records).get(newest) == one.pid
            if one.good and one.shown and s.budget.losses and in_use:
                hidden = tuple(
                    p._replace(shown=False, was_lost=True) if p.pid == one.pid else p for p in s.api
                )
                yield s._replace(api=hidden, budget=s.budget._replace(losses=s.budget.losses - 1))
            if not one.shown and s.letter:
                yield s._replace(api=tuple(p._replace(shown=True) if p.pid == one.pid else p for p in s.api))
        yield from self._person(s)
        for i, runner in enumerate(s.runners):
            if s.budget.crashes and runner.step != "ended" and runner != _fresh(self.kinds[i]):
                budget = s.budget._replace(crashes=s.budget.crashes - 1)
                yield s.put(i, _fresh(self.kinds[i]), budget=budget)
            yield from self._go_on(s, i, runner)

    def _person(self, s: State) -> Iterator[State]:
        """Somebody looks a job up at the vendor's, and records what was submitted, or that nothing was."""
        state = self._seen(s, 0, 0)
        if not s.budget.verdicts or s.done or not state.latest or state.latest in state.records:
            return
        if self.persons_wait and not rules.can_be_ruled_out(state):
            return
        budget, known = s.budget._replace(verdicts=s.budget.verdicts - 1), dict(s.records).values()
        unknown = [p.pid for p in s.api if p.shown and p.pid not in known]
        for pid in unknown:
            yield s._replace(budget=budget, records=tuple(sorted((*s.records, (state.latest, pid)))))
        if not unknown:
            yield s._replace(budget=budget, ruled_out=max(s.ruled_out, state.latest))

    def _go_on(self, s: State, i: int, r: Runner) -> Iterator[State]:
        match r.step:
            case "look":
                yield self._look(s, i, r, s.budget)
                if s.budget.fast_clocks:
                    budget = s.budget._replace(fast_clocks=s.budget.fast_clocks - 1)
                    misled = self._look(s, i, r, budget, ahead=LEASE)
                    if isinstance(misled.runners[i].move, moves.Claim):
                        yield misled
                if s.budget.listings and not r.begun:
                    yield self._look(s, i, r, s.budget._replace(listings=s.budget.listings - 1), unseen=True)
            case "act":
                yield from self._act(s, i, r)
            case "posting":
                yield from self._answered(s, i, r)
            case "collect":
                yield from self._collect(s, i, r)
            case "closing":
                yield from _close(s, i, r)

    # -- looking and deciding -------------------------------------------------------------------

    def _look(
        self, s: State, i: int, r: Runner, budget: Budget, *, ahead: int = 0, unseen: bool = False
    ) -> State:
        state = JobState() if unseen else self._seen(s, i, ahead)
        mind = r.mind if r.begun else rules.begin(state, r.mind)
        move = rules.next_move(state, _aged(mind, s.now - r.since), self._rules)
        seen = state.latest if isinstance(move, moves.Search) else 0  # what is found is recorded for it
        attempt = mind.held.attempt if mind.held else state.latest
        last = rules.is_last(state, attempt, mind.forgiven)
        after = r._replace(mind=mind, step="act", move=move, begun=True, n=seen, last=last)
        return s.put(i, after, budget=budget)

    def _seen(self, s: State, i: int, ahead: int) -> JobState:
        letter = None
        if s.letter:
            last, pid, writer = s.letter
            letter = LetterState(last, names_prediction=pid > 0, from_this_run=writer == i)
        claims = {n: _seconds(s.now + ahead - at) for n, at in s.claims}
        records = {n for n, _ in s.records}
        return JobState(s.done, letter, claims, records, float(LEASE), s.ruled_out, s.doubtful)

    # -- acting ---------------------------------------------------------------------------------

    def _act(self, s: State, i: int, r: Runner) -> Iterator[State]:
        again = r._replace(step="look", move=None)
        match r.move:
            case moves.Done():
                yield s.put(
                    i, again._replace(step="closing", n=max((n for n, _ in s.claims + s.records), default=0))
                )
            case moves.Failed():
                yield s.put(i, again._replace(step="closing", n=s.letter[0] if s.letter else 0))
            case moves.Join(attempt):
                if r.mind.held and r.mind.held.attempt != attempt:
                    s, again = _without_claim(s, r), again._replace(mind=replace(r.mind, held=None))
                pid = dict(s.records).get(attempt, 0)
                yield s.put(i, again._replace(step="collect", n=attempt, pid=pid) if pid else again)
            case moves.Wait():
                yield s.put(i, again)
            case moves.Claim(attempt, takes_over):
                yield self._claim(s, i, again, attempt, takes_over)
            case moves.Search():
                yield from self._search(s, i, again)
            case moves.AskForOldPrediction():
                yield _ask(s, i, again)
            case moves.Post() if s.posts < self.most_posts:
                yield self._post(s, i, again)
            case moves.Record():
                yield self._record(s, i, again)
            case moves.NextAttempt():
                yield s.put(i, again._replace(mind=r.mind.after_attempt()))
            case moves.LeaveOpen():
                if r.mind.held and not r.mind.held.sent:
                    yield self._given_back(s, i, r)
                else:
                    after = again._replace(step="ended")
                    yield s.put(i, after if self.kinds[i] == "settle" else _fresh(self.kinds[i]))
            case moves.GiveUp(attempt, reason):
                tried = sum(not p.good for p in s.api) >= rules.MAX_ATTEMPTS
                broken = "" if tried or reason == "never_submitted" else "buried without having failed"
                yield _bury(s, i, again, attempt, 0, broken)

    def _claim(self, s: State, i: int, r: Runner, attempt: int, takes_over: int | None) -> State:
        if any(n == attempt for n, _ in s.claims):
            return s.put(i, r)
        old = dict(s.claims).get(takes_over or 0)
        # once it is done, nothing is sent, whoever holds what
        is_live = not s.done and old is not None and s.now - old < LEASE and not self.budget.fast_clocks
        mind = r.mind.with_claim(attempt, takes_over, float(LEASE))
        claims = (*s.claims, (attempt, s.now))
        broken = "a young claim is taken over" if is_live else s.broken
        return s.put(i, r._replace(mind=mind, since=s.now), claims=claims, broken=broken)

    def _record(self, s: State, i: int, r: Runner) -> State:
        assert r.mind.held
        recorded, attempt = dict(s.records), r.mind.held.attempt
        pid = recorded.setdefault(attempt, r.pid)
        after = r._replace(mind=replace(r.mind, held=None), step="collect", n=attempt, pid=pid)
        return s.put(i, after, records=tuple(sorted(recorded.items())))

    def _search(self, s: State, i: int, r: Runner) -> Iterator[State]:
        """Look for a late record of the newest attempts and through the history."""
        held = r.mind.held
        if s.budget.searches:
            budget = s.budget._replace(searches=s.budget.searches - 1)
            yield s.put(i, r._replace(mind=r.mind.after_search("failed")), budget=budget)
        if s.budget.unsure:
            budget = s.budget._replace(unsure=s.budget.unsure - 1)
            doubtful = r.n if held is None else held.attempt if held.sent else held.takes_over or 0
            unsure = r._replace(mind=r.mind.after_search("unsure"))
            yield s.put(i, unsure, budget=budget, doubtful=max(s.doubtful, doubtful))
        known = dict(s.records)
        useless = s.letter[1] if s.letter else 0
        late = known.get(held.takes_over) if held and held.takes_over and not held.sent else None
        listed = [p for p in s.api if p.shown and p.pid != useless and not p.ended and s.now - p.born < WEEK]
        found = [late] if late else [p.pid for p in listed]
        for pid in found[-1:]:
            yield s.put(i, _with_prediction(r, pid))
        if late or any(s.prediction(pid).good for pid in found):
            return
        if held and held.sent and any(one.owner == i for one in s.flying):
            return  # it looks until its own lost request can no longer take effect
        ended = tuple(p._replace(ended=not p.good) for p in s.api)
        yield s.put(i, r._replace(mind=r.mind.after_search("over")), api=ended)

    def _post(self, s: State, i: int, r: Runner) -> State:
        held = r.mind.held
        assert held
        if s.now - r.since >= HALF and rules.leave_a_stale_claim in self._rules:
            return s.put(i, r)  # the client checks this once more, at the last moment
        flying = Flying(i, s.now, self.kinds[i] == "retry_failed" and held.asked)
        broken = "settling submitted" if self.kinds[i] == "settle" else ""
        if r.mind.unanswered >= rules.MAX_ATTEMPTS:
            broken = "a fourth submission that is not answered"
        if sum(not p.good for p in s.api) >= rules.MAX_ATTEMPTS * (1 + self.kinds.count("retry_failed")):
            broken = "more than three predictions"
        after = r._replace(mind=r.mind.with_post_sent(), step="posting", sent=s.now, answer="")
        return s.put(i, after, flying=(*s.flying, flying), posts=s.posts + 1, broken=broken)

    def _answered(self, s: State, i: int, r: Runner) -> Iterator[State]:
        again = r._replace(step="look", answer="", pid=0)
        match r.answer:
            case "id":  # recorded at once, without another look
                mind = r.mind.with_prediction()
                move = rules.next_move(self._seen(s, i, 0), _aged(mind, s.now - r.since), self._rules)
                yield s.put(i, r._replace(mind=mind, step="act", move=move, answer=""))
                if not self.ids_in_refusals_count:
                    yield self._given_back(s, i, r)
            case "refused":
                yield self._given_back(s, i, r)
            case _:  # dropped, timed out, or answered 5xx, at any time
                yield s.put(i, again)

    def _given_back(self, s: State, i: int, r: Runner) -> State:
        """The claim is removed, whosever it is by now; the runner begins again."""
        if s.now - r.since >= HALF:  # found out at the last moment
            return s.put(i, _fresh(self.kinds[i]))
        return _without_claim(s, r).put(i, _fresh(self.kinds[i]))

    # -- collecting -----------------------------------------------------------------------------

    def _collect(self, s: State, i: int, r: Runner) -> Iterator[State]:
        """Poll the prediction, store what came of it."""
        prediction = s.prediction(r.pid)
        if s.done:
            yield s.put(i, r._replace(step="closing"))
        elif prediction.good and prediction.shown:
            yield s.put(i, r._replace(step="closing"), done=True)
        elif prediction.good or r.last:  # good: the API forgot it
            yield _bury(s, i, r, r.n, r.pid)
        elif self.kinds[i] == "settle":
            yield s.put(i, r._replace(step="ended"))
        else:
            ended = tuple(p._replace(ended=True) if p.pid == r.pid else p for p in s.api)
            after = r._replace(mind=r.mind.after_failure(r.n), step="look", n=0, pid=0)
            yield s.put(i, after, api=ended)


def _fresh(kind: Kind) -> Runner:
    return Runner(
        rules.Runner(half_lease=float(HALF), may_submit=kind != "settle", retry_failed=kind == "retry_failed")
    )


def _without_claim(s: State, r: Runner) -> State:
    """The claim that a runner holds is removed, while it is young."""
    if r.mind.held is None or s.now - r.since >= HALF:
        return s
    return s._replace(claims=tuple(claim for claim in s.claims if claim[0] != r.mind.held.attempt))


def _aged(mind: rules.Runner, ticks: int) -> rules.Runner:
    return replace(mind, held=replace(mind.held, age=float(ticks))) if mind.held else mind


def _buried(s: State) -> str:
    """Whether all is over and a picture that was paid for is lost behind a dead letter."""
    if s.letter is None or s.done or any(r.step != "ended" for r in s.runners):
        return ""
    over = not any(n > s.letter[0] for n, _ in s.claims)  # of a later one, settling would find it
    return "paid and buried" if over and any(s.counts(p) and not p.was_lost for p in s.api) else ""


def _seconds(ticks: int) -> float:
    return HISTORY_SECONDS if ticks >= WEEK else float(ticks)


def _take_effect(s: State, flying: Flying, born: int) -> Iterator[State]:
    """The API acts on a request, or never does."""
    rest = tuple(one for one in s.flying if one != flying)
    r = s.runners[flying.owner]
    waits = r.step == "posting" and not r.answer and r.sent == flying.sent
    if s.now - flying.sent <= POST:
        for good in (True, False) if s.budget.failures else (True,):
            pid = len(s.api) + 1
            second = good and not flying.excused and any(s.counts(p) for p in s.api)
            created = s._replace(
                api=(*s.api, Prediction(pid, good, flying.excused, born=born)),
                flying=rest,
                budget=s.budget._replace(failures=s.budget.failures - (not good)),
                broken="billed twice" if second else s.broken,
            )
            yield created  # and its answer is lost
            if waits:
                yield created.put(flying.owner, r._replace(answer="id", pid=pid))
    if waits and s.budget.refusals and s.now - flying.sent <= POST:
        budget = s.budget._replace(refusals=s.budget.refusals - 1)
        refused = s.put(flying.owner, r._replace(answer="refused"), flying=rest, budget=budget)
        yield refused._replace(posts=s.posts - 1)
    yield s._replace(flying=rest)


def _with_prediction(r: Runner, pid: int) -> Runner:
    """The runner, with a prediction that was found: for its own claim, or for the newest one that it saw."""
    mind = r.mind if r.mind.held else r.mind.with_claim(r.n, None, 0.0)
    return r._replace(mind=mind.with_prediction(), pid=pid)


def _ask(s: State, i: int, r: Runner) -> State:
    old = s.prediction(s.letter[1]) if s.letter else None
    if old and old.good and old.shown:
        return s.put(i, r._replace(mind=r.mind.with_prediction(), pid=old.pid))
    return s.put(i, r._replace(mind=r.mind.with_old_prediction_asked()))


def _bury(s: State, i: int, r: Runner, attempt: int, pid: int, broken: str = "") -> State:
    """Write the dead letter, unless one of a later attempt is there."""
    old = s.letter or (0, 0, i)  # a letter keeps the prediction that an earlier one names
    letter = old if old[0] >= attempt else (attempt, pid or old[1], i)
    after = r._replace(mind=replace(r.mind, held=None), step="closing", move=None, n=letter[0])
    return s.put(i, after, letter=letter, broken=broken or s.broken)


def _close(s: State, i: int, r: Runner) -> Iterator[State]:
    """Claims and records of attempts up to ``n`` go one by one, in any order; a done job's letter as well."""
    claims = [claim for claim in s.claims if claim[0] <= r.n]
    records = [record for record in s.records if record[0] <= r.n]
    if not claims and not records:
        yield s.put(i, r._replace(step="ended", n=0), letter=None if s.done else s.letter)
    for gone in claims:
        yield s.put(i, r, claims=tuple(claim for claim in s.claims if claim != gone))
    for lost in records:
        yield s.put(i, r, records=tuple(record for record in s.records if record != lost))


def _way(parents: dict[State, State | None], state: State) -> list[State]:
    way: list[State] = [state._replace(broken=state.broken or _buried(state))]
    at = parents[state]
    while at is not None:
        way.insert(0, at)
        at = parents[at]
    return way


def main() -> int:
    """Explore with all rules, then with each one left out, and print what breaks."""
    from tests.test_ledger_model import MODELS, WITHOUT

    for model in MODELS:
        states, way = model.explore()
        print(f"{way[-1].broken if way else 'holds':8} {states:>9,} states  {model}", flush=True)
    for name, model in WITHOUT.items():
        states, way = model.explore()
        print(f"{name:35} {way[-1].broken if way else 'NOTHING':32} {states:>9,} states", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
