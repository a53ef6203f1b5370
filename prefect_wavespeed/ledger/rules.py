"""The rules of the ledger: what to do next about a job, decided by nothing but what is seen of it.

``next_move`` is pure: no clock, no store, no API. Submitting and settling look at a job, ask it, do what it
says, and look again. Each rule is one function below, and its docstring is the rule; the first rule that
applies decides. When none applies, a runner that holds a claim posts, and one that holds none claims the next
attempt.

They rest on a bound. A POST leaves only while its claim is younger than half the lease, and takes effect
within the submit timeout; half the lease plus the submit timeout is less than the lease (``settings`` refuses
anything else). So whatever was posted under a claim that is a lease old exists by then, or never will, and a
search finds it, or says that it cannot tell. Then nothing is sent until a person has found out.

Known limits:

- The history reaches back 7 days. What was lost before then and was never searched for is submitted again.
- Where nothing says what a prediction was asked for, its time decides whether it may be the job's, with the
  measured difference of the clocks of store and API allowed for.
- A process that stands still between its last check of the claim's age and the POST, for more than half the
  lease, posts too late. No check can help: nothing at the API takes an idempotency key.
- A prediction that the API forgets is noticed only while its attempt is the newest.
- A key of another account on the same output sees another history.

tests/ledger_model.py drives this very function through every interleaving of a few runners, and shows what
breaks when a rule is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from prefect_wavespeed.ledger.moves import (
    AskForOldPrediction,
    Claim,
    Done,
    Failed,
    GiveUp,
    Join,
    LeaveOpen,
    Move,
    NextAttempt,
    Post,
    Record,
    Search,
    Wait,
)

MAX_ATTEMPTS = 3
"""Attempts with a prediction before a job is given up; ``retry_failed`` allows as many again.

Also the submissions that one run sends without getting an answer, before it leaves the job to a later run.
"""

HISTORY_SECONDS = 7 * 24 * 3600.0
"""How long WaveSpeedAI's history remembers a prediction, in seconds (the vendor's contract)."""


HISTORY_MARGIN = 3600.0
"""Seconds before that time at which it is no longer relied on."""


# --- what is seen ---


@dataclass(frozen=True, slots=True)
class LetterState:
    """A dead letter, as far as it decides anything.

    Attributes:
        last_attempt: the attempt that failed for good; 0 when the job was given up before any.
        names_prediction: the letter names a prediction, which may still turn out well.
        from_this_run: the flow run that asks is the one that gave the job up.
    """

    last_attempt: int
    names_prediction: bool = False
    from_this_run: bool = False


@dataclass(frozen=True, slots=True)
class JobState:
    """What the ledger holds of a job at one look.

    Attributes:
        done: the side-car exists.
        letter: the dead letter, if there is one.
        claims: the age of each attempt's claim in seconds, by the store's clock, never too high.
        records: the attempts whose prediction is recorded.
        lease: seconds that the newest claim holds.
        ruled_out: the attempt up to which a person has found that nothing was submitted beyond the records.
        doubtful: the newest attempt of which a search could not tell whether it was submitted.
    """

    done: bool = False
    letter: LetterState | None = None
    claims: Mapping[int, float] = field(default_factory=dict)
    records: Collection[int] = ()
    lease: float = 0.0
    ruled_out: int = 0
    doubtful: int = 0

    @property
    def latest(self) -> int:
        """The newest attempt; 0 when there is none."""
        return max((*self.claims, *self.records), default=0)


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """A claim that the runner made in this call.

    Attributes:
        attempt: its number.
        age: seconds since it was made, by the runner's own clocks, never too low.
        takes_over: the abandoned attempt before it, if there is one.
        old_lease: seconds that the abandoned claim holds.
        sent: a POST has left, and its answer did not rule out that a prediction exists.
        has_prediction: its prediction is known: the API answered with an id, or a search found it.
        asked: the API was asked for the prediction that the dead letter names, and has nothing to offer.
    """

    attempt: int
    age: float = 0.0
    takes_over: int | None = None
    old_lease: float = 0.0
    sent: bool = False
    has_prediction: bool = False
    asked: bool = False


SearchState = Literal["not yet", "over", "failed", "unsure"]
"""How far the search for a lost submission is.

