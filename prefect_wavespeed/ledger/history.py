"""Finding a lost submission again: a prediction whose id never arrived.

The account's history is read to its end. Where it says what its predictions were asked for, that decides.
Where it does not, every prediction of that time that no job of this ledger has is asked for by its id, since
the result call may say it. What nobody tells is left to a
person; so is an item without an id that may be it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cachetools import LRUCache

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import ENDED_BADLY, HistoryPage, Prediction, Unnamed
from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.errors import NotFoundError, RestyleError, UnavailableError, UnsureSubmissionError
from prefect_wavespeed.ledger.known_predictions import KnownPredictions
from prefect_wavespeed.ledger.matching import Match, compare
from prefect_wavespeed.retry import retry

MARGIN = timedelta(hours=1)
"""How far the clocks of API and store may be apart: a prediction is known by its request, not its time."""
TOLERANCE = timedelta(minutes=5)
"""Allowed for, beside the measured difference of both clocks, before a time rules a prediction out."""
PAGE_SIZE = 100

# When to look, as shares of the whole search: a prediction may show up late.
_LOOKS = (0.0, 0.1, 0.25, 0.5, 1.0)
_REMEMBERED = 20_000  # results that said what they were asked for
_CONCURRENCY = 8  # result calls at once
_PAGES = 10_000  # of a hundred predictions, until the history counts as endless
_REPEATED = 5  # pages in a row with nothing new, until the history counts as endless
_SHOWN = 5  # candidates in a message


@dataclass(frozen=True)
class LostSubmission:
    """What is looked for.

    Attributes:
        requests: as the job's claims hold them; they differ in the image's URL at most.
        since: when the first of them was claimed, by the store's clock.
        claimed: when those attempts were claimed of which nobody knows whether they were submitted.
        window: how long after its claim a POST can have taken effect.
        seed_is_unique: the seed was derived from the job, so that no other job has it.
        job_key: the job; predictions of others are not its.
        excluded: ids of predictions that are known to be of no use.
        image_url_is_kept: on the host that it was sent with, the image's URL is told as it was sent.
        slack: how far the clocks of API and store may be apart.
        noticed: returns the prediction that a webhook has reported of this job, if one has.
    """

    requests: list[ReduxRequest]
    since: datetime
    claimed: list[datetime]
    window: timedelta
    seed_is_unique: bool = False
    job_key: str = ""
    excluded: frozenset[str] = frozenset()
    image_url_is_kept: bool = False
    slack: timedelta = timedelta()
    noticed: Callable[[], Prediction | None] = lambda: None

    def compare(self, prediction: Prediction) -> Match:
        """Whether a prediction is the one that is looked for."""
        if prediction.id in self.excluded or prediction.status in ENDED_BADLY:
            return "no"
        matches = {
            compare(
                prediction.input,
                prediction.model,
                request,
                seed_is_unique=self.seed_is_unique,
                image_url_is_kept=self.image_url_is_kept,
            )
            for request in self.requests
        }
        if "yes" in matches:
            return "yes"
        return "unknown" if "unknown" in matches and self._is_of_that_time(prediction) else "no"

    def _is_of_that_time(self, prediction: Prediction) -> bool:
        at, slack = prediction.created_at, TOLERANCE + self.slack
        return at is None or any(
            claimed - slack < at < claimed + self.window + slack for claimed in self.claimed
        )


@dataclass(frozen=True)
class _Known:
    """A prediction that is looked for by its id."""

    id: str
    since: datetime

    def compare(self, prediction: Prediction) -> Match:
        """Whether a prediction is that one; one without an id may be."""
        if isinstance(prediction, Unnamed) and not _is_older(prediction, self.since - MARGIN):
            return "unknown"
        return "yes" if prediction.id == self.id else "no"


@dataclass
class _Query:
    """One look for a lost submission, or for a prediction that is known."""

    lost: LostSubmission | _Known
    answer: asyncio.Future[Prediction | None]
    candidates: dict[str, Prediction] = field(default_factory=dict)

    def consider(self, prediction: Prediction) -> None:
        """Take one prediction of the history into account."""
        if self.answer.done():
            return
        match = self.lost.compare(prediction)
        if match == "yes" and not isinstance(prediction, Unnamed):
            self.answer.set_result(prediction)
        elif match != "no":
            self.candidates[prediction.id] = prediction


class History:
    """Searches the account's history; one scan serves every job that waits for one.

    Attributes:
        failing: the error of the last call, while it is being tried again; None while all is well.
    """

    def __init__(self, client: WaveSpeedClient, known: KnownPredictions) -> None:
        self.failing: RestyleError | None = None
        self._client = client
        self._known = known
        self._queries: list[_Query] = []
        self._scanner: asyncio.Task[None] | None = None
        self._results: LRUCache[str, Prediction] = LRUCache(_REMEMBERED)

    async def search(self, lost: LostSubmission, seconds: float) -> Prediction | None:
        """Look several times for a prediction that has not failed.

        Args:
            lost: what is looked for.
            seconds: for how long to look: a submission may show up late.

        Returns:
            The newest one; None when even the last look found that there is none.

        Raises:
            UnsureSubmissionError: there are predictions that may be the one, and nothing tells.
            RestyleError: the history could not be read to the end, so nothing is known.
        """
        start = asyncio.get_running_loop().time()
        unsure: UnsureSubmissionError | None = None
        for share in _LOOKS:
            await asyncio.sleep(start + share * seconds - asyncio.get_running_loop().time())
            noticed = lost.noticed()
            if (
                noticed
                and lost.compare(noticed) != "no"
                and not self._known.remembers(noticed.id, lost.job_key)
            ):
                return noticed
            try:
                unsure = None
                if found := await self._look(lost):
                    return found
            except UnsureSubmissionError as error:  # another job may record the candidate meanwhile
                unsure = error
        if unsure:
            raise unsure
        return None

    async def find(self, prediction_id: str, since: datetime) -> Prediction | None:
        """The prediction with this id, as the history tells it; None where it does not list it.

        Args:
            prediction_id: its id.
            since: a time before which it was not created.

        Raises:
            UnsureSubmissionError: it lists a prediction without an id, which may be this one.
            RestyleError: the history could not be read to the end, so nothing is known.
        """
        found, candidates = await self._ask(_Known(prediction_id, since))
        if found is None and candidates:
            raise unsure(tuple(candidates))
        return found

    async def _ask(self, lost: LostSubmission | _Known) -> tuple[Prediction | None, dict[str, Prediction]]:
        """What one scan says: the prediction that is looked for, and those that may be it."""
        query = _Query(lost, asyncio.get_running_loop().create_future())
        self._queries.append(query)
        # A scan in progress may be past the page: wait for the next one, which serves all that wait by then.
        if self._scanner is None or self._scanner.done():
            self._scanner = asyncio.create_task(self._serve())
        return await query.answer, query.candidates

    async def _look(self, lost: LostSubmission) -> Prediction | None:
        found, candidates = await self._ask(lost)
        if found is None:
            return await self._among(candidates, lost)
        if lost.seed_is_unique or await self._no_others([found], lost):
            return found
        # Another job asked for the very same, such as for an earlier version of an object.
        return await self._look(replace(lost, excluded=lost.excluded | {found.id}))

    async def _no_others(self, predictions: Iterable[Prediction], lost: LostSubmission) -> list[Prediction]:
        """Those that the ledger does not know to be another job's; it is read only where that matters."""
        left = [each for each in predictions if not self._known.remembers(each.id, lost.job_key)]
        if left:
            await self._known.read(lost.since - MARGIN)
        return [each for each in left if not self._known.remembers(each.id, lost.job_key)]

    # -- the history ------------------------------------------------------------------------------

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
        """Read the history page by page, as far back as anybody needs it.

        A short page is not the last one: the API may give fewer than were asked for.
        """
        since = min(query.lost.since for query in queries) - MARGIN
        seen: set[str] = set()
        page, repeated, filtered = 0, 0, True
        while any(not query.answer.done() for query in queries):
            page += 1
            if page > _PAGES:
                raise UnavailableError(f"WaveSpeed's history has more than {_PAGES:,} pages of that time")
            answer = await self._page(page, since if filtered else None)
            if page == 1 and not answer.items:  # is there nothing, or was the question not understood?
                filtered = False
                answer = await self._page(page, None)
            new = [prediction for prediction in answer.items if prediction.id not in seen]
            seen.update(prediction.id for prediction in new)
            for prediction in new:
                for query in queries:
                    query.consider(prediction)
            if not answer.items or answer.is_last or all(_is_older(each, since) for each in answer.items):
                return
            # What is created meanwhile moves the others back by a page; it does not do so for ever.
            repeated = 0 if new else repeated + 1
            if repeated == _REPEATED:
                raise UnavailableError("WaveSpeed's history returns the same page over and over")

    async def _page(self, page: int, since: datetime | None) -> HistoryPage:
        """One page of what was created since then; of everything, where no time is given."""

        async def call() -> HistoryPage:
            try:
                found = await self._client.history(
                    page=page,
                    page_size=PAGE_SIZE,
                    model=MODEL if since else None,
                    created_after=since,
                    include_inputs=True,
                )
            except RestyleError as error:
                self.failing = error
                raise
            self.failing = None
            return found

        return await retry(call, tries=5)

    # -- predictions of which the history does not say what they were asked for --------------------

    async def _among(self, candidates: dict[str, Prediction], lost: LostSubmission) -> Prediction | None:
        """Find the lost one among those of that time.

        Raises:
            UnsureSubmissionError: one or several may be it.
        """
        left = await self._no_others(candidates.values(), lost)
        results = await map_all(self._result, left, _CONCURRENCY)
        answers = [(result, lost.compare(result)) for result in results]
        for result, match in answers:
            if match == "yes" and not isinstance(result, Unnamed):
                return result
        unknown = tuple(result.id for result, match in answers if match != "no")
        if not unknown:
            return None
        raise unsure(unknown)

    async def _result(self, prediction: Prediction) -> Prediction:
        """What the result call says, if it may say more."""
        if self._client.traits.result_has_inputs is False or isinstance(prediction, Unnamed):
            return prediction
        if prediction.id in self._results:
            return self._results[prediction.id]
        try:
            result = await retry(lambda: self._client.result(prediction.id), tries=5)
        except NotFoundError:  # it may not be known everywhere yet
            return prediction
        if result.input:  # otherwise it may still tell later
            self._results[prediction.id] = result
        return result


def unsure(candidates: tuple[str, ...], job_key: str | None = None) -> UnsureSubmissionError:
    """The error of a job of which nothing tells whether it was submitted."""
    shown = ", ".join(candidates[:_SHOWN]) + (", …" if len(candidates) > _SHOWN else "")
    return UnsureSubmissionError(
        "it is not known whether this job was submitted, and nothing was sent: WaveSpeed does not say "
        f"what {_number(candidates)} was asked for: look up in your WaveSpeed account whether it is this "
        f"job's, then use `restyle resolve` ({shown})",
        job_key=job_key,
        candidates=candidates,
    )


def _is_older(prediction: Prediction, since: datetime) -> bool:
    return prediction.created_at is not None and prediction.created_at < since


def _number(ids: tuple[str, ...]) -> str:
    return "a prediction of that time" if len(ids) == 1 else f"each of {len(ids)} predictions of that time"
