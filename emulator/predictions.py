"""The account's predictions from creation to their end, and its balance.

``created`` -> ``processing`` -> ``completed`` | ``failed`` | ``timeout`` | ``cancelled`` | ``deleted``.
The price is taken from the balance at creation, and refunded if the prediction fails, times out or is
cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, cast

import aiohttp

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.emulator import shapes, webhooks
from prefect_wavespeed.emulator.faults import Script
from prefect_wavespeed.emulator.options import Options
from prefect_wavespeed.emulator.pictures.renderer import Renderer
from prefect_wavespeed.emulator.pictures.styles import NotAPictureError
from prefect_wavespeed.emulator.prediction import SECOND, Prediction, Status
from prefect_wavespeed.emulator.uploads import WEEK, FetchError, Uploads

_REFUNDED = frozenset({"failed", "timeout", "cancelled"})
_ENDINGS = frozenset({"failed", "timeout", "cancelled", "deleted"})


class NoCreditsError(Exception):
    """The balance does not cover the price."""


class Predictions:
    """All predictions of the last 7 days, the balance, and the work on unfinished ones."""

    def __init__(self, options: Options, base_url: str, session: aiohttp.ClientSession) -> None:
        self.options = options
        self.base_url = base_url
        self.uploads = Uploads(base_url)
        self.script: Script = options.faults
        self.dialects = options.dialects
        self.balance = options.balance
        self.price = options.price
        self.in_flight = 0
        self.max_in_flight = 0
        self._by_id: dict[str, Prediction] = {}
        self._session = session
        self._renderer = Renderer(self.uploads, session, prerendered=options.prerendered)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- for the calls ---

    def quote(self, num_images: int) -> float:
        """Return the price of a request in USD."""
        return round(self.price * num_images, 6)

    def create(
        self, request: ReduxRequest, body: Mapping[str, Any], webhook: str | None, key: str
    ) -> Prediction:
        """Bill a request and start working on it.

        Raises:
            NoCreditsError: the balance does not cover it; nothing was created.
        """
        price = self.quote(request.num_images)
        if price > self.balance + 1e-9:
            raise NoCreditsError
        self._forget_old()
        rule = self.script.pick("prediction", body)
        prediction = Prediction(request, body, price, webhook, key, rule)
        if rule is not None and rule.fault == "unlisted":
            prediction.listed_from = prediction.created + int((rule.seconds or 0) * SECOND)
        self.balance -= price
        self._by_id[prediction.id] = prediction
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        prediction.task = self.start(self._process(prediction))
        return prediction

    def get(self, prediction_id: str) -> Prediction | None:
        """Return a prediction, unless it is older than 7 days."""
        prediction = self._by_id.get(prediction_id)
        return prediction if prediction is not None and prediction.created >= _week_ago() else None

    def newest_first(self) -> Iterator[Prediction]:
        """Iterate over all predictions of the last 7 days."""
        self._forget_old()
        return reversed(self._by_id.values())

    def delete(self, prediction_id: str) -> bool:
        """Delete a prediction and its pictures, and return whether it existed."""
        prediction = self.get(prediction_id)
        if prediction is None or prediction.status == "deleted":
            return False
        if prediction.task is not None:
            prediction.task.cancel()
        if prediction.terminal:
            prediction.status = "deleted"
            prediction.pictures, prediction.inline = [], None
        else:
            self._finish(prediction, "deleted")
        return True

    def view(self, prediction: Prediction) -> dict[str, Any]:
        """Return the API's prediction object, without handing out its URLs."""
        return shapes.prediction_object(prediction, self.base_url, self.dialects)

    def answer(self, prediction: Prediction) -> dict[str, Any]:
        """Return the prediction object for an answer to the client."""
        if prediction.terminal and not prediction.reported_at:
            prediction.reported_at = time.time_ns()
        return self._hand_out(prediction)

    def _hand_out(self, prediction: Prediction) -> dict[str, Any]:
        """Return the prediction object, and note that the client has its output URLs now."""
        shown = self.view(prediction)
        prediction.handed_out += bool(shown["outputs"])
        return shown

    # --- the work ---

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background until the emulator is reset or stopped."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _process(self, prediction: Prediction) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        prediction.status = "processing"
        if prediction.fault == "stuck":
            return
        seconds = random.uniform(*self.options.latency)
        if prediction.fault == "slow" and prediction.rule is not None:
            seconds = prediction.rule.seconds or 0
        status, code, error = await self._result_of(prediction)
        await asyncio.sleep(started + seconds - loop.time())
        prediction.inference_ms = round((loop.time() - started) * 1000)
        self._finish(prediction, status, code, error)

    async def _result_of(self, prediction: Prediction) -> tuple[Status, int, str]:
        """Make the pictures, unless a fault says otherwise; return status, code and error."""
        fault, rule = prediction.fault, prediction.rule
        if fault == "timeout":
            return "timeout", 5004, "the prediction timed out"
        if fault in _ENDINGS and rule is not None:
            return cast("Status", fault), rule.code, rule.message or f"the prediction was {fault}"
        if fault == "no_outputs":
            return "completed", 0, ""
        try:
            prediction.pictures = await self._renderer.render(prediction.request, fault)
        except FetchError as failure:
            return "failed", 1402, f"image: the URL could not be fetched ({failure})"
        except NotAPictureError:
            return "failed", 1401, "image: not a picture that can be decoded"
        if prediction.request.enable_base64_output:
            prediction.inline = [
                (f"data:image/{picture.format};base64," if fault == "data_uri" else "")
                + base64.b64encode(picture.data).decode()
                for picture in prediction.pictures
            ]
        return "completed", 0, ""

    def _finish(self, prediction: Prediction, status: Status, code: int = 0, error: str = "") -> None:
        prediction.status, prediction.code, prediction.error = status, code, error
        prediction.completed_at = time.time_ns()
        self.in_flight -= 1
        if status in _REFUNDED:
            prediction.refunded = True
            self.balance += prediction.price
        prediction.task = None  # a hundred thousand predictions are kept, and most have long ended
        if prediction.done is not None:
            prediction.done.set()
        if prediction.webhook is not None and status != "deleted":
            told = {**self._hand_out(prediction), "input": shapes.told_input(prediction, self.dialects)}
            self.start(
                webhooks.deliver(
                    self._session,
                    prediction.webhook,
                    webhooks.secret_of(prediction.key),
                    f"evt_{prediction.id}",
                    json.dumps(told).encode(),
                    prediction.deliveries,
                    self.script.pick("webhook", prediction.input),
                )
            )

    def _forget_old(self) -> None:
        oldest = _week_ago()
        while self._by_id:
            first = next(iter(self._by_id.values()))
            if first.created >= oldest:
                return
            if first.task is not None and not first.terminal:
                first.task.cancel()
                self.in_flight -= 1
            del self._by_id[first.id]

    # --- for the emulator ---

    def ledger(self) -> dict[str, Any]:
        """Return what was created and what it cost, oldest first; ``billed`` counts what was not refunded."""
        predictions = list(self._by_id.values())
        billed = [prediction for prediction in predictions if not prediction.refunded]
        return {
            "predictions": [prediction.entry() for prediction in predictions],
            "billed": len(billed),
            "spent": round(sum(prediction.price for prediction in billed), 6),
            "balance": round(self.balance, 6),
            "price": self.price,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "uploads": len(self.uploads),
        }

    async def reset(self) -> None:
        """Start anew: no predictions, the first balance and dialects, no faults."""
        await self._stop_tasks()
        self._by_id.clear()
        self.uploads.reset()
        self.script, self.dialects = Script(), self.options.dialects
        self.balance, self.price = self.options.balance, self.options.price
        self.in_flight = self.max_in_flight = 0

    async def close(self) -> None:
        """Stop all work at once."""
        await self._stop_tasks()
        self._renderer.close()

    async def _stop_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _week_ago() -> int:
    return time.time_ns() - int(WEEK) * SECOND
