"""Faults on purpose: the fault script.

A script is a JSON list of rules, given as ``--faults FILE`` or at run time with ``PUT /emulator/faults``
(which replaces the whole script). For every call, the first rule that matches fires::

    [
      {"on": "submit", "fault": "refused", "status": 429, "retry_after": 1, "times": 2},
      {"on": "submit", "fault": "drop_after", "match": {"image": "astronaut"}},
      {"on": "prediction", "fault": "failed", "code": 5000, "times": null, "probability": 0.1}
    ]

Each rule has:

======================= ==========================================================================
``on``                  where: see below
``fault``               what: see below
``times`` = 1           how often it fires; null: always
``skip`` = 0            how many matching calls pass before it fires
``probability`` = 1     of firing when it could (drawn from a fixed seed)
``match``               ``{"image": part of the image URL, "seed": number}``, both optional: only for
                        these requests; for submit, prediction, result, cdn and webhook
======================= ==========================================================================

``submit``
    * ``refused``: nothing is created; ``status`` = 503, ``code`` (in the body; default: the status),
      ``message``, ``retry_after`` (seconds, or text that is sent as it is), ``enveloped`` = false (true: HTTP
      200, the status only in the body's ``code``)
    * ``drop_before`` / ``drop_after``: the connection is cut before / after creation
    * ``status_after``: created, then ``status`` = 504, ``code``, ``message``, ``retry_after``, ``enveloped``
    * ``error_with_task``: the same with ``status`` = 400, and with the prediction in ``data`` (in the dialect
      ``error-is-task`` it is the whole body)
    * ``hang_before``: no answer and nothing created; after ``seconds`` (default: never) a 503
    * ``hang_after``: created; the answer comes after ``seconds`` (default: never)
    * ``garbage_before`` / ``garbage``: HTTP 200 with a body that is not JSON, before / after creation
    * ``no_id``: created, HTTP 200 without the id
    * ``late``: the connection is cut, and ``seconds`` = 1 later the prediction is created
    * ``sync_timeout``: created; answers at once with code 5004 and status processing, as sync mode does
      when it waits for too long
    * ``redirect``: nothing created; a 307 to ``location``
``result``, ``history``, ``delete``, ``upload``, ``price``, ``pricing``, ``balance``, ``account_balance``,
``billings``, ``secret``
    * ``status``: ``status`` = 503, ``code``, ``message``, ``retry_after``, ``enveloped``
    * ``drop``, ``garbage``, ``html`` (HTTP 200, an HTML page)
    * ``hang``: ``seconds`` (default: never), then the answer
    * ``redirect``: to ``location``
    ``price`` is ``/model/price`` alone and ``pricing`` the legacy call; likewise ``balance`` and
    ``account_balance``. An upload by ticket makes two ``upload`` calls: the ticket and the PUT.
``cdn`` (downloads of outputs and uploads)
    * ``status``: ``status`` = 404
    * ``drop``, ``html``, ``hang``, ``redirect`` as above
    * ``truncated``: the Content-Length of the whole picture, half of it, and the connection is closed
    * ``corrupt``: half of the picture, with an honest Content-Length
    * ``wrong_format``: the picture in another format than was asked for
    * ``slow``: the picture dribbles in over ``seconds`` = 5
``prediction`` (how it ends; asked once, when it is created)
    * ``failed``: with ``code`` = 5000 and ``message``
    * ``timeout``, ``cancelled``, ``deleted``: ends with that status
    * ``stuck``: processing for ever
    * ``slow``: takes ``seconds`` = 10
    * ``nsfw``: every output is flagged
    * ``expired``: the output URLs answer 404 until the result has been asked for again
    * ``missing``: the last picture is not there
    * ``black``, ``blank``: the last picture is all black, all white
    * ``other_size``: the last picture has half the width and height asked for
    * ``other_format``: the last picture is a PNG, or a JPEG where PNG was asked for; its URL says so, too
    * ``no_outputs``: completed, without outputs
    * ``data_uri``: base64 outputs come as ``data:image/…;base64,…``
    * ``unlisted``: missing in the history for the first ``seconds`` = 5
``webhook``
    * ``drop``: never sent
    * ``twice``: sent twice
    * ``late``: sent ``seconds`` = 5 later
    * ``forged``: signed with a wrong secret
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

_REFUSAL: dict[str, Any] = {
    "status": 503,
    "code": 0,
    "message": None,
    "retry_after": None,
    "enveloped": False,
}
_CALL: dict[str, dict[str, Any]] = {
    "status": _REFUSAL,
    "drop": {},
    "garbage": {},
    "html": {},
    "hang": {"seconds": None},
    "redirect": {"location": None},
}
CALLS = (
    "result",
    "history",
    "delete",
    "upload",
    "price",
    "pricing",
    "balance",
    "account_balance",
    "billings",
    "secret",
)
"""The calls that have only the plain faults."""

# Where -> fault -> its options with their defaults.
FAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "submit": {
        "refused": _REFUSAL,
        "drop_before": {},
        "drop_after": {},
        "status_after": {**_REFUSAL, "status": 504},
        "error_with_task": {**_REFUSAL, "status": 400},
        "hang_before": {"seconds": None},
        "hang_after": {"seconds": None},
        "garbage_before": {},
        "garbage": {},
        "no_id": {},
        "late": {"seconds": 1.0},
        "sync_timeout": {},
        "redirect": {"location": None},
    },
    **dict.fromkeys(CALLS, _CALL),
    "cdn": {
        "status": {"status": 404, "message": None, "retry_after": None},
        "drop": {},
        "html": {},
        "hang": {"seconds": None},
        "redirect": {"location": None},
        "truncated": {},
        "corrupt": {},
        "wrong_format": {},
        "slow": {"seconds": 5.0},
    },
    "prediction": {
        "failed": {"code": 5000, "message": "internal error"},
        "timeout": {},
        "cancelled": {},
        "deleted": {},
        "stuck": {},
        "slow": {"seconds": 10.0},
        "nsfw": {},
        "expired": {},
        "missing": {},
        "black": {},
        "blank": {},
        "other_size": {},
        "other_format": {},
        "no_outputs": {},
        "data_uri": {},
        "unlisted": {"seconds": 5.0},
    },
    "webhook": {"drop": {}, "twice": {}, "late": {"seconds": 5.0}, "forged": {}},
}
_MATCHING = frozenset({"submit", "prediction", "result", "cdn", "webhook"})


class ScriptError(ValueError):
    """An invalid fault script; the message is one line and says where."""


class Match(BaseModel):
    """The requests that a rule is for."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    image: str | None = None
    seed: int | None = None

    def fits(self, body: Mapping[str, Any]) -> bool:
        """Whether a request's body is one of them."""
        if self.image is not None and self.image not in str(body.get("image", "")):
            return False
        return self.seed is None or body.get("seed") == self.seed


