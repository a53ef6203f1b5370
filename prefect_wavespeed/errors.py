"""One exception for each thing that can go wrong.

``retryable`` tells whether doing the same again may help. Because every job goes through the ledger,
doing the same again never bills a picture twice.

All of them are safe to print, to log and to pickle: they hold a cleaned message, a status and ids,
never a response, a request or a header.
"""

from __future__ import annotations

import re
from typing import Any

_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_QUERY = re.compile(r"(?i)(https?://[^\s\"'<>?]+)\?[^\s\"'<>]*")


def redact(text: object, *secrets: str) -> str:
    """Make a text from outside safe to show: no key, no signature, one line, at most 500 characters."""
    shown = str(text).encode("utf-8", "replace").decode()  # lone surrogates cannot be printed
    for secret in secrets:
        if secret:
            shown = shown.replace(secret, "***")
    shown = _QUERY.sub(r"\1?…", _BEARER.sub("Bearer ***", shown))
    shown = " ".join(shown.split())
    return shown if len(shown) <= 500 else shown[:499] + "…"


class RestyleError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: what happened and what to do, in one line.
        retryable: whether the same call may succeed later.
        job_key: the job it concerns, where one is known.
        prediction_id: the prediction it concerns, where one is known.
    """

    retryable: bool = False

    def __init__(
        self, message: str, *, job_key: str | None = None, prediction_id: str | None = None, **facts: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.job_key = job_key
        self.prediction_id = prediction_id
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            type(self),
            self.message,
            {k: v for k, v in self.__dict__.items() if k != "message"},
        )


def _rebuild(cls: type[RestyleError], message: str, facts: dict[str, Any]) -> RestyleError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.message = message
    error.__dict__.update(facts)
    return error


class ConfigurationError(RestyleError):
    """A setting, a block or a name is missing or wrong."""


class BucketNotFoundError(ConfigurationError):
    """The bucket of an output or of a source does not exist."""


class StoreDeniedError(ConfigurationError):
    """The credentials, or this machine's user, may not do this in the store."""


class SourceError(RestyleError):
    """The source picture is missing, cannot be read, is no image, or is too big."""


class SourceDeniedError(SourceError):
    """The credentials may not read the source picture: a matter of the set-up, not of the picture."""


class ManifestError(RestyleError):
    """The list of images cannot be read, or is no list of images."""


class AuthenticationError(RestyleError):
    """The API refused the key (401), or what the key's account may do (403)."""


class InsufficientCreditsError(RestyleError):
    """The account cannot pay for it (402, or a message naming credits)."""


class BudgetExceededError(RestyleError):
    """The price is above ``max_cost_usd``. Nothing was submitted."""


class InvalidRequestError(RestyleError):
    """The API refused the request (400).

    Attributes:
        field: the field it complains of, where it names one.
    """

    field: str | None = None


class NotFoundError(RestyleError):
    """The API knows no such prediction or model (404)."""


class RateLimitedError(RestyleError):
    """The API asks to slow down (429). Nothing was created.

    Attributes:
        retry_after: seconds to wait, as the API says; None where it does not.
    """

    retryable = True
    retry_after: float | None = None


class UnavailableError(RestyleError):
    """The API cannot be reached or answers with a passing error (5xx, dropped connection, garbage).

    Attributes:
        status: the HTTP status; None where there was no answer.
        retry_after: seconds to wait, as the API says; None where it does not.
        sent: False when no connection came about, so that nothing can have reached the API.
    """

    retryable = True
    status: int | None = None
    retry_after: float | None = None
    sent: bool = True


class AmbiguousSubmissionError(RestyleError):
    """A submission was sent and its answer leaves open whether a prediction exists (and is billed).

    The ledger looks through the history before anything is sent again.
    """

    retryable = True


class PredictionFailedError(RestyleError):
    """The prediction ended without a picture; the job is in ``failed/``.

    Attributes:
        code: WaveSpeed's error code; 0 where there is none.
        status: the prediction's last status.
    """

    code: int = 0
    status: str = "failed"


class BatchFailedError(RestyleError):
    """More rows of a batch came to nothing than ``max_failed`` allows. The others are stored."""


class ShardFailedError(RestyleError):
    """A run that carried out a part of a batch ended and left jobs of which it told nothing."""


class RunLimitError(RestyleError):
    """A flow run was started again so often that it is given up. Its job is left as it is."""


class PredictionTimeoutError(RestyleError):
    """The prediction was not ready within the local timeout. It goes on, and so can the job: run it again."""

    retryable = True


class OutputError(RestyleError):
    """An output could not be downloaded, or is not the picture that was asked for."""

    retryable = True


class StoreError(RestyleError):
    """The store cannot be read or written now."""

    retryable = True


class UnsafeStoreError(RestyleError):
    """The store ignores create-if-absent, so nothing on it can be billed exactly once."""


def worth_retrying(error: object) -> bool:
    """Whether to try again at once. A prediction that was waited for long enough is left to a later run."""
    return (
        isinstance(error, RestyleError) and error.retryable and not isinstance(error, PredictionTimeoutError)
    )
