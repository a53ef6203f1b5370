"""What is known of the API beyond its documentation: found out by ``restyle doctor --live``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ApiTraits(BaseModel):
    """How the API behaves where public records disagree. None: not known.

    Recovery works without any of it. What is known saves calls, and jobs in doubt.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    history_has_inputs: bool | None = Field(
        default=None, description="The history says what its predictions were asked for."
    )
    result_has_inputs: bool | None = Field(
        default=None, description="The result call says what a prediction was asked for."
    )
    image_url_is_kept: bool | None = Field(
        default=None, description="The reported inputs have the image's URL as it was sent."
    )

    def updated(self, newer: ApiTraits) -> ApiTraits:
        """These, with what is known by newer ones."""
        return self.model_copy(update=newer.model_dump(exclude_none=True))
