"""Finding a prediction whose submission was never answered, among the recent ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from math import isclose
from typing import Any
from urllib.parse import unquote

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import ENDED_BADLY, Prediction
from prefect_wavespeed.errors import UnavailableError
from prefect_wavespeed.job import picture_params
from prefect_wavespeed.retry import retry
from prefect_wavespeed.urls import without_signature

# The API's clock and the store's may differ; what is looked for is told by its request, not by its time.
MARGIN = timedelta(hours=1)
PAGE_SIZE = 100
# How far apart the two clocks may be for a prediction without inputs to be left out of account.
_NEAR = timedelta(minutes=5)
_DEFAULTS = {name: field.default for name, field in ReduxRequest.model_fields.items()}
# Shares of the whole search after which to look: a prediction may show up late.
_LOOKS = (0.0, 0.1, 0.25, 0.5, 1.0)


@dataclass
class _Wanted:
    matches: Callable[[Prediction], bool]
    since: datetime
    without: frozenset[str]
    answer: asyncio.Future[Prediction | None]


class History:
    """Looks through the account's history; one scan serves every job that waits for one."""

    def __init__(self, client: WaveSpeedClient) -> None:
        self._client = client
        self._waiting: list[_Wanted] = []
        self._scanner: asyncio.Task[None] | None = None

    async def search(
        self,
        requests: list[ReduxRequest],
        since: datetime,
        seconds: float,
        without: frozenset[str] = frozenset(),
    ) -> Prediction | None:
        """Look several times over some seconds for a prediction that has not failed.

        Args:
            requests: the request as the job's claims hold it; they differ in the image's URL at most.
            since: by the store's clock, when the first of them was claimed.
            seconds: how long a lost submission may take to show up.
            without: predictions that are known to be of no use.

        Returns:
            The newest one; None when the last look, too, found none.

        Raises:
            UnavailableError: the history could not be read to the end, or does not tell what a prediction
                was asked for, so nothing is known.
        """
        start = asyncio.get_running_loop().time()
        for share in _LOOKS:
            await asyncio.sleep(start + share * seconds - asyncio.get_running_loop().time())
            if found := await self._look(requests, since, without):
                return found
        return None

    async def _look(
        self, requests: list[ReduxRequest], since: datetime, without: frozenset[str]
    ) -> Prediction | None:
        loop = asyncio.get_running_loop()
        wanted = _Wanted(lambda p: any(matches(p, r) for r in requests), since, without, loop.create_future())
        self._waiting.append(wanted)
        # A scan under way may have passed the place: wait for the next, which serves all who wait by then.
        if self._scanner is None or self._scanner.done():
            self._scanner = asyncio.create_task(self._serve())
        return await wanted.answer

    async def _serve(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # let those who come at the same time come aboard
            batch, self._waiting = self._waiting, []
            try:
                await self._scan(batch)
            except Exception as error:
                for wanted in batch:
                    if not wanted.answer.done():
                        wanted.answer.set_exception(error)
            for wanted in batch:
                if not wanted.answer.done():
                    wanted.answer.set_result(None)

    async def _scan(self, batch: list[_Wanted]) -> None:
        since = min(wanted.since for wanted in batch) - MARGIN
        page = 1
        while any(not wanted.answer.done() for wanted in batch):
            items = await self._page(page, since)
            for prediction in items:
                for wanted in batch:
                    if wanted.answer.done() or prediction.id in wanted.without:
                        continue
                    if wanted.matches(prediction):
                        wanted.answer.set_result(prediction)
                    elif _may_be_it(prediction, wanted.since):
                        wanted.answer.set_exception(
                            UnavailableError(
                                f"the history does not tell what prediction {prediction.id} was asked for, "
                                "so it cannot be known whether this job was submitted: run it again later"
                            )
                        )
            if len(items) < PAGE_SIZE:
                return
            page += 1

    async def _page(self, page: int, since: datetime) -> list[Prediction]:
        ask = partial(
            self._client.history,
            page=page,
            page_size=PAGE_SIZE,
            model=MODEL,
            created_after=since,
            include_inputs=True,
        )
        return (await retry(ask, tries=5)).items


def _may_be_it(prediction: Prediction, since: datetime) -> bool:
    """Whether it came about by then and does not say what it was asked for."""
    return (
        not prediction.input
        and prediction.model in ("", MODEL)
        and prediction.status not in ENDED_BADLY
        and (prediction.created_at is None or prediction.created_at > since - _NEAR)
    )


def matches(prediction: Prediction, request: ReduxRequest) -> bool:
    """Whether a prediction that has not failed is the answer to this request."""
    if prediction.status in ENDED_BADLY or prediction.model not in ("", MODEL) or not prediction.input:
        return False
    # An API may fill in what was left out, or leave out what it was told: defaults make both the same.
    told = {name: value for name, value in prediction.input.items() if value is not None}
    asked = {**picture_params(request), "image": request.image}
    return all(_same(name, told.get(name, _DEFAULTS.get(name)), value) for name, value in asked.items())


def _same(name: str, told: Any, asked: Any) -> bool:
    if name == "image":
        return _plain(str(told)) == _plain(asked)
    if isinstance(asked, float):  # 3.3 may come back as 3.29999995
        return isinstance(told, int | float) and isclose(told, asked, rel_tol=1e-6)
    if name == "size":
        return bool(str(told).lower().replace("x", "*") == asked)
    return bool(told == asked)


def _plain(url: str) -> str:
    return unquote(without_signature(url))
