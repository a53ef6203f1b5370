"""`restyle doctor --live`: the questions are asked one after the other, and each answer is kept at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import uuid4

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.urls import without_query
from prefect_wavespeed.errors import (
    NotFoundError,
    OutputError,
    PredictionFailedError,
    RestyleError,
)
from prefect_wavespeed.inspect.live.call_findings import (
    about_base64,
    about_limits,
    about_out_of_range,
    about_price,
    about_sync,
    about_unknown_field,
    about_unknown_prediction,
)
from prefect_wavespeed.inspect.live.findings import GONE, about_delay, about_inputs, about_prediction
from prefect_wavespeed.inspect.live.probing_client import PRICE, PRICING, ProbingClient, result_call
from prefect_wavespeed.inspect.live.report import (
    Finding,
    LivePicture,
    LiveReport,
    load_report,
    not_known,
    shown,
)
from prefect_wavespeed.inspect.live.trials import PLAIN, TRIALS, Outcome, Trial, TrialRunner
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.retry import retry
from prefect_wavespeed.settings import get_settings
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.version import package_version

_T = TypeVar("_T")

_PREDICTION = ("result_again", "outputs", "output_urls", "nsfw")
_INPUTS = ("history_inputs", "result_inputs", "inputs_kept")
_TRIES = 4
_LOOKS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds after a submission at which the history is looked at
_PAGES = 10  # of the history in which the picture is looked for
_AROUND = timedelta(minutes=5)


class Examination:
    """One run of it.

    Args:
        client: the API.
        store: the output.
        limit_usd: what all pictures together may cost.
        say: called with one line about what it will cost, before anything is spent.
    """

    def __init__(
        self, client: ProbingClient, store: Store, limit_usd: float, say: Callable[[str], None]
    ) -> None:
        self._client = client
        self._store = store
        self._say = say
        self._runner = TrialRunner(client, store, limit_usd, self._watch_history)
        self._report = LiveReport(
            schema=1, api=client.base_url, package_version=package_version(), asked_at=datetime.now(UTC)
        )

    async def run(self) -> LiveReport:
        """Ask everything that can be asked at once.

        Raises:
            BudgetExceededError, InsufficientCreditsError: nothing was sent, as it cannot be paid.
            RestyleError: the key is refused, the store cannot be used, or the ordinary picture failed.
        """
        if earlier := await load_report(self._store, self._client.base_url):
            self._report = earlier.model_copy(
                update={
                    "asked_at": self._report.asked_at,
                    "package_version": package_version(),
                    "newly_spent_usd": 0.0,
                }
            )
        taken = {picture.name for picture in self._report.pictures}
        refused = {one.name for one in TRIALS if self._report.knows(one.name) and one.name not in taken}
        trials, cost = await self._runner.prepare(refused)
        self._say(cost)
        await self._keep(["price"], self._price)
        await self._keep(["unknown_prediction"], self._unknown_prediction)
        for trial in trials:
            outcome = await self._runner.take(trial)
            if trial is PLAIN:
                await self._examine_plain(outcome)
            else:
                await self._keep([trial.name], partial(self._examine, outcome))
        self._report.add([about_limits(self._client.slowed, self._client.limits, self._client.safe)])
        await self._report.save(self._store)
        return self._report

    async def _keep(self, names: Sequence[str], ask: Callable[[], Awaitable[list[Finding]]]) -> None:
        """Ask something, and keep what is found, or that nothing could be."""
        try:
            findings = await ask()
        except RestyleError as error:  # a key may be allowed to submit, and not to read the history
            findings = [not_known(name, shown(error.message)) for name in names]
        self._report.add(findings)
        await self._report.save(self._store)

    # -- what needs no picture --------------------------------------------------------------------

    async def _price(self) -> list[Finding]:
        request = ReduxRequest(**PLAIN.params.model_dump(), image="https://example.com/image.jpg")
        quote = await self._patiently(lambda: self._client.price(request))
        older = self._client.answer_to(PRICING)
        return [about_price(quote, self._client.answer_to(PRICE), older, self._client.safe)]

    async def _unknown_prediction(self) -> list[Finding]:
        nobodys = uuid4().hex
        problem: RestyleError | None = None
        try:
            await self._client.result(nobodys)
        except RestyleError as error:
            problem = error
        answer = self._client.answer_to(result_call(nobodys))
        return [about_unknown_prediction(problem, answer, nobodys, self._client.safe)]

    # -- the ordinary picture ---------------------------------------------------------------------

    async def _watch_history(self, trial: Trial, submitted: Submitted) -> None:
        """Find out how soon a new prediction is in the history."""
        if trial is not PLAIN:
            return
        began, found = time.monotonic(), None
        problem: RestyleError | None = None
        for at in _LOOKS:
            await asyncio.sleep(began + at - time.monotonic())
            looked = time.monotonic() - began
            try:
                page = await self._client.history(model=MODEL)
            except RestyleError as error:
                problem = error
                if not error.retryable:
                    break
                continue
            problem = None
            if any(prediction.id == submitted.prediction_id for prediction in page.items):
                found = looked
                break
        if problem:
            self._report.add([not_known("history_delay", shown(problem.message))])
        else:
            self._report.add([about_delay(found, _LOOKS[-1], get_settings().reconcile_seconds)])

    async def _examine_plain(self, outcome: Outcome) -> None:
        """Keep what the ordinary picture shows.

        Raises:
            RestyleError: there is none.
        """
        if outcome.error:
            await self._examine(outcome)
            await self._report.save(self._store)
            if isinstance(outcome.error, PredictionFailedError):
                outcome.error.message += ": fix what it names, then use another --out"
            raise outcome.error
        if not outcome.is_new:
            self._report.add([not_known("history_delay", "it was submitted by an earlier run")])
        await self._keep(_INPUTS, partial(self._inputs, outcome))
        await self._keep(_PREDICTION, partial(self._prediction, outcome))

    async def _inputs(self, outcome: Outcome) -> list[Finding]:
        await self._examine(outcome)
        side_car = await Ledger(self._store).side_car(outcome.job)
        if side_car is None:
            return []
        prediction_id = side_car.prediction.id
        listed = await self._listed(prediction_id, side_car.prediction.created_at)
        result = await self._result(prediction_id)
        refused = self._client.refuses_to_include_inputs
        findings, traits = about_inputs(listed, refused, result, side_car.request)
        self._report.add_traits(traits)
        return findings

    async def _listed(self, prediction_id: str, created_at: datetime | None) -> Prediction | None:
        """The prediction as the history shows it, asked to include inputs; None where it is not in there."""
        for number in range(1, _PAGES + 1):
            page = await self._patiently(
                partial(
                    self._client.history,
                    page=number,
                    model=MODEL,
                    created_after=created_at - _AROUND if created_at else None,
                    created_before=created_at + _AROUND if created_at else None,
                    include_inputs=True,
                )
            )
            for prediction in page.items:
                if prediction.id == prediction_id:
                    return prediction
            if not page.items or page.is_last:
                break
        return None

    async def _prediction(self, outcome: Outcome) -> list[Finding]:
        prediction_id = outcome.restyled.prediction_id if outcome.restyled else ""
        first, second = await self._result(prediction_id), await self._result(prediction_id)
        if first is None or second is None:
            return [not_known(name, GONE) for name in _PREDICTION]
        return about_prediction(first, second, await self._downloads(first))

    async def _downloads(self, prediction: Prediction) -> bool | None:
        """Whether the first output can be downloaded without the key; None where it is no URL."""
        url = prediction.outputs[0] if prediction.outputs else ""
        if not url.startswith(("https://", "http://")):
            return None
        try:
            await self._client.download(url)
        except (NotFoundError, OutputError):
            return False
        return True

    # -- the others -------------------------------------------------------------------------------

    async def _examine(self, outcome: Outcome) -> list[Finding]:
        """Note the picture of a trial, and return what it shows."""
        result = None
        if outcome.restyled:
            await self._note_stored(outcome)  # before anything can fail: it is paid for
            result = await self._result(outcome.restyled.prediction_id)
            self._note_urls(outcome.restyled.prediction_id, result)
        elif outcome.error and outcome.error.prediction_id:
            failed = isinstance(outcome.error, PredictionFailedError)
            self._report.add_picture(
                LivePicture(
                    name=outcome.trial.name,
                    prediction_id=outcome.error.prediction_id,
                    quoted_usd=outcome.price,
                    state="failed" if failed else "open",
                ),
                is_new=outcome.is_new,
            )
        match outcome.trial.name:
            case "unknown_field":
                return [about_unknown_field(outcome, result, self._client.safe)]
            case "out_of_range":
                return [about_out_of_range(outcome, result, self._client.safe)]
            case "base64":
                return [about_base64(outcome, result)]
            case "sync":
                return [about_sync(outcome)]
        return []

    async def _note_stored(self, outcome: Outcome) -> None:
        side_car = await Ledger(self._store).side_car(outcome.job)
        if side_car is None:
            return
        prediction, usd = side_car.prediction, side_car.cost.usd
        earlier = self._report.picture(prediction.id)
        self._report.add_picture(
            LivePicture(
                name=outcome.trial.name,
                prediction_id=prediction.id,
                quoted_usd=outcome.price if usd is None else usd,
                created_at=prediction.created_at or side_car.times.claimed,
                output_urls=earlier.output_urls if earlier else [],
            ),
            is_new=outcome.is_new,
        )

    def _note_urls(self, prediction_id: str, result: Prediction | None) -> None:
        picture = self._report.picture(prediction_id)
        urls = [without_query(url) for url in result.outputs if url.startswith("http")] if result else []
        if picture and urls:
            picture.output_urls = urls

    async def _result(self, prediction_id: str) -> Prediction | None:
        """What the result call says of a prediction; None where it is gone."""
        try:
            return await self._patiently(lambda: self._client.result(prediction_id))
        except NotFoundError:
            return None

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        return await retry(call, tries=_TRIES)
