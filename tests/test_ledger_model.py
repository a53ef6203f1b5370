"""The rules of the ledger, in every order in which things can happen to a few processes."""

from __future__ import annotations

import pytest

from tests.ledger_model import Model

CASES = [
    Model(horizon=3, runners=1, settlers=1, crashes=1, fails=0),
    Model(horizon=3, runners=1, settlers=1, crashes=0, fails=1),
]


@pytest.mark.e2e
@pytest.mark.parametrize("model", CASES, ids=str)
def test_no_interleaving_of_runners_and_settlers_bills_a_picture_twice(model: Model) -> None:
    states, way = model.explore()
    assert way == []
    assert states > 1_000


@pytest.mark.e2e
def test_a_settler_that_removed_old_claims_would_have_a_picture_billed_twice() -> None:
    _, way = Model(horizon=4, runners=2, settlers=1, crashes=0, fails=0, careless=True).explore()
    assert sum(one.ok for one in way[-1].api) == 2


@pytest.mark.e2e
@pytest.mark.parametrize(
    "model",
    [
        Model(horizon=4, runners=1, settlers=2, crashes=0, fails=0),
        Model(horizon=4, runners=1, settlers=1, crashes=1, fails=1),
        Model(horizon=4, runners=2, settlers=1, crashes=0, fails=0),
    ],
    ids=str,
)
def test_nor_does_any_of_many_more_states(model: Model) -> None:
    states, way = model.explore()
    assert way == []
    assert states > 100_000