Over: there surely is none beyond what is known. Failed: the API could not be asked. Unsure: there are
predictions that may be the job's, and the API does not say what they were asked for.
"""

_NOT_SURE = ("failed", "unsure")


@dataclass(frozen=True, slots=True)
class Runner:
    """What a runner knows beside the ledger, and what it may do.

    Attributes:
        half_lease: seconds for which a claim of its own allows a POST.
        may_submit: False for settling, which never submits.
        retry_failed: it may go on where the job has failed for good.
        forgiven: the last attempt of a dead letter that it may go on from; 0 for none. See ``begin``.
        failed: the attempt whose prediction it knows to have failed in a way that allows another.
        spent: an attempt of its own that can no longer get a prediction, so it need not be waited for.
        unanswered: its own submissions that were not answered and created nothing.
        held: its claim.
        search: how far its search of the history is.
    """

    half_lease: float
    may_submit: bool = True
    retry_failed: bool = False
    forgiven: int = 0
    failed: int = 0
    spent: int = 0
    unanswered: int = 0
    held: HeldClaim | None = None
    search: SearchState = "not yet"

    def with_claim(self, attempt: int, takes_over: int | None, old_lease: float) -> Runner:
        """After creating a claim."""
        held = HeldClaim(attempt, takes_over=takes_over, old_lease=old_lease)
        return replace(self, held=held, search="not yet")

    def with_post_sent(self) -> Runner:
        """From the moment a POST may leave: what an earlier search found says nothing about it."""
        return replace(self._holding(sent=True), search="not yet")

    def with_prediction(self) -> Runner:
        """Once the prediction of the held claim is known."""
        return replace(self._holding(has_prediction=True), search="over")

    def with_old_prediction_asked(self) -> Runner:
        """Once the API had nothing to offer for the dead letter's prediction."""
        return self._holding(asked=True)

    def after_search(self, search: SearchState) -> Runner:
        """After a search that found no prediction, failed, or could not tell."""
        return replace(self, search=search)

    def after_attempt(self) -> Runner:
        """Once the held claim can no longer get a prediction."""
        held = self.held
        return replace(
            self,
            spent=held.attempt if held else self.spent,
            unanswered=self.unanswered + bool(held and held.sent),
            held=None,
            search="not yet",
        )

    def after_failure(self, attempt: int) -> Runner:
        """Once the prediction of an attempt has failed in a way that allows another."""
        return replace(self, failed=attempt, held=None, search="not yet")

    def _holding(self, **changes: bool) -> Runner:
        return replace(self, held=replace(self.held, **changes)) if self.held else self


# --- what to do ---

Rule = Callable[[JobState, Runner], Move | None]


def begin(state: JobState, runner: Runner) -> Runner:
    """Decide at the first look whether a dead letter is forgiven.

    A letter is forgiven when another runner has gone on beyond it and submitted, or when this runner has
    ``retry_failed``. Each run goes on once, however often it is retried: a letter of its own ends it.

    Returns:
        The runner, with ``forgiven`` set.
    """
    letter = state.letter
    if letter is None:
        return runner
    last, latest = letter.last_attempt, state.latest
    if latest > last and (latest in state.records or not runner.may_submit):
        return replace(runner, forgiven=last)
    has_gone_on = 0 < runner.failed <= last or letter.from_this_run
    return replace(runner, forgiven=last if runner.retry_failed and not has_gone_on else 0)


