"""One exception for each thing that can go wrong.

``retryable`` says whether the same call may succeed later. Because every job goes through the ledger, making
it again never bills a picture twice.

All of them are safe to print, to log and to pickle: they hold a redacted message, a status and ids, never a
response, a request or a header.
"""

from __future__ import annotations

import re
from typing import Any

from prefect_wavespeed.words import printable

_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/?#\s\"'<>@]*@")
_QUERY = re.compile(r"(?i)(https?://[^\s\"'<>?]+)\?[^\s\"'<>]*")


def redact(text: object, *secrets: str) -> str:
    """Return a text from outside in a form that is safe to show: one line of at most 500 characters.

    Args:
        text: anything; shown as ``str`` shows it.
        secrets: replaced by ``***``, like bearer tokens. Users and passwords of URLs, and queries, which may
            hold signatures, are cut.
    """
    shown = str(text).encode("utf-8", "replace").decode()  # lone surrogates cannot be printed
    for secret in secrets:
        if secret:
            shown = shown.replace(secret, "***")
    shown = _QUERY.sub(r"\1?…", _USER.sub(r"\1", _BEARER.sub("Bearer ***", shown)))
    shown = printable(" ".join(shown.split()))
    return shown if len(shown) <= 500 else shown[:499] + "…"


class RestyleError(Exception):
    """Base of all errors of this package. As text it is the message, and after it the prediction's id.

    Attributes:
        message: what happened and what to do, in one line: the reason first, and no ids.
        retryable: whether the same call may succeed later.
        may_be_billed: a submission was sent and its answer lost, so that a prediction may exist.
        job_key: the job it concerns, where there is one.
        prediction_id: the prediction it concerns, where there is one.
        attempt_errors: how each attempt at the job ended, where several failed; the first one first.
        details: further lines for people.
        summary: of a batch, the run in figures, as in its ``summary.json``.
    """

    retryable: bool = False
    may_be_billed: bool = False
    attempt_errors: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    summary: dict[str, Any] | None = None

    def __init__(
        self, message: str, *, job_key: str | None = None, prediction_id: str | None = None, **attributes: Any
    ) -> None:
        self.message = printable(message)
        super().__init__(self.message)
        self.job_key = job_key
        self.prediction_id = prediction_id
        for name, value in attributes.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.message} (prediction {self.prediction_id})" if self.prediction_id else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            type(self),
            self.message,
            {k: v for k, v in self.__dict__.items() if k != "message"},
        )


def _rebuild(cls: type[RestyleError], message: str, attributes: dict[str, Any]) -> RestyleError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.message = message
    error.__dict__.update(attributes)
    return error


class ConfigurationError(RestyleError):
    """A setting, a block or a name is missing or wrong."""


class OutputMissingError(ConfigurationError):
    """The directory of an output that was used is not what it was: its disk may not be mounted."""


class BucketNotFoundError(ConfigurationError):
    """The bucket of an output or of a source does not exist."""


class StoreDeniedError(ConfigurationError):
    """The credentials, or this machine's user, may not do this in the store."""


class SourceError(RestyleError):
    """The source picture is missing, unreadable, not an image, or too large."""


class SourceDeniedError(SourceError):
    """The credentials may not read the source picture: the set-up is at fault, not the picture."""


class ManifestError(RestyleError):
    """The manifest of a batch cannot be read, or is not a list of images."""


class AuthenticationError(RestyleError):
    """The API refused the key (401), or does not allow this to the key's account (403)."""


class InsufficientCreditsError(RestyleError):
    """The account cannot pay for it (402, or a message naming credits)."""


class BudgetExceededError(RestyleError):
    """The price is above ``max_cost_usd``. Nothing was submitted."""


class InvalidRequestError(RestyleError):
    """The API refused the request (400), or it was found invalid before it was sent.

    Attributes:
        field: the field at fault, where one is named.
    """

    field: str | None = None


class NotFoundError(RestyleError):
    """The API does not know this prediction or model (404).

    Attributes:
        status: 404, which means just this, or one beside a text that says so; None of a URL that is gone.
    """

    status: int | None = None


class RateLimitedError(RestyleError):
    """The API asks to slow down (429). Nothing was created.

    Attributes:
        retry_after: seconds to wait, as the API says; None where it does not say.
    """

    retryable = True
    retry_after: float | None = None


class NoSlotError(RateLimitedError):
    """No slot of the account's concurrency limit has become free for a long time. Nothing was submitted."""


class UnavailableError(RestyleError):
    """The API cannot be reached, or has a temporary problem (5xx, dropped connection, unreadable answer).

    Attributes:
        status: the HTTP status; None where there was no answer.
        retry_after: seconds to wait, as the API says; None where it does not say.
        sent: False when no connection was established, so that nothing can have reached the API.
    """

    retryable = True
    status: int | None = None
    retry_after: float | None = None
    sent: bool = True


class AmbiguousSubmissionError(RestyleError):
    """A submission was sent, and its answer leaves open whether a prediction exists (and is billed).

    The ledger searches the history before anything is sent again.

    Attributes:
        reason: what came instead of a usable answer.
    """

    retryable = True
    reason: str = ""


class UnansweredSubmissionError(RestyleError):
    """Several submissions of a job were not answered, and surely created nothing: the API is down.

    The job stays open for a later run.
    """

    retryable = True


class UnsureSubmissionError(RestyleError):
    """Nothing tells whether the job was submitted: the API does not say what its predictions were asked for.

    Nothing was sent. ``restyle resolve`` records what a person finds out.

    Attributes:
        candidates: ids of the predictions that may be the job's.
    """

    candidates: tuple[str, ...] = ()


class PredictionFailedError(RestyleError):
    """The prediction ended without a picture; the job is in ``failed/``.

    Attributes:
        code: WaveSpeed's error code; 0 where there is none.
        status: the prediction's last status.
        flow_run_id: the run that gave the job up, where a flow did.
    """

    code: int = 0
    status: str = "failed"
    flow_run_id: str | None = None


class BatchFailedError(RestyleError):
    """More rows of a batch failed than ``max_failed`` allows. The others are stored."""


class ShardFailedError(RestyleError):
    """The run of a shard ended without reporting the outcome of some of its jobs."""


class RunLimitError(RestyleError):
    """A flow run was restarted too often and is given up. Its job is left as it is."""


class PrefectUnavailableError(RestyleError):
    """Prefect's server has not answered for long. Nothing more was submitted, and a later run continues."""

    retryable = True


class PredictionTimeoutError(RestyleError):
    """The prediction was not ready within the local timeout. It continues; run the job again to resume it."""

    retryable = True


class OutputError(RestyleError):
    """An output could not be downloaded whole, or is named in a form that cannot be read.

    Attributes:
        gone: the answer was a clear one: there is no picture there.
    """

    retryable = True
    gone: bool = False


class StoreError(RestyleError):
    """The store cannot be read or written at present."""

    retryable = True


class ScratchError(StoreError):
    """A temporary file of this machine cannot be written: its disk is full, for example."""


class UnsafeStoreError(RestyleError):
    """The store ignores create-if-absent, so nothing on it can be billed exactly once."""


def worth_retrying(error: object) -> bool:
    """Whether to retry at once. What has taken long already is left to a later run."""
    has_taken_long = isinstance(error, PredictionTimeoutError | UnansweredSubmissionError)
    return isinstance(error, RestyleError) and error.retryable and not has_taken_long
