"""Operator settings, from the environment: ``RESTYLE_LEASE_SECONDS`` and the like."""

from __future__ import annotations

from functools import cache

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from prefect_wavespeed.errors import ConfigurationError, redact
from prefect_wavespeed.words import requirement


class Settings(BaseSettings):
    """Time limits of the ledger and of polling, in seconds, and what sources may be.

    Raises:
        pydantic.ValidationError: a value is not positive; the submit timeout is not less than half the lease
            (two runners could then POST for one job); or the search for a lost submission is not either.
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
    min_poll_seconds: float = Field(
        default=0.1, gt=0, description="The shortest time between two polls of one prediction."
    )
    submit_timeout_seconds: float = Field(default=60, gt=0, description="How long the submit POST may take.")

    look_at_sources: bool = Field(
        default=True,
        description="Read the first bytes of sources on AWS, instead of a HEAD, before they are submitted: "
        "what is archived or no image is then refused before anything is spent.",
    )
    accept_avif: bool = Field(
        default=False,
        description="Take AVIF pictures, which are not among the formats that WaveSpeedAI lists.",
    )

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
                f"RESTYLE_LEASE_SECONDS ({self.lease_seconds:g}): otherwise the claim expires during a search"
            )
        return self


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    Raises:
        ConfigurationError: the environment has an invalid value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        # A limit that depends on another has no location, and names its variables itself.
        variable = "".join(f"RESTYLE_{part} ".upper() for part in first["loc"])
        value = f"{redact(first['input'])}: " if variable else ""
        raise ConfigurationError(f"{variable}{value}{requirement(first)}") from None
