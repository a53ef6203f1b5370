"""The rules of the ledger, one by one: what is seen, and what to do next. Nothing runs, nothing waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

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
from prefect_wavespeed.ledger.rules import (
    HISTORY_SECONDS,
    JobState,
    LetterState,
    Runner,
    begin,
    can_be_ruled_out,
    is_last,
    next_move,
)

LEASE = 150.0
OLD, YOUNG, STALE = LEASE + 1, 10.0, 80.0


def seen(claims: Mapping[int, float] | None = None, *records: int, **more: Any) -> JobState:
    return JobState(claims=claims or {}, records=records, lease=LEASE, **more)


def runner(**more: Any) -> Runner:
    return Runner(half_lease=LEASE / 2, **more)


def holding(attempt: int = 1, takes_over: int | None = None, **more: Any) -> Runner:
    return runner(**more).with_claim(attempt, takes_over, LEASE)


def aged(who: Runner, age: float) -> Runner:
    assert who.held
    return replace(who, held=replace(who.held, age=age))


CASES: dict[str, tuple[JobState, Runner, Move]] = {
    "a new job is claimed": (seen(), runner(), Claim(1)),
    "a claim of one's own is posted under": (seen({1: 0.0}), holding(), Post()),
    "an answer is recorded first, even if the job is done": (
        seen({1: 0.0}, done=True),
        holding().with_post_sent().with_prediction(),
        Record(),
    ),
    "a job that is done is returned": (seen({1: YOUNG}, done=True), runner(), Done()),
    "a lost answer is searched for": (seen({1: 0.0}), holding().with_post_sent(), Search()),
    "what an earlier search found says nothing of a later POST": (
        seen({1: OLD, 2: 0.0}),
        holding(2, 1).after_search("over").with_post_sent(),
        Search(),
    ),
    "an answer that is lost for good leads to the next attempt": (
        seen({1: 0.0}),
        holding().with_post_sent().after_search("over"),
        NextAttempt(),
    ),
    "the next attempt does not wait for the runner's own earlier one": (
        seen({1: YOUNG}),
        holding().with_post_sent().after_attempt(),
        Claim(2),
    ),
    "a failed search after a POST leaves the job open": (
        seen({1: 0.0}),
        holding().with_post_sent().after_search("failed"),
        LeaveOpen("unknown"),
    ),
    "a failed search before a POST leaves the job open": (
        seen({1: OLD, 2: 0.0}),
        holding(2, 1).after_search("failed"),
        LeaveOpen("unknown"),
    ),
    "an old claim is not given back": (
        seen({1: OLD, 2: STALE}),
        aged(holding(2, 1), STALE).after_search("failed"),
        LeaveOpen("unknown"),
    ),
    "a search that cannot tell after a POST leaves the job open": (
        seen({1: 0.0}),
        holding().with_post_sent().after_search("unsure"),
        LeaveOpen("unsure"),
    ),
    "a search that cannot tell before a POST leaves the job open": (
        seen({1: OLD, 2: 0.0}),
        holding(2, 1).after_search("unsure"),
        LeaveOpen("unsure"),
    ),
    "a job in doubt is not given up": (seen({3: OLD}), runner().after_search("unsure"), LeaveOpen("unsure")),
    "what a person has ruled out is not taken over": (seen({1: OLD}, ruled_out=1), runner(), Claim(2)),
    "a claim after what a person has ruled out is": (
        seen({1: OLD, 2: OLD}, ruled_out=1),
        runner(),
        Claim(3, takes_over=2),
    ),
    "a job in doubt that the history has forgotten is left to a person": (
        seen({1: HISTORY_SECONDS - 3000}, doubtful=1),
        runner(),
        LeaveOpen("unsure"),
    ),
    "also by settling": (
        seen({1: HISTORY_SECONDS + 1}, doubtful=1),
        runner(may_submit=False),
        LeaveOpen("unsure"),
    ),
    "until then it is searched for": (seen({1: OLD}, doubtful=1), runner(), Claim(2, takes_over=1)),
    "a person has decided about a job that was in doubt": (
        seen({1: HISTORY_SECONDS + 1}, doubtful=1, ruled_out=1),
        runner(),
        Claim(2),
    ),
    "settling never gives up what a person has ruled out": (
        seen({1: HISTORY_SECONDS + 1}, ruled_out=1),
        runner(may_submit=False),
        LeaveOpen("unsubmitted"),
    ),
    "settling leaves to a runner what a person has ruled out": (
        seen({1: OLD}, ruled_out=1),
        runner(may_submit=False),
        LeaveOpen("unsubmitted"),
    ),
    "a recorded prediction is joined": (seen({1: OLD}, 1), runner(), Join(1)),
    "a prediction that failed is followed by the next attempt": (
        seen({1: OLD}, 1),
        runner().after_failure(1),
        Claim(2),
    ),
    "another runner's young claim is waited for": (seen({1: YOUNG}), runner(), Wait()),
    "an abandoned claim is taken over": (seen({1: OLD}), runner(), Claim(2, takes_over=1)),
    "who takes over waits until the old claim is a lease older": (
        seen({1: 100.0, 2: 0.0}),
        holding(2, 1),
        Wait(50.0),
    ),
    "who takes over searches": (seen({1: OLD, 2: 0.0}), holding(2, 1), Search()),
    "who takes over searches even when its own claim is too old": (
        seen({1: OLD + STALE, 2: STALE}),
        aged(holding(2, 1), STALE),
        Search(),
    ),
    "a claim that is too old is left": (seen({1: STALE}), aged(holding(), STALE), NextAttempt()),
    "a claim that is not the newest is left": (seen({1: 5.0, 2: 0.0}), holding(), NextAttempt()),
    "a claim that is gone is left": (seen(), holding(), NextAttempt()),
    "three failures are enough": (
        seen({3: OLD}, 1, 2, 3),
        runner().after_failure(3),
        GiveUp(3, "attempts_used_up"),
    ),
    "what was claimed after three failures is searched for first": (
        seen({4: OLD}, 1, 2, 3),
        runner(),
        Search(),
    ),
    "claims that came to nothing are no failures": (seen({3: OLD}), runner(), Claim(4, takes_over=3)),
    "a run whose submissions are not answered leaves the job open": (
        seen({1: YOUNG, 2: YOUNG, 3: YOUNG}),
        runner(unanswered=3, spent=3),
        LeaveOpen("unanswered"),
    ),
    "settling takes nothing over": (seen({1: OLD}), runner(may_submit=False), Search()),
    "settling submits nothing": (
        seen({1: OLD}),
        runner(may_submit=False).after_search("over"),
        LeaveOpen("unsubmitted"),
    ),
    "settling gives up what the history has forgotten": (
        seen({1: HISTORY_SECONDS}),
        runner(may_submit=False).after_search("over"),
        GiveUp(1, "never_submitted"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_seen_decides_what_is_done(case: str) -> None:
    state, who, move = CASES[case]
    assert next_move(state, who) == move


LETTERS: dict[str, tuple[JobState, Runner, Move]] = {
    "a dead letter ends a run": (seen(letter=LetterState(1)), runner(), Failed()),
    "with retry_failed a runner goes on with a new number": (
        seen(letter=LetterState(3)),
        runner(retry_failed=True),
        Claim(4),
    ),
    "a run goes on once": (
        seen(letter=LetterState(1, from_this_run=True)),
        runner(retry_failed=True),
        Failed(),
    ),
    "a run that has failed the attempt itself does not go on": (
        seen(letter=LetterState(1)),
        runner(retry_failed=True, failed=1),
        Failed(),
    ),
    "a submission beyond the letter is joined by everybody": (
        seen({2: OLD}, 2, letter=LetterState(1)),
        runner(),
        Join(2),
    ),
    "a claim beyond the letter is not": (seen({2: YOUNG}, letter=LetterState(1)), runner(), Failed()),
    "settling finishes what is beyond the letter": (
        seen({2: OLD}, letter=LetterState(1)),
        runner(may_submit=False),
        Search(),
    ),
    "a letter from before any attempt ends who has begun none": (
        seen(letter=LetterState(0)),
        runner(),
        Failed(),
    ),
    "a letter from before any attempt stops nobody who has": (
        seen({1: OLD}, 1, letter=LetterState(0)),
        runner(),
        Join(1),
    ),
}


@pytest.mark.parametrize("case", LETTERS)
def test_a_dead_letter_is_forgiven_or_not_at_the_first_look(case: str) -> None:
    state, who, move = LETTERS[case]
    assert next_move(state, begin(state, who)) == move


def test_the_letters_prediction_is_asked_for_before_anything_is_sent() -> None:
    letter = LetterState(1, names_prediction=True)
    who = begin(seen(letter=letter), runner(retry_failed=True)).with_claim(2, None, LEASE)
    state = seen({2: 0.0}, letter=letter)
    assert next_move(state, who) == AskForOldPrediction()
    assert next_move(state, who.with_old_prediction_asked()) == Post()
    assert next_move(state, who.with_prediction()) == Record()


def test_a_person_may_rule_out_only_what_can_no_longer_be_submitted() -> None:
    assert can_be_ruled_out(seen({1: OLD}))
    assert not can_be_ruled_out(seen({1: YOUNG})), "its runner may be about to submit it"
    assert not can_be_ruled_out(seen({1: OLD, 2: STALE})), "the newest claim counts"
    assert not can_be_ruled_out(seen({1: OLD}, 1)), "it is submitted"
    assert not can_be_ruled_out(seen()), "there is nothing to rule out"


def test_attempts_are_counted_from_the_letter_that_was_forgiven() -> None:
    recorded = seen({}, 1, 2, 3, 4, 5)
    assert [is_last(recorded, attempt, 0) for attempt in (1, 2, 3)] == [False, False, True]
    assert [is_last(recorded, attempt, 3) for attempt in (4, 5, 6)] == [False, False, True]


def test_only_attempts_with_a_prediction_count() -> None:
    assert not is_last(seen({1: OLD, 2: OLD, 3: OLD}), 4, 0)
    assert not is_last(seen({1: OLD, 2: OLD, 3: OLD, 4: OLD}, 2), 4, 0)
    assert is_last(seen({1: OLD, 2: OLD, 3: OLD, 4: OLD}, 2, 3), 4, 0)
