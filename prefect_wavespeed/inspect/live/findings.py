"""What follows from what the API answered: pure functions, a finding for each question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.inspect.live.report import Finding, finding, not_known
from prefect_wavespeed.ledger.matching import compare_image, compare_params
from prefect_wavespeed.words import counted

GONE = "the API does not know the prediction any more: it keeps them for 7 days"


# -- inputs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a call says that a prediction was asked for.

    Attributes:
        name: the field under which it says so; empty where it does not.
    """

    name: str
    values: Mapping[str, Any]


def told_by(prediction: Prediction) -> Told:
    """What is told with a prediction."""
    for name in ("input", "inputs"):
        values = prediction.answer.get(name)
        if isinstance(values, dict) and values:
            return Told(name, values)
    return Told("", {})


def about_inputs(
    listed: Prediction | None, refused: bool, result: Prediction | None, sent: ReduxRequest
) -> tuple[list[Finding], ApiTraits]:
    """Which call tells inputs, and whether they are those that were sent.

    Args:
        listed: the prediction in the history, asked to include inputs; None where it is not in there.
        refused: the history refuses to include inputs.
        result: the same in the result call; None where it is gone.
        sent: its request; the URL without its signature.
    """
    history = told_by(listed) if listed else None
    in_result = told_by(result) if result else None
    told = [one for one in (history, in_result) if one and one.name]
    kept = all(_is_url_kept(one.values, sent) for one in told) if told else None
    traits = ApiTraits(
        history_has_inputs=bool(history.name) if history else None,
        result_has_inputs=bool(in_result.name) if in_result else None,
        image_url_is_kept=kept,
    )
    return [
        _in_history(history, refused, in_result),
        _in_result(in_result, history),
        _kept(told, sent),
    ], traits


def _in_history(history: Told | None, refused: bool, in_result: Told | None) -> Finding:
    if history is None:
        return not_known("history_inputs", "the picture is not in the history")
    if history.name:
        means = "a submission whose answer was lost is found by its inputs in the history"
        return finding("history_inputs", f"under `{history.name}`", means)
    found = "none, and include_inputs is refused" if refused else "none, though include_inputs asks for them"
    if in_result is None:
        return finding("history_inputs", found)
    if in_result.name:
        means = "a lost submission is found by asking for the result of each prediction of its time"
        return finding("history_inputs", found, means)
    means = "nothing tells a lost submission from others: its job waits for `restyle resolve`"
    return finding("history_inputs", found, means)


def _in_result(in_result: Told | None, history: Told | None) -> Finding:
    if in_result is None:
        return not_known("result_inputs", GONE)
    if in_result.name:
        means = (
            "a second way to find a lost submission" if history and history.name else "they find a lost one"
        )
        return finding("result_inputs", f"under `{in_result.name}`", means)
    return finding("result_inputs", "none", "recovery does not ask for results")


def _kept(told: list[Told], sent: ReduxRequest) -> Finding:
    if not told:
        return not_known("inputs_kept", "no call reports any")
    found = "; ".join(dict.fromkeys(_compared(one.values, sent) for one in told))
    params = [match for one in told for match in compare_params(one.values, sent).items()]
    if any(match == "no" for _, match in params):
        means = (
            "a lost submission would not be recognised, and be billed again: report this to the maintainers"
        )
    elif ("seed", "unknown") in params:
        means = "nothing tells a lost submission from others: its job waits for `restyle resolve`"
    elif not all(_is_url_kept(one.values, sent) for one in told):
        means = "the derived seed identifies a job; one with a seed of its own may wait for `restyle resolve`"
    else:
        means = "a lost submission is recognised for certain"
    return finding("inputs_kept", found, means)


def _compared(values: Mapping[str, Any], sent: ReduxRequest) -> str:
    expected = sent.model_dump(exclude={"image"})
    changed = sorted(name for name, match in compare_params(values, sent).items() if match == "no")
    parts = [
        ""
        if _is_url_kept(values, sent)
        else f"the image has another URL, on {_host_of(values.get('image'))}",
        f"changed: {', '.join(changed)}" if changed else "",
        _listed("left out", expected.keys() - values.keys()),
        _listed("added", values.keys() - expected.keys() - {"image"}),
    ]
    return "; ".join(part for part in parts if part) or "the same"


