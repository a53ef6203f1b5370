"""Dialects: the ways of answering that public records show, where they disagree.

Without any, the emulator answers as recorded answers do. ``--dialect NAME …`` (or ``PUT /emulator/dialects``
with a JSON list, at run time) changes that. Dialects go together, but for those of one row, which are
alternatives. ``strict`` stands for what the vendor's documentation describes: see `STRICT`.

Inputs. By default the history tells them under ``input`` when asked to, and the result call always does.

=========================== ==========================================================================
``history-without-inputs``  no item has inputs; ``include_inputs`` is ignored
``history-refuses-inputs``  ``include_inputs`` is an unknown field: 400
``history-says-inputs``     they stand under ``inputs``
--------------------------- --------------------------------------------------------------------------
``result-without-inputs``   the result call tells none
``result-says-inputs``      they stand under ``inputs``
--------------------------- --------------------------------------------------------------------------
``image-moved``             where inputs are told, the image has a URL of the API's own, on another host
=========================== ==========================================================================

Predictions. By default outputs are a list of URLs, which are static, and ``has_nsfw_contents`` is null
unless something is flagged. A failed one is answered with HTTP 200, an unknown one with 404.

=========================== ==========================================================================
``nsfw-list``               ``has_nsfw_contents`` is a list with a boolean for each output
``nsfw-boolean``            it is one boolean
--------------------------- --------------------------------------------------------------------------
``outputs-string``          a single output is a string, without a list
``outputs-objects``         each output is ``{"url": …}``
--------------------------- --------------------------------------------------------------------------
``renewed-urls``            the fault ``expired`` ends with other URLs, not with the same ones
``error-with-task``         a failed prediction comes with HTTP 500 (codes from 5000 on) or 400, and stands
                            in ``data``: from the result call, and from a submission in sync mode
``error-is-task``           the same, but the prediction is the whole body
--------------------------- --------------------------------------------------------------------------
``failed-without-code``     a failure with a code from 5000 on has none, but a text that names HTTP 502
``unknown-is-400``          an unknown prediction is answered with 400 and a text
``unknown-is-500``          the same with 500
``delete-null``             deleting is answered with ``data: null``
=========================== ==========================================================================

Refusals. By default they have their HTTP status, and ``{"code", "message"}``; no credits is a 400 with a
text.

=========================== ==========================================================================
``submit-error-with-task``  every submission is answered with HTTP 400, with the prediction that it created
``fields-dropped``          a field that does not exist, or is not valid, is dropped instead of refused, and
                            the default is billed
``credits-402``             no credits: HTTP 402
``credits-1407``            no credits: HTTP 400 with code 1407, ``insufficient_credits``
``credits-1407-enveloped``  the same under HTTP 200
--------------------------- --------------------------------------------------------------------------
``refusals-enveloped``      a 400 comes under HTTP 200, with code 1400 instead of 400
``text-in-error``           the text stands under ``error``
``text-in-detail``          it stands under ``detail``
``text-in-detail-list``     it stands in ``detail``, a list of ``{"loc", "msg"}``
``text-in-errors``          it stands in ``errors``, a list of ``{"message"}``
--------------------------- --------------------------------------------------------------------------
``retry-after``             a 429 says how long to wait
``results-limited``         result calls count against the submissions a minute of ``--tier``, too
=========================== ==========================================================================

Around it. By default there are both ways of uploading and both price calls; billing is in USD, takes times
in any form, has records of its own for refunds, and says ``has_more``.

=========================== ==========================================================================
``upload-tickets-only``     there is no ``/media/upload/binary``
``upload-binary-only``      there is no ``/media/uploads``
``upload-url``              nor is there here, and the binary one answers ``{"data": {"url"}}``
--------------------------- --------------------------------------------------------------------------
``price-unit``              ``/model/price`` answers ``unit_price`` instead of ``price``: of the whole request
``price-legacy-only``       there is no ``/model/price``
--------------------------- --------------------------------------------------------------------------
``billing-millionths``      prices of records are in millionths of a USD
``billing-milliseconds``    times are milliseconds as text, others are refused
``billing-rfc3339``         times of a search must be RFC 3339
--------------------------- --------------------------------------------------------------------------
``billing-total``           says ``total`` instead of ``has_more``
``billing-final-price``     a refund is no record: the price of the prediction's record becomes 0
=========================== ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast, get_args

Dialect = Literal[
    "history-without-inputs",
    "history-refuses-inputs",
    "history-says-inputs",
    "result-without-inputs",
    "result-says-inputs",
    "image-moved",
    "nsfw-list",
    "nsfw-boolean",
    "outputs-string",
    "outputs-objects",
    "renewed-urls",
    "error-with-task",
    "error-is-task",
    "failed-without-code",
    "unknown-is-400",
    "unknown-is-500",
    "delete-null",
    "submit-error-with-task",
    "fields-dropped",
    "credits-402",
    "credits-1407",
    "credits-1407-enveloped",
    "refusals-enveloped",
    "text-in-error",
    "text-in-detail",
    "text-in-detail-list",
    "text-in-errors",
    "retry-after",
    "results-limited",
    "upload-tickets-only",
    "upload-binary-only",
    "upload-url",
    "price-unit",
    "price-legacy-only",
    "billing-millionths",
    "billing-milliseconds",
    "billing-rfc3339",
    "billing-total",
    "billing-final-price",
]
Dialects = frozenset[Dialect]

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
STRICT: Dialects = frozenset(
    {
        "result-without-inputs",
        "nsfw-list",
        "renewed-urls",
        "credits-402",
        "retry-after",
        "billing-total",
        "billing-final-price",
    }
)

# Each of these sets answers one question: of a set, only one dialect can be spoken.
_ALTERNATIVES: tuple[Dialects, ...] = (
    frozenset({"history-without-inputs", "history-refuses-inputs", "history-says-inputs"}),
    frozenset({"result-without-inputs", "result-says-inputs"}),
    frozenset({"nsfw-list", "nsfw-boolean"}),
    frozenset({"outputs-string", "outputs-objects"}),
    frozenset({"error-with-task", "error-is-task"}),
    frozenset({"unknown-is-400", "unknown-is-500"}),
    frozenset({"credits-402", "credits-1407", "credits-1407-enveloped"}),
    frozenset({"text-in-error", "text-in-detail", "text-in-detail-list", "text-in-errors"}),
    frozenset({"upload-tickets-only", "upload-binary-only", "upload-url"}),
    frozenset({"price-unit", "price-legacy-only"}),
    frozenset({"billing-milliseconds", "billing-rfc3339"}),
)


class DialectError(ValueError):
    """Dialects that do not exist, or not together; the message is one line."""


def parse(names: Any) -> Dialects:
    """Return the dialects of these names; a name beside ``strict`` replaces the alternatives in it.

    Raises:
        DialectError: it is not a list of names, a name is unknown, or two are alternatives.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DialectError("dialects: must be a list of names")
    for name in names:
        if name not in DIALECTS and name != "strict":
            raise DialectError(f'there is no dialect "{name}", only strict, {", ".join(DIALECTS)}')
    named = cast("Dialects", frozenset(names) - {"strict"})
    for rivals in (sorted(named & alternatives) for alternatives in _ALTERNATIVES):
        if len(rivals) > 1:
            raise DialectError(f"{' and '.join(rivals)} are alternatives: choose one")
    return named | (STRICT - _rivals_of(named) if "strict" in names else frozenset())


def _rivals_of(named: Iterable[Dialect]) -> Dialects:
    return frozenset().union(*(rivals for rivals in _ALTERNATIVES if rivals & frozenset(named)))