def next_move(state: JobState, runner: Runner, rules: tuple[Rule, ...] | None = None) -> Move:
    """What to do next.

    Args:
        state: what the ledger holds.
        runner: who asks.
        rules: those to go by; all of them by default. Only the model leaves any out.
    """
    for rule in RULES if rules is None else rules:
        if move := rule(state, runner):
            return move
    if runner.held:
        return Post()
    return Claim(_newest(state, runner) + 1, takes_over=_abandoned(state, runner))


def is_last(state: JobState, attempt: int, forgiven: int) -> bool:
    """Whether a job is given up when the prediction of this attempt fails.

    Only attempts with a prediction count: what was never submitted says nothing against the job.
    """
    return len({n for n in (*state.records, attempt) if forgiven < n <= attempt}) >= MAX_ATTEMPTS


def can_be_ruled_out(state: JobState) -> bool:
    """Whether a person may say that nothing was submitted: once nothing can be any more.

    The newest attempt has no record, and its claim is a lease old: whatever was posted under it has taken
    effect by then.
    """
    latest = state.latest
    return latest not in state.records and latest in state.claims and state.claims[latest] >= state.lease


# --- the rules, in the order in which they decide ---


def record_the_prediction(_: JobState, runner: Runner) -> Move | None:
    """A prediction that is known is recorded before anything else, whatever came with its id."""
    return Record() if runner.held and runner.held.has_prediction else None


def search_for_a_lost_answer(_: JobState, runner: Runner) -> Move | None:
    """After a POST whose answer leaves doubt, the history is searched before anything else is done."""
    if runner.held is None or not runner.held.sent or runner.search in _NOT_SURE:
        return None
    return Search() if runner.search == "not yet" else NextAttempt()


def return_what_is_done(state: JobState, _: Runner) -> Move | None:
    """A job that has its side-car is done: nothing is sent."""
    return Done() if state.done else None


def send_nothing_unless_sure(_: JobState, runner: Runner) -> Move | None:
    """When a search fails or cannot tell, nothing is sent, and the job stays open."""
    if runner.search not in _NOT_SURE:
        return None
    return LeaveOpen("unsure" if runner.search == "unsure" else "unknown")


def end_with_the_dead_letter(state: JobState, runner: Runner) -> Move | None:
    """A job that has failed for good stays failed, unless this runner may go on beyond it.

    A letter from before any attempt stops nobody who has begun one.
    """
    letter = state.letter
    if letter is None:
        return None
    untouched = not (state.latest or runner.failed or runner.retry_failed)
    if letter.last_attempt > runner.forgiven or (letter.last_attempt == 0 and untouched):
        return Failed()
    return None


def join_the_recorded_prediction(state: JobState, runner: Runner) -> Move | None:
    """An attempt whose prediction is recorded is joined, unless that prediction is known to have failed."""
    latest = state.latest
    return Join(latest) if latest in state.records and latest > max(runner.forgiven, runner.failed) else None


def leave_a_job_in_doubt(state: JobState, runner: Runner) -> Move | None:
    """A job in doubt that the history has forgotten is left to a person: no search can tell any more."""
    doubtful = state.doubtful
    is_over = doubtful <= max(state.ruled_out, runner.forgiven, runner.failed)
    if is_over or any(attempt >= doubtful for attempt in state.records):
        return None
    is_forgotten = state.claims.get(doubtful, 0.0) >= HISTORY_SECONDS - HISTORY_MARGIN
    return LeaveOpen("unsure") if is_forgotten else None


def outwait_the_abandoned_claim(state: JobState, runner: Runner) -> Move | None:
    """Who takes over waits until the abandoned claim is a lease old, by the store's times of both claims."""
    held = runner.held
    old = state.claims.get(held.takes_over) if held and held.takes_over else None
    new = state.claims.get(held.attempt) if held else None
    if held is None or old is None or new is None:
        return None
    older_by = old - new
    seconds = held.old_lease - older_by - held.age
    return Wait(seconds) if seconds > 0 else None


