"""What was found out about the API: shown as a table, kept in the output, fit to be attached to an issue.

It holds no key, no signature and no id but those of predictions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.errors import redact
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.documents import decode
from prefect_wavespeed.storage.store import Store

TrialName = Literal["plain", "unknown_field", "out_of_range", "base64", "sync"]
"""A picture that is taken to see how the API takes its request."""

QUESTIONS: Mapping[str, str] = {
    "price": "price call",
    "unknown_prediction": "an unknown prediction",
    "history_inputs": "inputs in the history",
    "result_inputs": "inputs in the result",
    "inputs_kept": "inputs, compared with what was sent",
    "history_delay": "a new prediction in the history",
    "result_again": "a second result call",
    "outputs": "shape of outputs",
    "output_urls": "output URLs",
    "nsfw": "has_nsfw_contents",
    "unknown_field": "a field that does not exist",
    "out_of_range": "a field out of its range",
    "base64": "base64 output",
    "sync": "sync mode",
    "limits": "rate limits",
    "billing": "records in the billing",
    "billing_unit": "unit and times in the billing",
    "billed": "billed, compared with the quote",
    "urls_later": "output URLs, later",
}
"""What is asked, in the order in which it is shown; the last four need the billing."""

# Ids of accounts, keys and workspaces that an explanation may name.
_ID = re.compile(r"\b(?=[\w-]*\d)[\w-]{20,}\b|\S+@\S+")
_LONGEST = 300


class Finding(BaseModel):
    """The answer to one question.

    Attributes:
        found: what the API does.
        means: what follows from it.
        known: False where it was not tried or could not be found out; then ``found`` says why.
    """

    name: str
    asked: str
    found: str
    means: str = ""
    known: bool = True


class LivePicture(BaseModel):
    """A picture that was submitted.

    Attributes:
        quoted_usd: its price by the price call.
        state: ``open``: it is not ready yet; ``failed``: it is refunded.
        output_urls: without their queries; none where the outputs are not URLs.
    """

    name: TrialName
    prediction_id: str
    quoted_usd: float
    created_at: datetime | None = None
    state: Literal["stored", "open", "failed"] = "stored"
    output_urls: list[str] = Field(default_factory=list)


class LiveReport(BaseModel):
    """All that is known of one API by pictures in one output.

    Attributes:
        api: its base URL.
        spent_usd: for all pictures, by the price call.
        newly_spent_usd: the part of it that the last run spent.
        traits: what recovery may rely on.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    api: str
    package_version: str
    asked_at: datetime
    spent_usd: float = 0.0
    newly_spent_usd: float = 0.0
    pictures: list[LivePicture] = Field(default_factory=list)
    findings: list[Finding] = Field(default_factory=list)
    traits: ApiTraits = ApiTraits()

    def add(self, findings: Iterable[Finding]) -> None:
        """Take in findings: each replaces an earlier one, unless it knows less."""
        by_name = {finding.name: finding for finding in self.findings}
        for finding in findings:
            earlier = by_name.get(finding.name)
            if finding.known or earlier is None or not earlier.known:
                by_name[finding.name] = finding
        self.findings = [by_name[name] for name in QUESTIONS if name in by_name]

    def add_picture(self, picture: LivePicture, *, is_new: bool) -> None:
        """Take in a picture, in place of an earlier account of it.

        Args:
            picture: the picture.
            is_new: this run paid for it.
        """
        others = [one for one in self.pictures if one.prediction_id != picture.prediction_id]
        self.pictures = [*others, picture]
        self.spent_usd = _sum(one.quoted_usd for one in self.pictures if one.state != "failed")
        if is_new and picture.state != "failed":
            self.newly_spent_usd = _sum((self.newly_spent_usd, picture.quoted_usd))

    def picture(self, prediction_id: str) -> LivePicture | None:
        """What is known of a prediction."""
        return next((one for one in self.pictures if one.prediction_id == prediction_id), None)

    def add_traits(self, traits: ApiTraits) -> None:
        """Take in what is known; what is not, leaves what was."""
        self.traits = self.traits.updated(traits)

    def knows(self, name: str) -> bool:
        """Whether a question is answered."""
        return any(finding.known for finding in self.findings if finding.name == name)

    async def save(self, store: Store) -> None:
        """Write it into the output, over an earlier one."""
        data = self.model_dump_json(indent=2, by_alias=True).encode() + b"\n"
        await store.put(report_path(self.api), data, "application/json")


async def load_report(store: Store, api: str) -> LiveReport | None:
    """The report on an API in an output; None where there is none.

    Raises:
        StoreError: it cannot be read.
    """
    path = report_path(api)
    data = await store.get(path)
    if data is None:
        return None
    return decode(data, LiveReport, store.uri_of(path))


def report_path(api: str) -> str:
    """Where the report on an API is, below the output."""
    return layout.live_report(urlsplit(api).netloc)


def finding(name: str, found: str, means: str = "") -> Finding:
    """An answer."""
    return Finding(name=name, asked=QUESTIONS[name], found=found, means=means)


def not_known(name: str, why: str, means: str = "") -> Finding:
    """A question that could not be answered."""
    return Finding(name=name, asked=QUESTIONS[name], found=f"not known: {why}", means=means, known=False)


def not_tried(name: str, why: str) -> Finding:
    """A question that was not asked."""
    return Finding(name=name, asked=QUESTIONS[name], found=f"not tried: {why}", known=False)


def shown(text: object, *keep: str) -> str:
    """A text from outside in one short line, without ids other than these."""
    line = _ID.sub(lambda match: match[0] if match[0] in keep else "…", redact(text))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _sum(amounts: Iterable[float]) -> float:
    return round(sum(amounts), 6)
