"""A client that can ask for odd things, and remembers how its calls were answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect_wavespeed.api.answers import Reply
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import HistoryPage, Prediction
from prefect_wavespeed.api.refusals import codes_of, explanation_of

SUBMIT = f"POST /api/v3/{MODEL}"
PRICE = "POST /api/v3/model/price"
PRICING = "POST /api/v3/model/pricing"
BILLINGS = "POST /api/v3/billings/search"


def result_call(prediction_id: str) -> str:
    """The result call of a prediction."""
    return f"GET /api/v3/predictions/{prediction_id}/result"


@dataclass(frozen=True)
class Answer:
    """How a call was answered, as it came."""

    status: int | None
    body: Any

    @property
    def data(self) -> Any:
        """What the envelope holds, or the body where there is none."""
        return self.body.get("data", self.body) if isinstance(self.body, dict) else None

    @property
    def outcome(self) -> str:
        """Status, and the code where that says something else."""
        if self.status is None:
            return "no answer"
        codes = [str(code) for code in codes_of(self.body) if code != self.status]
        return f"HTTP {self.status}" + (f", code {codes[0]}" if codes else "")

    @property
    def explanation(self) -> str:
        """What it says is wrong; not yet safe to show."""
        return explanation_of(self.body)


class ProbingClient(WaveSpeedClient):
    """Submits ordinary requests, and odd ones that look ordinary to the ledger.

    Attributes:
        odd: fields that the submissions from now on have besides, or with other values.
        slowed: the answers that were a 429.
        limits: names of headers about rate limits that were seen.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"traits": None})  # they are found out, whatever was known
        self.odd: Mapping[str, Any] = {}
        self.slowed: list[Answer] = []
        self.limits: frozenset[str] = frozenset()
        self._answers: dict[str, Answer] = {}

    @property
    def refuses_to_include_inputs(self) -> bool:
        """Whether the history has refused to tell inputs."""
        return not self._history_tells_inputs

    def answer_to(self, call: str) -> Answer | None:
        """The last answer to a call, which is given by its method and path; None where it was not made."""
        return self._answers.get(call)

    def forget(self, call: str) -> None:
        """Forget the answers to a call."""
        self._answers.pop(call, None)

    def safe(self, text: object) -> str:
        """A text of the API without the key, signatures and line breaks."""
        return self._transport.redact(text)

    # -- so that the ledger finds a lost odd submission, its inputs are told as if it were ordinary --

    async def result(self, prediction_id: str) -> Prediction:
        """A prediction's present state."""
        return self._as_ordinary(await super().result(prediction_id))

    async def history(self, **query: Any) -> HistoryPage:
        """One page of the history."""
        page = await super().history(**query)
        for prediction in page.items:
            self._as_ordinary(prediction)
        return page

    def _as_ordinary(self, prediction: Prediction) -> Prediction:
        if prediction.input:
            prediction.input = {
                name: value for name, value in prediction.input.items() if name not in self.odd
            }
        return prediction

    def _body(self, request: ReduxRequest) -> dict[str, Any]:
        return {**super()._body(request), **self.odd}

    def _received(self, call: str, reply: Reply) -> None:
        self._answers[call] = answer = Answer(reply.status, reply.body)
        if reply.status == 429:
            self.slowed.append(answer)
        self.limits |= reply.limits
