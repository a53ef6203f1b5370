"""What a request costs and what the account was billed, as the API reports it."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from prefect_wavespeed.api._lenient import Items, Moment, Text


class Quote(BaseModel):
    """What a request would cost, by the price call."""

    usd: float = Field(ge=0, description="Price of the whole request in USD, discounts included.")
    currency: str = "USD"


class BilledPrediction(BaseModel):
    """The prediction that a billing record is about."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    uuid: Text = ""
    model_uuid: Text = ""
    status: Text = ""


class Billing(BaseModel):
    """One record of what the account was charged or refunded.

    Fields as on the vendor's page "Check Billings"; of the billing types it names only ``deduct``.
    """

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    uuid: Text = ""
    billing_type: Text = "deduct"
    price: float | None = Field(default=None, allow_inf_nan=False, description="USD; None where unknown.")
    created_at: Moment = None
    prediction: BilledPrediction = Field(default_factory=BilledPrediction)

    @field_validator("prediction", mode="before")
    @classmethod
    def _null_is_unknown(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("price", "created_at", mode="wrap")
    @classmethod
    def _invalid_is_unknown(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(value)
        except ValidationError:
            return None

    @property
    def usd(self) -> float | None:
        """What the account paid, in USD: negative for a refund; None where unknown."""
        if self.price is not None and "refund" in self.billing_type.lower():
            return -abs(self.price)
        return self.price


class BillingsPage(BaseModel):
    """One page of the billing records."""

    model_config = ConfigDict(extra="ignore")
    page: int = 1
    items: Items[Billing]  # required: an answer without it must not pass for an account without costs
