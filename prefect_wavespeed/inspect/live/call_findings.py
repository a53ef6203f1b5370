"""What follows from how the API took odd and special requests: pure functions, a finding a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect_wavespeed.api.billing import Quote
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import InvalidRequestError, NotFoundError, RestyleError
from prefect_wavespeed.inspect.live.findings import told_by
from prefect_wavespeed.inspect.live.probing_client import Answer
from prefect_wavespeed.inspect.live.report import Finding, finding, not_known, not_tried, shown
from prefect_wavespeed.inspect.live.trials import OUT_OF_RANGE, UNKNOWN_FIELD, Outcome
from prefect_wavespeed.words import counted

Safe = Callable[[object], str]
"""Makes a text of the API safe to show."""

_CHECKED = "every field is checked here before it is sent"


def about_price(quote: Quote, answer: Answer | None, base_price: Answer | None, safe: Safe) -> Finding:
    """How the price call answers.

    Args:
        quote: what the client made of it.
        answer: to the price call.
        base_price: to the older one; None where it was not needed.
        safe: as `Safe`.
    """
    used = base_price or answer
    data = used.data if used and isinstance(used.data, dict) else {}
    names = ", ".join(f"`{name}`" for name in ("price", "discounted_price", "unit_price") if name in data)
    where = "/model/pricing alone" if base_price else "/model/price"
    found = f"{quote.usd:g} {safe(quote.currency)} by {names or 'another field'} ({where})"
    if quote.currency != "USD":
        return finding("price", found, "runs with a cap refuse to start: a cap needs a price in USD")
    return finding("price", found, "quotes and caps work")


def about_unknown_prediction(
    error: RestyleError | None, answer: Answer | None, asked_for: str, safe: Safe
) -> Finding:
    """How the API answers to an id that it never gave.

    Args:
        error: what the client made of it; None where it took it for a prediction.
        answer: as it came.
        asked_for: the id.
        safe: as `Safe`.
    """
    if answer is None or answer.status is None:
        return not_known("unknown_prediction", error.message if error else "no answer")
    found = _as_text(answer, safe, asked_for)
    if isinstance(error, NotFoundError):
        return finding("unknown_prediction", found, "a prediction that is gone is recognised")
    means = "a job whose prediction is gone stays open until it is resolved: please report this"
    return finding("unknown_prediction", found, means)


def about_unknown_field(outcome: Outcome, result: Prediction | None, safe: Safe) -> Finding:
    """Whether a field that does not exist is refused.

    Args:
        outcome: of the trial.
        result: its prediction; None where there is none, or it is gone.
        safe: as `Safe`.
    """
    sent = f"`{UNKNOWN_FIELD}`, misspelt"
    if outcome.restyled:
        told = result is not None and UNKNOWN_FIELD in told_by(result).values
        found = f"{sent}: accepted silently{', reported as an input,' if told else ''} and billed"
        return finding("unknown_field", found, f"a misspelt field is billed with the default; {_CHECKED}")
    return _refusal("unknown_field", sent, outcome, safe)


def about_out_of_range(outcome: Outcome, result: Prediction | None, safe: Safe) -> Finding:
    """Whether a value out of range is refused.

    Args:
        outcome: of the trial.
        result: its prediction; None where there is none, or it is gone.
        safe: as `Safe`.
    """
    name, value = OUT_OF_RANGE
    sent = f"`{name}` {value}"
    if outcome.restyled:
        told = told_by(result).values if result else {}
        used = f", reported as {safe(told[name])}," if name in told else ""
        found = f"{sent}: accepted silently{used} and billed"
        return finding("out_of_range", found, f"it is not known what was used instead; {_CHECKED}")
    return _refusal("out_of_range", sent, outcome, safe)


def _refusal(name: str, sent: str, outcome: Outcome, safe: Safe) -> Finding:
    error = outcome.error
    if isinstance(error, InvalidRequestError) and outcome.answer:
        found = f"{sent}: refused, {_as_text(outcome.answer, safe)}"
        return finding(name, found, "nothing is created, nothing is billed")
    return _unknown(name, outcome)


def about_base64(outcome: Outcome, result: Prediction | None) -> Finding:
    """Whether outputs come inline where that is asked for.

    Args:
        outcome: of the trial.
        result: its prediction; None where there is none, or it is gone.
    """
    if not outcome.restyled:
        return _refused_mode("base64", outcome)
    if result is None or not result.outputs:
        return not_known("base64", "the outputs are gone: the API keeps them for 7 days")
    if all(result.inline(output) for output in result.outputs):
        return finding(
            "base64", "the result holds the pictures", "enable_base64_output works, without webhooks"
        )
    return finding("base64", "outputs are URLs anyway", "enable_base64_output has no effect")


def about_sync(outcome: Outcome) -> Finding:
    """Whether a submission waits for its picture where that is asked for."""
    if not outcome.restyled:
        return _refused_mode("sync", outcome)
    if outcome.answer is None:
        return not_known("sync", "it was submitted by an earlier run")
    data = outcome.answer.data
    status = data.get("status") if isinstance(data, dict) else None
    if status == "completed":
        found = "the submission is answered with the finished picture"
        return finding("sync", found, "enable_sync_mode works, for what takes less than the submit timeout")
    found = f"the submission does not wait: {outcome.answer.outcome}" + (
        f", {shown(status)}" if status else ""
    )
    return finding("sync", found, "the picture is polled for, as always")


def _refused_mode(name: str, outcome: Outcome) -> Finding:
    if isinstance(outcome.error, InvalidRequestError):
        return finding(name, f"refused: {shown(outcome.error.message)}", "leave it off")
    return _unknown(name, outcome)


def _unknown(name: str, outcome: Outcome) -> Finding:
    if outcome.not_tried:
        return not_tried(name, outcome.not_tried)
    if outcome.error is None:
        return not_known(name, "no answer")
    ids = (outcome.error.prediction_id or "", *getattr(outcome.error, "candidates", ()))
    return not_known(name, shown(outcome.error.message, *ids), "the same command continues where it stopped")


def about_limits(slowed: Sequence[Answer], headers: frozenset[str], safe: Safe) -> Finding:
    """What was seen of rate limits.

    Args:
        slowed: the answers that were a 429.
        headers: names of headers about limits.
        safe: as `Safe`.
    """
    names = f"headers about limits: {', '.join(sorted(headers))}" if headers else "no header about limits"
    if not slowed:
        found = f"no answer was a 429; {names}"
        return finding("limits", found) if headers else not_known("limits", found)
    says_when = "retry-after" in headers
    means = f"the pause after a 429 {'is what it says' if says_when else 'grows by itself'}"
    found = f"{counted(len(slowed), 'answer')} of {_as_text(slowed[-1], safe)}; {names}"
    return finding("limits", found, means)


def _as_text(answer: Answer, safe: Safe, *keep: str) -> str:
    said = shown(safe(answer.explanation), *keep)
    return f"{answer.outcome}: {said}" if said else answer.outcome
