"""Predictions from creation to their end, and what they cost.

``created`` -> ``processing`` -> ``completed`` | ``failed`` | ``timeout`` | ``cancelled`` | ``deleted``.
The price is taken from the balance at creation and given back when it fails, times out or is cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import TERMINAL
from prefect_wavespeed.emulator import pictures, webhooks
from prefect_wavespeed.emulator.faults import Rule, Script
from prefect_wavespeed.emulator.options import Options
from prefect_wavespeed.emulator.uploads import WEEK, FetchError, Uploads

_REFUNDED = frozenset({"failed", "timeout", "cancelled"})
_ENDINGS = frozenset({"failed", "timeout", "cancelled", "deleted"})
_SECOND = 1_000_000_000


class NoCreditsError(Exception):
    """The balance does not cover the price."""


@dataclass(slots=True, eq=False)
class Record:
    """One prediction. Times are Unix nanoseconds, prices USD."""

    request: ReduxRequest
    asked: Mapping[str, Any]
    price: float
    webhook: str | None
    key: str
    rule: Rule | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=time.time_ns)
    status: str = "created"
    code: int = 0
    error: str = ""
    inference_ms: int = 0
    refunded: bool = False
    pictures: list[bytes] = field(default_factory=list)
    inline: list[str] | None = None
    told: bool = False
    completed_at: int = 0
    told_at: int = 0
    listed_from: int = 0
    deliveries: list[int | None] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def fault(self) -> str | None:
        """The name of what goes wrong with it."""
        return self.rule.fault if self.rule else None

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL


def timestamp(nanoseconds: int) -> str:
    """An ISO timestamp with all nine digits, as the API gives it."""
    seconds, fraction = divmod(nanoseconds, _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


class Predictions:
    """All predictions of the last 7 days, the balance, and the work on what is not finished."""

    def __init__(self, options: Options, base_url: str, session: aiohttp.ClientSession) -> None:
        self.options = options
        self.base_url = base_url
        self.uploads = Uploads(base_url)
        self.script: Script = options.faults
        self.balance = options.balance
        self.price = options.price
        self.in_flight = 0
        self.max_in_flight = 0
        self._records: dict[str, Record] = {}
        self._session = session
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="render")
        self._prepared: dict[tuple[int, int, str], bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # What the calls need

    def quote(self, num_images: int) -> float:
        """The price of a request in USD."""
        return round(self.price * num_images, 6)

    def create(
        self, request: ReduxRequest, asked: Mapping[str, Any], webhook: str | None, key: str
    ) -> Record:
        """Bill a request and start the work on it.

        Raises:
            NoCreditsError: the balance does not cover it; nothing was created.
        """
        price = self.quote(request.num_images)
        if price > self.balance + 1e-9:
            raise NoCreditsError
        self._forget_old()
        rule = self.script.pick("prediction", asked)
        record = Record(request, asked, price, webhook, key, rule)
        if rule is not None and rule.fault == "unlisted":
            record.listed_from = record.created + int((rule.seconds or 0) * _SECOND)
        self.balance -= price
        self._records[record.id] = record
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        record.task = self.start(self._carry_out(record))
        return record

    def get(self, prediction_id: str) -> Record | None:
        """The prediction of that id, unless it is older than 7 days."""
        record = self._records.get(prediction_id)
        return record if record is not None and record.created >= _week_ago() else None

    def newest_first(self) -> Iterator[Record]:
        """All predictions of the last 7 days."""
        self._forget_old()
        return reversed(self._records.values())

    def delete(self, prediction_id: str) -> bool:
        """Delete a prediction and its pictures; whether there was one."""
        record = self.get(prediction_id)
        if record is None or record.status == "deleted":
            return False
        if record.task is not None:
            record.task.cancel()
        if record.terminal:
            record.status = "deleted"
            record.pictures, record.inline = [], None
        else:
            self._finish(record, "deleted")
        return True

    def view(self, record: Record, *, tell: bool = False) -> dict[str, Any]:
        """The prediction object of the API.

        Args:
            tell: the outputs reach the client with this view (so expired URLs are renewed the next time).
        """
        completed = record.status == "completed"
        outputs: list[str] = []
        if completed and record.inline is not None:
            outputs = record.inline
        elif completed:
            edition = int(record.told or record.fault != "expired")
            outputs = [
                f"{self.base_url}/cdn/outputs/{record.id}/{edition}/{number}.{record.request.output_format}"
                for number in range(1, len(record.pictures) + 1)
            ]
            record.told = record.told or tell
        return {
            "id": record.id,
            "model": MODEL,
            "outputs": outputs,
            "urls": {"get": f"{self.base_url}/api/v3/predictions/{record.id}/result"},
            "has_nsfw_contents": [record.fault == "nsfw"] * len(record.pictures) if completed else None,
            "status": record.status,
            "created_at": timestamp(record.created),
            "error": record.error,
            "code": record.code,
            "executionTime": record.inference_ms,
            "timings": {"inference": record.inference_ms},
        }

    def answer(self, record: Record) -> dict[str, Any]:
        """The prediction object in an answer to the client; when the first one tells its end is noted."""
        if record.terminal and not record.told_at:
            record.told_at = time.time_ns()
        return self.view(record, tell=True)

    def bill(self, record: Record) -> dict[str, Any]:
        """What the billings call says of a prediction."""
        price = 0.0 if record.refunded else record.price
        return {
            "uuid": f"bill_{record.id}",
            "billing_type": "deduct",
            "price": price,
            "created_at": timestamp(record.created),
            "updated_at": timestamp(record.created),
            "order": {"state": "done", "price": price, "origin_price": record.price, "status": ""},
            "access_key_name": "",
            "prediction": {"uuid": record.id, "model_uuid": MODEL, "status": record.status},
        }

    # The work

    def start(self, work: Any) -> asyncio.Task[None]:
        """Run something in the background until the emulator is reset or stopped."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _carry_out(self, record: Record) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        record.status = "processing"
        fault = record.fault
        if fault == "stuck":
            return
        takes = random.uniform(*self.options.latency)
        if fault == "slow" and record.rule is not None:
            takes = record.rule.seconds or 0
        status, code, error = "completed", 0, ""
        if fault in _ENDINGS and record.rule is not None:
            status, code, error = (
                fault,
                record.rule.code,
                record.rule.message or f"the prediction was {fault}",
            )
            if fault == "timeout":
                code, error = 5004, "the prediction timed out"
        elif fault != "no_outputs":
            try:
                await self._make(record)
            except FetchError as failure:
                status, code, error = "failed", 1402, f"image: the URL could not be fetched ({failure})"
            except pictures.NotAPictureError:
                status, code, error = "failed", 1401, "image: not a picture that can be decoded"
        await asyncio.sleep(started + takes - loop.time())
        record.inference_ms = round((loop.time() - started) * 1000)
        self._finish(record, status, code, error)

    async def _make(self, record: Record) -> None:
        request = record.request
        if self.options.prerendered:
            made = [self._prerendered(request)] * request.num_images
        else:
            source = await self.uploads.fetch(request.image, self._session)
            seed = request.seed if request.seed >= 0 else random.randrange(2**31)
            made = [
                await self._render(source, request, seed + number) for number in range(request.num_images)
            ]
        record.pictures = made
        if request.enable_base64_output:
            prefix = f"data:image/{request.output_format};base64," if record.fault == "data_uri" else ""
            record.inline = [prefix + base64.b64encode(picture).decode() for picture in made]

    async def _render(self, source: bytes, request: ReduxRequest, seed: int) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads,
            functools.partial(
                pictures.variation,
                source,
                request.width,
                request.height,
                request.output_format,
                seed,
                request.guidance_scale,
            ),
        )

    def _prerendered(self, request: ReduxRequest) -> bytes:
        wanted = (request.width, request.height, request.output_format)
        if wanted not in self._prepared:
            self._prepared[wanted] = pictures.sample(*wanted)
        return self._prepared[wanted]

    def _finish(self, record: Record, status: str, code: int = 0, error: str = "") -> None:
        record.status, record.code, record.error = status, code, error
        record.completed_at = time.time_ns()
        self.in_flight -= 1
        if status in _REFUNDED:
            record.refunded = True
            self.balance += record.price
        record.done.set()
        if record.webhook is not None and status != "deleted":
            body = json.dumps({**self.view(record, tell=True), "input": record.asked}).encode()
            rule = self.script.pick("webhook", record.asked)
            secret = webhooks.secret_of(record.key)
            self.start(
                webhooks.deliver(
                    self._session, record.webhook, secret, f"evt_{record.id}", body, record.deliveries, rule
                )
            )

    def _forget_old(self) -> None:
        oldest = _week_ago()
        while self._records:
            first = next(iter(self._records.values()))
            if first.created >= oldest:
                return
            if first.task is not None and not first.terminal:
                first.task.cancel()
                self.in_flight -= 1
            del self._records[first.id]

    # Running it

    def ledger(self) -> dict[str, Any]:
        """What was created and what it cost, oldest first; ``billed`` is what was not refunded.

        A prediction tells when it ended (``completed_at``, however it ended) and when an answer that says
        so first left here (``told_at``; a webhook is no answer).
        """
        records = list(self._records.values())
        billed = [record for record in records if not record.refunded]
        return {
            "predictions": [
                {
                    "id": record.id,
                    "created_at": timestamp(record.created),
                    "completed_at": timestamp(record.completed_at) if record.completed_at else None,
                    "told_at": timestamp(record.told_at) if record.told_at else None,
                    "status": record.status,
                    "code": record.code,
                    "model": MODEL,
                    "input": record.asked,
                    "price": record.price,
                    "billed": not record.refunded,
                    "refunded": record.refunded,
                    "webhook": record.webhook,
                    "deliveries": record.deliveries,
                }
                for record in records
            ],
            "billed": len(billed),
            "spent": round(sum(record.price for record in billed), 6),
            "balance": round(self.balance, 6),
            "price": self.price,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "uploads": len(self.uploads),
        }

    async def reset(self) -> None:
        """Back to an empty account with its first balance, and nothing going wrong."""
        await self._stop_tasks()
        self._records.clear()
        self.uploads.reset()
        self.script = Script()
        self.balance, self.price = self.options.balance, self.options.price
        self.in_flight = self.max_in_flight = 0

    async def close(self) -> None:
        """Stop all work at once."""
        await self._stop_tasks()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _stop_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _week_ago() -> int:
    return time.time_ns() - int(WEEK) * _SECOND
