"""Finding a lost submission again: a prediction whose id never arrived, in the account's history."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isclose
from typing import Any
from urllib.parse import unquote

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import ENDED_BADLY, HistoryPage, Prediction
from prefect_wavespeed.errors import RestyleError, UnavailableError
from prefect_wavespeed.job import picture_params
from prefect_wavespeed.retry import retry
from prefect_wavespeed.urls import without_signature

MARGIN = timedelta(hours=1)
"""How far the clocks of API and store may be apart: a prediction is known by its request, not its time."""
PAGE_SIZE = 100

# How far apart the two clocks may be for an older prediction without inputs to be ruled out.
_CLOSE = timedelta(minutes=5)
_DEFAULTS = {name: field.default for name, field in ReduxRequest.model_fields.items()}
# When to look, as shares of the whole search: a prediction may show up late.
_LOOKS = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass
class _Query:
    """What one job looks for."""

    requests: list[ReduxRequest]
    since: datetime
    excluded: frozenset[str]
    answer: asyncio.Future[Prediction | None]

    def matches(self, prediction: Prediction) -> bool:
        return any(matches(prediction, request) for request in self.requests)


class History:
    """Searches the account's history; one scan serves every job that waits for one.

    Attributes:
        failing: the error of the last call, while it is being tried again; None while all is well.
    """

    def __init__(self, client: WaveSpeedClient) -> None:
        self.failing: RestyleError | None = None
        self._client = client
        self._queries: list[_Query] = []
        self._scanner: asyncio.Task[None] | None = None

    async def search(
        self,
        requests: list[ReduxRequest],
        since: datetime,
        seconds: float,
        excluded: frozenset[str] = frozenset(),
    ) -> Prediction | None:
        """Look several times for a prediction that has not failed.

        Args:
            requests: the request as the job's claims hold it; they differ in the image's URL at most.
            since: when the first of them was claimed, by the store's clock.
            seconds: for how long to look: a submission may show up late.
            excluded: ids of predictions that are known to be of no use.

        Returns:
            The newest one; None when even the last look found none.

        Raises:
            UnavailableError: the history could not be read to the end, or does not say what a prediction was
                asked for, so it is not known whether the job was submitted.
        """
        start = asyncio.get_running_loop().time()
        for share in _LOOKS:
            await asyncio.sleep(start + share * seconds - asyncio.get_running_loop().time())
            if found := await self._look(requests, since, excluded):
                return found
        return None

    async def _look(
        self, requests: list[ReduxRequest], since: datetime, excluded: frozenset[str]
    ) -> Prediction | None:
        query = _Query(requests, since, excluded, asyncio.get_running_loop().create_future())
        self._queries.append(query)
        # A scan in progress may be past the page: wait for the next one, which serves all that wait by then.
        if self._scanner is None or self._scanner.done():
            self._scanner = asyncio.create_task(self._serve())
        return await query.answer

    async def _serve(self) -> None:
        while self._queries:
            await asyncio.sleep(0)  # let those that come at the same time join
            queries, self._queries = self._queries, []
            try:
                await self._scan(queries)
            except Exception as error:
                for query in queries:
                    if not query.answer.done():
                        query.answer.set_exception(error)
            for query in queries:
                if not query.answer.done():
                    query.answer.set_result(None)

    async def _scan(self, queries: list[_Query]) -> None:
        since = min(query.since for query in queries) - MARGIN
        page = 1
        while any(not query.answer.done() for query in queries):
            predictions = await self._page(page, since)
            for prediction in predictions:
                for query in queries:
                    if not query.answer.done() and prediction.id not in query.excluded:
                        _compare(prediction, query)
            if len(predictions) < PAGE_SIZE:
                return
            page += 1

    async def _page(self, page: int, since: datetime) -> list[Prediction]:
        async def call() -> HistoryPage:
            try:
                found = await self._client.history(
                    page=page,
                    page_size=PAGE_SIZE,
                    model=MODEL,
                    created_after=since,
                    include_inputs=True,
                )
            except RestyleError as error:
                self.failing = error
                raise
            self.failing = None
            return found

        return (await retry(call, tries=5)).items


def _compare(prediction: Prediction, query: _Query) -> None:
    if query.matches(prediction):
        query.answer.set_result(prediction)
    elif _may_match(prediction, query.since):
        query.answer.set_exception(
            UnavailableError(
                "the account's history does not say what a prediction of that time was asked for, so it is "
                "not known whether this job was submitted: nothing was sent, run it again later "
                f"(prediction {prediction.id})"
            )
        )


def _may_match(prediction: Prediction, since: datetime) -> bool:
    """Whether it was created by then and does not say what it was asked for."""
    return (
        not prediction.input
        and prediction.model in ("", MODEL)
        and prediction.status not in ENDED_BADLY
        and (prediction.created_at is None or prediction.created_at > since - _CLOSE)
    )


def matches(prediction: Prediction, request: ReduxRequest) -> bool:
    """Whether a prediction has not failed and answers this request."""
    if prediction.status in ENDED_BADLY or prediction.model not in ("", MODEL) or not prediction.input:
        return False
    # An API may fill in what was left out, or leave out a default: defaults make both the same.
    inputs = {name: value for name, value in prediction.input.items() if value is not None}
    expected = {**picture_params(request), "image": request.image}
    return all(
        _is_same(name, inputs.get(name, _DEFAULTS.get(name)), value) for name, value in expected.items()
    )


def _is_same(name: str, value: Any, expected: Any) -> bool:
    if name == "image":
        return _plain(str(value)) == _plain(expected)
    if isinstance(expected, float):  # 3.3 may come back as 3.29999995
        return isinstance(value, int | float) and isclose(value, expected, rel_tol=1e-6)
    if name == "size":
        return bool(str(value).lower().replace("x", "*") == expected)
    return bool(value == expected)


def _plain(url: str) -> str:
    return unquote(without_signature(url))
