"""What webhooks tell of predictions, for those that wait for them.

A notice saves a call and is never needed. One that brings a completed prediction's outputs is taken for the
answer of the result call; any other only makes it be asked at once. Lost, late, doubled or out of order:
polling finds what no notice told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prefect_wavespeed.api.predictions import Prediction

GRACE = 3.0
"""Seconds that a notice may take, from a prediction's end on."""

# Each notice that comes in time counts 1, each that does not counts -4, between 0 and 10; from 5 on, inbox
# are relied on. So at first one that is missing is enough to doubt them, after some time of good service two
# in a row; and they are not relied on where more than one in five is lost.
_RELIED_ON, _MOST, _MISSED = 5, 10, 4

# Predictions of others, too: all runs on an account hear of all of them.
_KEPT = 10_000


class WebhookInbox:
    """What is told to this event loop, and whether to rely on being told.

    Attributes:
        listening: whether anything may come.
    """

    def __init__(self) -> None:
        self.listening = False
        self._standing = 0
        self._waiting: dict[str, list[Notice]] = {}
        self._kept: dict[str, Prediction] = {}  # told before anybody waited
        self._due: dict[str, float] = {}  # ended, as asking has found; when it should have been told

    def expect(self) -> None:
        """From now on they are listened for, and relied on until one is missing."""
        self.listening, self._standing = True, _RELIED_ON

    def doubt(self) -> None:
        """They are not listened for at the moment."""
        self.listening, self._standing = False, 0
        self._due.clear()

    def tell(self, prediction: Prediction) -> None:
        """A webhook has come. The same one may come again; of an unknown prediction, too."""
        waiting = self._waiting.get(prediction.id)
        for notice in waiting or ():
            notice.tell(prediction)
        if waiting:
            self._judge(in_time=True)
        elif due := self._due.pop(prediction.id, 0.0):
            self._judge(in_time=_now() <= due)
        else:
            self._kept[prediction.id] = prediction
            if len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]

    @contextmanager
    def of(self, prediction_id: str) -> Iterator[Notice]:
        """Notices of one prediction, from now on, and one that has come already."""
        notice = Notice(self, prediction_id)
        if kept := self._kept.pop(prediction_id, None):
            notice.tell(kept)
            self._judge(in_time=True)
        self._waiting.setdefault(prediction_id, []).append(notice)
        try:
            yield notice
        finally:
            self._waiting[prediction_id].remove(notice)
            if not self._waiting[prediction_id]:
                del self._waiting[prediction_id]

    @property
    def relied_on(self) -> bool:
        """Whether to wait for inbox rather than ask."""
        if self._standing >= _RELIED_ON:
            self._miss_what_is_due()
        return self._standing >= _RELIED_ON

    def expect_within(self, prediction_id: str, seconds: float) -> None:
        """A prediction has ended that nothing was told of; its notice may take so many seconds more."""
        self._miss_what_is_due()
        self._due[prediction_id] = _now() + seconds

    def _miss_what_is_due(self) -> None:
        now = _now()
        while self._due:
            prediction_id, due = next(iter(self._due.items()))
            if due > now:
                return
            del self._due[prediction_id]
            self._judge(in_time=False)

    def _judge(self, *, in_time: bool) -> None:
        self._standing = min(self._standing + 1, _MOST) if in_time else max(self._standing - _MISSED, 0)


class Notice:
    """What webhooks tell of one prediction while somebody waits for it."""

    def __init__(self, inbox: WebhookInbox, prediction_id: str) -> None:
        self._came = False
        self._inbox = inbox
        self._prediction_id = prediction_id
        self._unread: Prediction | None = None
        self._sleep: asyncio.Future[None] | None = None

    def tell(self, prediction: Prediction) -> None:
        """It has come."""
        self._came, self._unread = True, prediction
        self.wake()

    def read(self) -> Prediction | None:
        """What was told last, once."""
        unread, self._unread = self._unread, None
        return unread

    async def sleep(self, seconds: float) -> None:
        """Sleep; not on when something is told, or has been and was not read."""
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
        """End the sleep."""
        if self._sleep and not self._sleep.done():
            self._sleep.set_result(None)

    @property
    def relied_on(self) -> bool:
        """Whether to wait for it rather than ask."""
        return not self._came and self._inbox.relied_on

    @property
    def missing(self) -> bool:
        """Whether it is listened for and has not come."""
        return not self._came and self._inbox.listening

    def expect_within(self, seconds: float) -> None:
        """The prediction has ended, as asking has found; the notice may take so many seconds more."""
        self._inbox.expect_within(self._prediction_id, seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()
