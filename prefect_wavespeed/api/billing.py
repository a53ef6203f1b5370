"""What a request costs and what the account was billed, as the API reports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from prefect_wavespeed.api.predictions import Items, Moment, Text, read_or_default


class Quote(BaseModel):
    """What a request would cost, by the price call."""

    usd: float = Field(ge=0, description="Price of the whole request in USD, discounts included.")
    currency: str = "USD"


class _Lenient(BaseModel):
    """What cannot be read is unknown: one odd field, or one odd item, costs only itself."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _odd_says_nothing(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping | BaseModel) else {}

    @field_validator("*", mode="wrap")
    @classmethod
    def _odd_is_unknown(cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        return read_or_default(cls, value, read, info)


class BilledPrediction(_Lenient):
    """The prediction that a billing record is about."""

    uuid: Text = ""
    model_uuid: Text = ""
    status: Text = ""


class Billing(_Lenient):
    """One record of what the account was charged or refunded.

    A refund is a record of its own, with a positive price.
    """

    uuid: Text = ""
    billing_type: Text = "deduct"
    price: float | None = Field(
        default=None, allow_inf_nan=False, description="In USD or in millionths of it; None where unknown."
    )
    created_at: Moment = None
    prediction: BilledPrediction = Field(default_factory=BilledPrediction)

    def usd(self, quoted: float | None = None) -> float | None:
        """Return what the account paid, in USD: negative for a refund; None where unknown.

        WaveSpeedAI's pages disagree about the unit of ``price``.

        Args:
            quoted: the price in USD that was quoted for the prediction, where it is known. It tells the unit;
                without it, a whole number of 1000 or more is taken for millionths.
        """
        if self.price is None:
            return None
        amount = abs(self.price)
        in_millionths = amount > 1000 * quoted if quoted else amount >= 1000 and amount.is_integer()
        usd = amount / 1_000_000 if in_millionths else amount
        return -usd if "refund" in self.billing_type.lower() or self.price < 0 else usd


class BillingsPage(BaseModel):
    """One page of the billing records."""

    model_config = ConfigDict(extra="ignore")
    page: int = 1
    items: Items[Billing]  # required: an answer without it must not pass for an account without costs
    has_more: bool | None = None
    total: int | None = Field(default=None, description="Number of all records, on all pages.")

    @field_validator("page", "has_more", "total", mode="wrap")
    @classmethod
    def _odd_is_unknown(cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        return read_or_default(cls, value, read, info)

    def is_last(self, read: int, page_size: int) -> bool:
        """Whether no page follows.

        Args:
            read: number of records on this page and those before it.
            page_size: how many were asked for.
        """
        if not self.items:
            return True
        if self.has_more is not None:
            return not self.has_more
        if self.total is not None:
            return read >= self.total
        return len(self.items) < page_size
