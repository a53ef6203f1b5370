"""What `costs` finds out: sums of the side-cars, and how they differ from the billing."""

from __future__ import annotations

from datetime import datetime
from math import isclose
from typing import Literal

from pydantic import BaseModel, Field

MAX_ITEMS = 1_000
"""Runs, and differences of each kind, that are listed; the rest are only counted and summed."""

Owner = Literal["open", "failed", "earlier attempt", "not of this output"]
"""What a billed prediction without a side-car belongs to."""


class Sum(BaseModel):
    """Jobs, and what they cost according to their side-cars."""

    jobs: int = 0
    pictures: int = 0
    usd: float = Field(default=0.0, description="As recorded; jobs without a recorded price count as 0.")

    def add(self, pictures: int, usd: float | None) -> None:
        """Add a job."""
        self.jobs += 1
        self.pictures += pictures
        self.usd = rounded(self.usd + (usd or 0.0))


class RunSum(Sum):
    """The stored jobs that one flow run submitted and paid for, whichever run stored them."""

    flow_run_name: str | None
    flow_run_id: str | None


class Difference(BaseModel):
    """A prediction on which side-cars and billing disagree."""

    prediction_id: str
    recorded_usd: float | None = Field(default=None, description="None where no price was recorded.")
    billed_usd: float | None = None
    belongs_to: Owner | None = Field(default=None, description="For a prediction without a side-car.")


class Differences(BaseModel):
    """Differences of one kind."""

    predictions: int = 0
    usd: float = Field(default=0.0, description="Their sum.")
    items: list[Difference] = Field(default_factory=list, description=f"The first {MAX_ITEMS}.")

    def add(self, difference: Difference, usd: float) -> None:
        """Add one."""
        self.predictions += 1
        self.usd = rounded(self.usd + usd)
        if len(self.items) < MAX_ITEMS:
            self.items.append(difference)


class Undelivered(Differences):
    """Predictions with fewer pictures than asked for; ``recorded_usd`` is the share of those missing."""

    pictures: int = Field(default=0, description="That are missing.")

    def add_missing(self, prediction_id: str, asked: int, came: int, usd: float | None) -> None:
        """Add a prediction, if any of its pictures are missing.

        Args:
            prediction_id: of the prediction.
            asked, came: numbers of pictures.
            usd: what all of them cost; None where that is not known.
        """
        if came >= asked:
            return
        self.pictures += asked - came
        share = None if usd is None else rounded(usd * (asked - came) / asked)
        self.add(Difference(prediction_id=prediction_id, recorded_usd=share), share or 0.0)


class CostReport(BaseModel):
    """What an output has cost."""

    since: datetime | None = Field(description="Only what was stored or billed from then on.")
    total: Sum = Field(default_factory=Sum)
    days: dict[str, Sum] = Field(
        default_factory=dict, description="By the UTC day on which the pictures were stored."
    )
    runs: list[RunSum] = Field(
        default_factory=list, description=f"By the run that submitted them: the {MAX_ITEMS} most expensive."
    )
    runs_left_out: int = 0
    unpriced: int = Field(default=0, description="Jobs whose price was unknown when they were submitted.")
    unreadable: int = Field(default=0, description="Side-cars of another version; they are in no sum.")
    unreadable_billings: int = Field(
        default=0, description="Billing records without a price that can be read; they are in no sum."
    )

    undelivered: Undelivered = Field(
        default_factory=Undelivered,
        description="Paid for and not delivered: missing pictures, and their share of the recorded price.",
    )

    billed_usd: float = Field(default=0.0, description="Billed for this output's predictions, minus refunds.")
    agreed: int = Field(default=0, description="Predictions that were billed as recorded.")
    differ: Differences = Field(
        default_factory=Differences, description="Billed differently; the sum is billed minus recorded."
    )
    unbilled: Differences = Field(default_factory=Differences, description="Recorded but not billed.")
    refunded: Differences = Field(
        default_factory=Differences, description="Refunded, or billed as 0; the sum is what was recorded."
    )
    without_side_car: dict[Owner, Differences] = Field(
        default_factory=dict, description="Billed, and in no side-car."
    )

    def add_without_side_car(self, belongs_to: Owner, prediction_id: str, usd: float) -> None:
        """Add a billed prediction that is in no side-car."""
        difference = Difference(prediction_id=prediction_id, billed_usd=rounded(usd), belongs_to=belongs_to)
        self.without_side_car.setdefault(belongs_to, Differences()).add(difference, usd)

    def compare(
        self, recorded: dict[str, float | None], others: dict[str, Owner], billed: dict[str, float]
    ) -> None:
        """Add what the billing says about this output's predictions.

        Args:
            recorded: USD by prediction with a side-car; None where no price was recorded.
            others: this output's predictions without a side-car.
            billed: USD by prediction, for both.
        """
        for prediction_id, recorded_usd in recorded.items():
            billed_usd = billed.get(prediction_id)
            difference = Difference(
                prediction_id=prediction_id, recorded_usd=recorded_usd, billed_usd=billed_usd
            )
            if billed_usd is None:
                self.unbilled.add(difference, recorded_usd or 0.0)
            elif recorded_usd is not None and _same(recorded_usd, billed_usd):
                self.agreed += 1
            elif _same(billed_usd, 0.0):
                self.refunded.add(difference, recorded_usd or 0.0)
            else:
                self.differ.add(difference, billed_usd - (recorded_usd or 0.0))
        for prediction_id, belongs_to in others.items():
            billed_usd = billed.get(prediction_id)
            if billed_usd is None:
                continue
            if _same(billed_usd, 0.0):
                difference = Difference(
                    prediction_id=prediction_id, billed_usd=billed_usd, belongs_to=belongs_to
                )
                self.refunded.add(difference, 0.0)
            else:
                self.add_without_side_car(belongs_to, prediction_id, billed_usd)


def rounded(usd: float) -> float:
    """Remove what binary fractions add: prices have at most six digits."""
    return round(usd, 6)


def _same(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=0.0, abs_tol=1e-6)
