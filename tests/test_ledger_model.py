"""The rules of the ledger, in every order in which things can happen to a few processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefect_wavespeed.ledger import rules
from prefect_wavespeed.ledger.rules import Rule
from tests.ledger_model import Budget, Model

MODELS = [
    Model(("run", "run"), 2, Budget()),
    Model(("run",), 3, Budget(unsure=1, verdicts=1)),
    Model(("run", "run"), 1, Budget(listings=2)),
]
"""Small enough for every run of the tests."""

LARGER = [
    Model(("run",), 3, Budget(crashes=1, searches=1, refusals=1)),
    Model(("retry_failed",), 3, Budget(losses=1, crashes=1)),
    Model(("run", "settle"), 2, Budget(crashes=1)),
    Model(("run",), 3, Budget(crashes=1, failures=1)),
    Model(("run", "settle"), 2, Budget(crashes=1, failures=1)),
    Model(("run", "settle"), 3, Budget(failures=1)),
    Model(("run", "settle"), 3, Budget(crashes=1)),
    Model(("run", "settle"), 4, Budget(), most_posts=2),
    Model(("run",), 3, Budget(crashes=2, failures=1)),
    Model(("run",), 4, Budget(crashes=1, searches=1, refusals=1)),
    Model(("run", "run"), 3, Budget()),
    Model(("run", "run"), 3, Budget(crashes=1), most_posts=2),
    Model(("run", "run"), 2, Budget(searches=1)),
    Model(("run", "run"), 2, Budget(refusals=1)),
    Model(("run", "run"), 2, Budget(fast_clocks=1), most_posts=2),
    Model(("run", "retry_failed"), 2, Budget(losses=1)),
    Model(("settle", "retry_failed"), 3, Budget(losses=1, crashes=1), most_posts=2),
    Model(("run",), 3, Budget(crashes=1, unsure=1, verdicts=1)),
    Model(("run", "run"), 2, Budget(unsure=1, verdicts=1), most_posts=2),
    Model(("run", "run"), 2, Budget(listings=2)),
    Model(("run", "run"), 3, Budget(crashes=1, listings=1), most_posts=2),
    Model(("run",), 3, Budget(crashes=1, failures=1, listings=1)),
    Model(("run", "settle"), 2, Budget(failures=1, listings=1)),
    Model(("retry_failed",), 3, Budget(losses=1, crashes=1, listings=2)),
    Model(("run", "retry_failed"), 2, Budget(losses=1, listings=1)),
]

_BREAKS_IN: dict[Rule, Model] = {
    rules.record_the_prediction: Model(("run",), 1, Budget()),
    rules.search_for_a_lost_answer: Model(("run",), 1, Budget()),
    rules.return_what_is_done: Model(("run", "run"), 0, Budget()),
    rules.send_nothing_unless_sure: Model(("run",), 1, Budget(searches=1)),
    rules.end_with_the_dead_letter: Model(("run", "run"), 0, Budget(losses=1)),
    rules.join_the_recorded_prediction: Model(("run", "run"), 0, Budget()),
    rules.leave_a_job_in_doubt: Model(("run",), 4, Budget(unsure=1)),
    rules.outwait_the_abandoned_claim: Model(("run", "run"), 2, Budget(fast_clocks=1)),
    rules.search_after_taking_over: Model(("run",), 2, Budget(crashes=1)),
    rules.leave_a_stale_claim: Model(("run", "run"), 3, Budget()),
    rules.ask_for_the_old_prediction: Model(("run", "retry_failed"), 0, Budget(losses=1)),
    rules.leave_a_young_claim: Model(("run", "run"), 2, Budget()),
    rules.search_before_giving_up: Model(("run", "settle"), 4, Budget(crashes=1)),
    rules.leave_it_to_a_runner: Model(("run", "settle"), 2, Budget()),
    rules.stop_after_three_failures: Model(("run", "settle"), 2, Budget(failures=3), most_posts=4),
    rules.stop_while_nothing_is_answered: Model(("run",), 1, Budget(), most_posts=4),
}

WITHOUT = {rule.__name__: replace(_BREAKS_IN[rule], without=rule) for rule in rules.RULES} | {
    "ids in refusals": Model(("run",), 1, Budget(), ids_in_refusals_count=False),
    "a person waits for the lease": Model(("run",), 2, Budget(unsure=1, verdicts=1), persons_wait=False),
}
"""A world in which leaving a rule out does harm."""


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_no_interleaving_bills_a_picture_twice_or_buries_a_job_that_was_paid_or_never_tried(
    model: Model,
) -> None:
    states, way = model.explore()
    assert way == []
    assert states > 10_000


@pytest.mark.e2e
@pytest.mark.parametrize("model", LARGER, ids=str)
def test_nor_does_any_of_many_more_states(model: Model) -> None:
    states, way = model.explore()
    assert way == []
    assert states > 20_000


BREAKS = dict.fromkeys(WITHOUT, "billed twice") | {
    "leave_a_young_claim": "a young claim is taken over",
    "search_before_giving_up": "paid and buried",
    "leave_it_to_a_runner": "settling submitted",
    "stop_after_three_failures": "more than three predictions",
    "stop_while_nothing_is_answered": "a fourth submission that is not answered",
}


_SLOW = {"stop_after_three_failures"}  # it takes a quarter of the time of all of them


@pytest.mark.parametrize(
    "left_out", [pytest.param(name, marks=[pytest.mark.e2e] if name in _SLOW else []) for name in WITHOUT]
)
def test_each_rule_is_needed(left_out: str) -> None:
    _, way = WITHOUT[left_out].explore()
    assert way, f"without {left_out} nothing breaks"
    assert way[-1].broken == BREAKS[left_out]