def _listed(what: str, names: set[str]) -> str:
    return f"{what}: {', '.join(sorted(names))}" if names else ""


def _is_url_kept(values: Mapping[str, Any], sent: ReduxRequest) -> bool:
    return compare_image(values.get("image"), sent.image) == "yes"


def _host_of(url: Any) -> str:
    try:
        return urlsplit(str(url)).hostname or "no host"
    except ValueError:
        return "no host"


# -- the prediction -------------------------------------------------------------------------------


def about_prediction(first: Prediction, second: Prediction, downloads: bool | None) -> list[Finding]:
    """The shape of a completed prediction, and whether a second call says the same.

    Args:
        first, second: two result calls.
        downloads: whether its first output can be downloaded without the key; None where it has no URL.
    """
    differing = sorted(
        name
        for name in first.answer.keys() | second.answer.keys()
        if first.answer.get(name) != second.answer.get(name)
    )
    again = (
        finding("result_again", f"differs in {', '.join(differing)}", "a side-car keeps the last one")
        if differing
        else finding("result_again", "the same", "asking again loses nothing")
    )
    return [again, _shape_of_outputs(first), _output_urls(first, second, downloads), _nsfw(first)]


def _shape_of_outputs(prediction: Prediction) -> Finding:
    outputs = prediction.answer.get("outputs")
    if isinstance(outputs, str):
        return finding("outputs", "one text, without a list", "understood")
    if prediction.unreadable_outputs or not isinstance(outputs, list) or not outputs:
        means = "jobs stay open: please report this"
        return finding("outputs", f"not understood: {prediction.unreadable_outputs or 'none'}", means)
    kind = "objects with `url`" if all(isinstance(output, dict) for output in outputs) else "texts"
    return finding("outputs", f"a list of {kind}", "understood")


def _output_urls(first: Prediction, second: Prediction, downloads: bool | None) -> Finding:
    if downloads is None:
        return not_known("output_urls", "the outputs are not URLs")
    host = _host_of(first.outputs[0])
    if not downloads:
        found = f"no longer work, or not without the key ({host})"
        return finding("output_urls", found, "pictures have to be stored soon, as every run does")
    signed = (
        "with a query, such as a signature" if urlsplit(first.outputs[0]).query else "without a signature"
    )
    if first.outputs != second.outputs:
        means = "asking again may renew one that has expired"
        return finding("output_urls", f"new ones in a second call, {signed}, no key needed ({host})", means)
    means = "asking again would hardly renew one that has expired"
    return finding("output_urls", f"the same in a second call, {signed}, no key needed ({host})", means)


def _nsfw(prediction: Prediction) -> Finding:
    unchecked = (
        "not checked: with nsfw=quarantine or drop such pictures are quarantined, unless nsfw_unchecked=keep"
    )
    if "has_nsfw_contents" not in prediction.answer:
        return finding("nsfw", "missing", unchecked)
    match prediction.answer["has_nsfw_contents"]:
        case None:
            return finding("nsfw", "null", unchecked)
        case bool():
            return finding("nsfw", "one boolean", "it counts for all outputs of a prediction")
        case [*flags] if flags and all(isinstance(flag, bool) for flag in flags):
            found = (
                f"a list of {counted(len(flags), 'boolean')} for {counted(len(prediction.outputs), 'output')}"
            )
            return finding("nsfw", found, "each output has a flag of its own")
        case []:
            return finding("nsfw", "an empty list", unchecked)
    return finding("nsfw", "something else", unchecked)


def about_delay(seconds: float | None, watched: float, searched: float) -> Finding:
    """How soon a new prediction is in the history.

    Args:
        seconds: after the submission was answered; None where it was not there to the last.
        watched: for how long it was looked for.
        searched: for how long recovery looks (RESTYLE_RECONCILE_SECONDS).
    """
    if seconds is None:
        means = "set RESTYLE_RECONCILE_SECONDS higher: a submission that shows up too late would be repeated"
        return finding("history_delay", f"not within {watched:.0f} s", means)
    found = "at once" if seconds < 1 else f"after {seconds:.0f} s"
    if seconds < searched / 2:
        return finding("history_delay", found, f"recovery looks for {searched:g} s, which is enough")
    means = f"recovery looks for {searched:g} s: set RESTYLE_RECONCILE_SECONDS higher"
    return finding("history_delay", found, means)
