"""Dialects: the ways of answering that public records show, where they disagree.

Without any, the emulator answers as recorded answers do: no ``Retry-After``; ``has_nsfw_contents`` is null
unless something is flagged; output URLs are static; the history tells the ``input`` when asked to, and the
result call always. ``--dialect NAME …`` (or ``PUT /emulator/dialects`` with a JSON list, at run time) changes
that. Dialects go together, but for those that are alternatives of each other.

History and result:

=========================== ======================================================================
``history-without-inputs``  items never carry inputs; ``include_inputs`` is ignored
``history-refuses-inputs``  ``include_inputs`` is an unknown field: 400
``history-says-inputs``     the input stands under ``inputs``
``result-without-inputs``   the result call tells no input
``result-says-inputs``      the input stands under ``inputs``
``image-moved``             in an input that is told, the image has the API's own URL, on another host
``error-with-task``         a failed prediction comes with HTTP 500 (codes from 5000 on) or 400, and the
                            prediction in ``data``: from the result call, and from a submission in sync mode
``error-is-task``           the same, with the prediction at top level
=========================== ======================================================================

Limits:

=========================== ======================================================================
``retry-after``             a 429 says how long to wait
=========================== ======================================================================

``strict`` stands for all those that the vendor's documentation describes: see `STRICT`.
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
    "error-with-task",
    "error-is-task",
    "retry-after",
]
Dialects = frozenset[Dialect]

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
STRICT: Dialects = frozenset({"result-without-inputs", "retry-after"})

# Each of these sets answers one question: of a set, only one dialect can be spoken.
_ALTERNATIVES: tuple[Dialects, ...] = (
    frozenset({"history-without-inputs", "history-refuses-inputs", "history-says-inputs"}),
    frozenset({"result-without-inputs", "result-says-inputs"}),
    frozenset({"error-with-task", "error-is-task"}),
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
    for one, other, *_ in (sorted(named & rivals) for rivals in _ALTERNATIVES if len(named & rivals) > 1):
        raise DialectError(f'"{one}" and "{other}" are alternatives: only one of them can be spoken')
    return named | (STRICT - _replaced_by(named) if "strict" in names else frozenset())


def _replaced_by(named: Iterable[Dialect]) -> Dialects:
    return frozenset().union(*(rivals for rivals in _ALTERNATIVES if rivals & frozenset(named)))
