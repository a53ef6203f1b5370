"""Operator settings, from the environment: ``RESTYLE_LEASE_SECONDS`` and the like."""

from __future__ import annotations

from functools import cache

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.words import requirement


class Settings(BaseSettings):
    """Times that the ledger and the poll keep to, in seconds.

    Raises:
        pydantic.ValidationError: a value is not positive, or half the lease plus the submit timeout
            is not less than the lease (two runners could then POST for one job).
    """

    model_config = SettingsConfigDict(env_prefix="RESTYLE_", frozen=True)

    lease_seconds: float = Field(
        default=150,
        gt=0,
        description="How long a claim holds without a prediction before another runner takes over.",
    )
    reconcile_seconds: float = Field(
        default=20,
        gt=0,
        description="How long the history is watched for a submission whose answer was lost.",
    )
    poll_timeout_seconds: float = Field(
        default=900, gt=0, description="How long a prediction is polled before the job is left open."
    )
    submit_timeout_seconds: float = Field(default=60, gt=0, description="How long the submit POST may take.")

    @model_validator(mode="after")
    def _lease_is_long_enough(self) -> Settings:
        if self.lease_seconds / 2 + self.submit_timeout_seconds >= self.lease_seconds:
            raise ValueError(
                f"RESTYLE_SUBMIT_TIMEOUT_SECONDS ({self.submit_timeout_seconds:g}) must be less than half of "
                f"RESTYLE_LEASE_SECONDS ({self.lease_seconds:g}): otherwise two runners could submit one job"
            )
        if self.reconcile_seconds >= self.lease_seconds / 2:
            raise ValueError(
                f"RESTYLE_RECONCILE_SECONDS ({self.reconcile_seconds:g}) must be less than half of "
                f"RESTYLE_LEASE_SECONDS ({self.lease_seconds:g}): otherwise a claim is too old after a search"
            )
        return self


@cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        ConfigurationError: the environment holds a value that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"RESTYLE_{part}".upper() for part in first["loc"])
        raise ConfigurationError(f"{name}: {requirement(first)}".lstrip(": ")) from None