class Rule(BaseModel):
    """One fault: where, what and how often. The module's docstring explains the fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    on: str
    fault: str
    times: int | None = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)
    probability: float = Field(default=1, gt=0, le=1)
    match: Match | None = None

    status: int = Field(default=503, ge=200, le=599)
    code: int = 0
    message: str | None = None
    retry_after: float | str | None = None
    enveloped: bool = False
    seconds: float | None = Field(default=None, ge=0)
    location: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_options(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("must be an object")
        for name in ("on", "fault"):
            if not isinstance(value.get(name), str):
                raise ValueError(f'"{name}" is missing or not a string')
        on, fault = value["on"], value["fault"]
        if on not in FAULTS:
            raise ValueError(f'"on" is "{on}", but must be one of {", ".join(FAULTS)}')
        if fault not in FAULTS[on]:
            raise ValueError(f'"{on}" has no fault "{fault}", only {", ".join(FAULTS[on])}')
        options = FAULTS[on][fault]
        for name in value:
            if name not in options and name not in ("on", "fault", "times", "skip", "probability", "match"):
                raise ValueError(f'"{name}" is not an option of "{fault}" on "{on}"')
        if value.get("match") is not None and on not in _MATCHING:
            raise ValueError(f'"match" is not possible on "{on}"')
        if fault == "redirect" and not value.get("location"):
            raise ValueError('"redirect" needs a "location"')
        return {**options, **value}


_RULES = TypeAdapter(list[Rule])


class Script:
    """The rules, and how often each has fired."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules = list(rules)
        self._passed = [0] * len(self.rules)
        self._fired = [0] * len(self.rules)
        self._random = random.Random(0)
        self._occurring = frozenset(rule.on for rule in self.rules)

    @classmethod
    def parse(cls, raw: Any) -> Script:
        """Build a script from decoded JSON.

        Raises:
            ScriptError: it is not a list of valid rules.
        """
        try:
            return cls(_RULES.validate_python(raw))
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise ScriptError(f"fault script{', rule ' if where else ''}{where}: {reason}") from None

    @classmethod
    def read(cls, path: str) -> Script:
        """Build a script from a JSON file.

        Raises:
            ScriptError: the file cannot be read, is not JSON, or not a valid script.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ScriptError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise ScriptError(f"{path} is not JSON: {error}") from None
        return cls.parse(raw)

    def pick(self, on: str, body: Mapping[str, Any] | None = None) -> Rule | None:
        """Return the rule that fires for this call, if any, and count it."""
        if on not in self._occurring:
            return None
        for number, rule in enumerate(self.rules):
            if rule.on != on or (rule.match is not None and not rule.match.fits(body or {})):
                continue
            if rule.times is not None and self._fired[number] >= rule.times:
                continue
            if self._passed[number] < rule.skip:
                self._passed[number] += 1
                continue
            if rule.probability < 1 and self._random.random() >= rule.probability:
                continue
            self._fired[number] += 1
            return rule
        return None

    def state(self) -> list[dict[str, Any]]:
        """Return the rules with how often each has fired, for ``GET /emulator/faults``."""
        return [
            {**rule.model_dump(exclude_unset=True), "fired": fired}
            for rule, fired in zip(self.rules, self._fired, strict=True)
        ]