def search_after_taking_over(_: JobState, runner: Runner) -> Move | None:
    """Who takes over first searches for what the abandoned attempt may have created."""
    held = runner.held
    return Search() if held and held.takes_over is not None and runner.search == "not yet" else None


def leave_a_stale_claim(state: JobState, runner: Runner) -> Move | None:
    """Only the owner of the newest claim posts, and only while that claim is younger than half the lease."""
    held = runner.held
    if held is None:
        return None
    is_newest = held.attempt == state.latest and held.attempt in state.claims
    return None if is_newest and held.age < runner.half_lease else NextAttempt()


def ask_for_the_old_prediction(state: JobState, runner: Runner) -> Move | None:
    """Who goes on from a dead letter first asks whether its prediction has turned out well after all."""
    held, letter = runner.held, state.letter
    return AskForOldPrediction() if held and letter and letter.names_prediction and not held.asked else None


def leave_a_young_claim(state: JobState, runner: Runner) -> Move | None:
    """A claim without a prediction belongs to its owner until it is a lease old."""
    abandoned = None if runner.held else _abandoned(state, runner)
    return Wait() if abandoned and state.claims[abandoned] < state.lease else None


def search_before_giving_up(state: JobState, runner: Runner) -> Move | None:
    """Before a job is given up or left to a runner, its newest attempt's prediction is searched for."""
    newest = _newest(state, runner)
    if runner.held or runner.search != "not yet" or newest not in state.claims or newest in state.records:
        return None
    ends_here = _has_failed(state, runner) or not runner.may_submit
    return Search() if ends_here and newest > max(runner.forgiven, state.ruled_out) else None


def leave_it_to_a_runner(state: JobState, runner: Runner) -> Move | None:
    """Settling submits nothing. It gives up a claim without a prediction that is older than the history."""
    if runner.may_submit:
        return None
    latest = state.latest
    forgotten = state.claims.get(latest, 0.0) >= HISTORY_SECONDS and latest > state.ruled_out
    return GiveUp(latest, "never_submitted") if forgotten else LeaveOpen("unsubmitted")


def stop_after_three_failures(state: JobState, runner: Runner) -> Move | None:
    """Three predictions that failed, and the job is given up."""
    if runner.held or not _has_failed(state, runner):
        return None
    return GiveUp(_newest(state, runner), "attempts_used_up")


def stop_while_nothing_is_answered(_: JobState, runner: Runner) -> Move | None:
    """A run whose submissions are not answered leaves the job open after three: the API is down."""
    if runner.held or runner.unanswered < MAX_ATTEMPTS:
        return None
    return LeaveOpen("unanswered")


RULES: tuple[Rule, ...] = (
    record_the_prediction,
    search_for_a_lost_answer,
    return_what_is_done,
    send_nothing_unless_sure,
    end_with_the_dead_letter,
    join_the_recorded_prediction,
    leave_a_job_in_doubt,
    outwait_the_abandoned_claim,
    search_after_taking_over,
    leave_a_stale_claim,
    ask_for_the_old_prediction,
    leave_a_young_claim,
    search_before_giving_up,
    leave_it_to_a_runner,
    stop_after_three_failures,
    stop_while_nothing_is_answered,
)


def _newest(state: JobState, runner: Runner) -> int:
    """The newest attempt that anybody knows of."""
    return max(state.latest, runner.forgiven, runner.failed)


def _has_failed(state: JobState, runner: Runner) -> bool:
    """Whether as many predictions have failed as may."""
    failed = {n for n in state.records if n > runner.forgiven}
    return len(failed) >= MAX_ATTEMPTS


def _abandoned(state: JobState, runner: Runner) -> int | None:
    """The newest attempt, if it is a claim without a prediction: abandoned, once it is a lease old."""
    newest = _newest(state, runner)
    unanswered = newest in state.claims and newest not in state.records
    over = max(runner.forgiven, runner.spent, state.ruled_out)
    return newest if unanswered and newest > over else None
