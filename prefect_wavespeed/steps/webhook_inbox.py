"""Webhooks about predictions, for the steps that wait for those predictions.

A notice saves a poll and is never needed. One that contains a completed prediction's outputs replaces the
answer of the result call; any other only makes the step poll at once. Where notices are lost, late, doubled
or out of order, polling finds what they did not report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cachetools import LRUCache

from prefect_wavespeed.api.predictions import ENDED_BADLY, Prediction

GRACE = 3.0
"""Seconds after a prediction's end within which its notice counts as being in time."""

# Each notice that comes in time scores 1, each that does not scores -4, within 0 and 10; from 5 on, notices
# are relied on. So at first a single missing one is enough to doubt them, after a good while two in a row
# are needed; and they are never relied on where more than one in five is lost.
_RELIABLE, _BEST, _MISSED = 5, 10, 4

# All runs on an account hear of all its predictions, so most of these are other runs' own.
_KEPT = 10_000


class WebhookInbox:
    """Receives notices on one event loop, and judges whether they can be relied on.

    Attributes:
        listening: whether notices can arrive at present.
    """

    def __init__(self) -> None:
        self.listening = False
        self._score = 0
        self._watched: dict[str, list[Notice]] = {}
        self._early: LRUCache[str, Prediction] = LRUCache(_KEPT)  # delivered before any step watched
        self._of_job: LRUCache[str, Prediction] = LRUCache(_KEPT)  # by the job that the webhook's URL names
        self._due: dict[str, float] = {}  # ended, as polling has found; when a notice is too late

    def start(self) -> None:
        """Notices can arrive from now on. They are relied on until one is missing."""
        self.listening, self._score = True, _RELIABLE

    def stop(self) -> None:
        """Notices cannot arrive at present."""
        self.listening, self._score = False, 0
        self._due.clear()

    def deliver(self, prediction: Prediction, job_key: str = "") -> None:
        """Take a webhook's prediction: any prediction, and any number of times.

        Args:
            prediction: the webhook's content.
            job_key: the job that the webhook's URL names; empty for none.
        """
        if job_key and prediction.status not in ENDED_BADLY:
            self._of_job[job_key] = prediction
        notices = self._watched.get(prediction.id)
        for notice in notices or ():
            notice.deliver(prediction)
        if notices:
            self._judge(in_time=True)
        elif due := self._due.pop(prediction.id, 0.0):
            self._judge(in_time=_now() <= due)
        else:
            self._early[prediction.id] = prediction

    def find(self, job_key: str) -> Prediction | None:
        """The prediction of a job, where a webhook has reported one that has not failed."""
        return self._of_job.get(job_key)

    @contextmanager
    def watch(self, prediction_id: str) -> Iterator[Notice]:
        """Yield the notice of one prediction: what was delivered already, and what is from now on."""
        notice = Notice(self, prediction_id)
        if early := self._early.pop(prediction_id, None):
            notice.deliver(early)
            self._judge(in_time=True)
        self._watched.setdefault(prediction_id, []).append(notice)
        try:
            yield notice
        finally:
            self._watched[prediction_id].remove(notice)
            if not self._watched[prediction_id]:
                del self._watched[prediction_id]

    @property
    def reliable(self) -> bool:
        """Whether to wait for a notice rather than poll."""
        if self._score >= _RELIABLE:
            self._judge_overdue()
        return self._score >= _RELIABLE

    def expect(self, prediction_id: str, seconds: float) -> None:
        """Count a notice as missing unless it arrives within so many seconds: its prediction has ended."""
        self._judge_overdue()
        self._due[prediction_id] = _now() + seconds

    def _judge_overdue(self) -> None:
        now = _now()
        while self._due:
            prediction_id, due = next(iter(self._due.items()))
            if due > now:
                return
            del self._due[prediction_id]
            self._judge(in_time=False)

    def _judge(self, *, in_time: bool) -> None:
        self._score = min(self._score + 1, _BEST) if in_time else max(self._score - _MISSED, 0)


class Notice:
    """What webhooks report about one prediction while a step waits for it."""

    def __init__(self, inbox: WebhookInbox, prediction_id: str) -> None:
        self._arrived = False
        self._inbox = inbox
        self._prediction_id = prediction_id
        self._unread: Prediction | None = None
        self._sleep: asyncio.Future[None] | None = None

    def deliver(self, prediction: Prediction) -> None:
        """Take a webhook's prediction and end the wait."""
        self._arrived, self._unread = True, prediction
        self.wake()

    def read(self) -> Prediction | None:
        """Return what was delivered last, once."""
        unread, self._unread = self._unread, None
        return unread

    async def wait(self, seconds: float) -> None:
        """Wait for so many seconds, or until something is delivered; not at all while something is unread."""
        if self._unread:
            return
        loop = asyncio.get_running_loop()
        self._sleep = loop.create_future()
        alarm = loop.call_later(seconds, self.wake)
        try:
            await self._sleep
        finally:
            alarm.cancel()

    def wake(self) -> None:
        """End the wait."""
        if self._sleep and not self._sleep.done():
            self._sleep.set_result(None)

    @property
    def is_unread(self) -> bool:
        """Whether something was delivered that has not been read."""
        return self._unread is not None

    @property
    def reliable(self) -> bool:
        """Whether to wait for it rather than poll."""
        return not self._arrived and self._inbox.reliable

    @property
    def missing(self) -> bool:
        """Whether it could have arrived and has not."""
        return not self._arrived and self._inbox.listening

    def expect(self, seconds: float) -> None:
        """Count it as missing unless it arrives within so many seconds: the prediction has ended."""
        self._inbox.expect(self._prediction_id, seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()
