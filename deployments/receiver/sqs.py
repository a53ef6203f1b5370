"""Notifications from an SQS queue: a message is deleted once Prefect has accepted its events."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cachetools import LRUCache

from prefect_wavespeed.deployments.receiver import metrics
from prefect_wavespeed.deployments.receiver.events import object_created
from prefect_wavespeed.deployments.receiver.notifications import (
    InvalidNotificationError,
    Notification,
    parse_json,
    parse_notification,
)
from prefect_wavespeed.deployments.receiver.prefect_api import EventsNotAcceptedError, PrefectApi
from prefect_wavespeed.deployments.receiver.sns import is_envelope, text_field
from prefect_wavespeed.deployments.serving import SHUTDOWN_SECONDS
from prefect_wavespeed.errors import ConfigurationError, redact

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

_CONCURRENCY = 4  # polls at once
_BATCH = 10  # messages in a poll: SQS's maximum
_POLL_SECONDS = 20  # SQS's maximum
_MAX_PAUSE_SECONDS = 30.0
_EMPTY_SECONDS = 1.0  # at least, between polls that bring nothing of use
_MAX_REPORTED = 10_000  # ids of invalid messages, to report each once

_REGION = re.compile(r"(?:^|\.)sqs\.([a-z0-9-]+)\.|^([a-z0-9-]+)\.queue\.")

_log = logging.getLogger(__name__)


class SqsQueue:
    """Reads a queue until it is stopped.

    The queue's policy decides who may write into it: no token and no signature is required.

    Attributes:
        problem: why the queue could not be read last time; None when it could.
    """

    def __init__(self, url: str, prefect: PrefectApi) -> None:
        self._url = url
        self._prefect = prefect
        self._sqs = _client(url)
        self._threads = ThreadPoolExecutor(2 * _CONCURRENCY, thread_name_prefix="sqs")
        self._reported: LRUCache[str, None] = LRUCache(_MAX_REPORTED)
        self.problem: str | None = None

    async def check(self) -> None:
        """Check that the queue exists and may be read.

        Raises:
            ConfigurationError: it does not, or it may not be.
        """
        try:
            answer = await self._call(
                self._sqs.get_queue_attributes, QueueUrl=self._url, AttributeNames=["RedrivePolicy"]
            )
        except (BotoCoreError, ClientError) as error:
            raise ConfigurationError(
                f"--sqs {self._url}: {_describe(error)}: the queue must exist, and this machine's AWS "
                "identity needs sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes on it"
            ) from None
        if "RedrivePolicy" not in answer.get("Attributes", {}):
            _log.warning("the queue has no redrive policy: invalid messages are delivered until they expire")

    async def run(self, stop: asyncio.Event) -> None:
        """Read until ``stop`` is set; messages received by then are finished first, as far as time allows."""
        async with asyncio.TaskGroup() as group:
            polls = [group.create_task(self._poll_until(stop)) for _ in range(_CONCURRENCY)]
            stopping = group.create_task(stop.wait())
            await asyncio.wait([stopping, *polls], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(polls, timeout=SHUTDOWN_SECONDS)
            for poll in polls:
                poll.cancel()  # what it has not deleted is delivered again
        self._threads.shutdown(wait=False)

    async def _poll_until(self, stop: asyncio.Event) -> None:
        pause = 0.0
        while not stop.is_set():
            # each receipt counts towards the dead-letter queue, so none is spent while Prefect is down
            if self._prefect.problem is None or await self._prefect.check() is None:
                try:
                    asked = time.monotonic()
                    if await self._poll():
                        pause = 0.0
                        continue
                    # The queue waits for messages, unless it is no real one or delivers what is left again.
                    pause = max(0.0, _EMPTY_SECONDS - (time.monotonic() - asked))
                    await _wait_for(stop, pause)
                    continue
                except EventsNotAcceptedError:
                    pass  # logged by PrefectApi; SQS delivers the messages again
                except (BotoCoreError, ClientError) as error:
                    self._note(f"the queue cannot be read: {_describe(error)}")
            pause = min(2 * pause + 1, _MAX_PAUSE_SECONDS)
            await _wait_for(stop, pause)

    async def _poll(self) -> bool:
        """Receive messages once; whether any is done."""
        received = await self._call(
            self._sqs.receive_message,
            QueueUrl=self._url,
            MaxNumberOfMessages=_BATCH,
            WaitTimeSeconds=_POLL_SECONDS,
        )
        self._note(None)
        messages = received.get("Messages", [])
        valid = [(message, content) for message in messages if (content := self._parse(message))]
        results = await asyncio.gather(*(self._send(content) for _, content in valid), return_exceptions=True)
        done = [message for (message, _), error in zip(valid, results, strict=True) if error is None]
        metrics.MESSAGES.labels("left").inc(len(valid) - len(done))
        await self._delete(done)
        for error in results:
            if error is not None:
                raise error
        return bool(done)

    def _parse(self, message: MessageTypeDef) -> Notification | None:
        """Return the message's content; None, and a line in the log, where it is not valid."""
        try:
            body = parse_json(message.get("Body", ""))
            if is_envelope(body):
                body = parse_json(text_field(body, "Message"))
            return parse_notification(body)
        except InvalidNotificationError as error:
            metrics.MESSAGES.labels("not_understood").inc()
            message_id = message.get("MessageId", "")
            if message_id not in self._reported:
                _log.error("%s: message %s is left to the queue's redrive policy", error, message_id)
                self._reported[message_id] = None
        return None

    async def _send(self, notification: Notification) -> None:
        await self._prefect.send([object_created(created) for created in notification.created])
        metrics.IGNORED.inc(notification.ignored)

    async def _delete(self, messages: list[MessageTypeDef]) -> None:
        if not messages:
            return
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(messages)
        ]
        answer = await self._call(self._sqs.delete_message_batch, QueueUrl=self._url, Entries=entries)
        metrics.MESSAGES.labels("done").inc(len(answer.get("Successful", [])))
        if failed := answer.get("Failed", []):  # they are delivered again, and make the same events
            metrics.MESSAGES.labels("left").inc(len(failed))
            _log.warning("%d messages could not be deleted: %s", len(failed), redact(failed[0].get("Code")))

    async def _call(self, call: Any, **arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, **arguments))

    def _note(self, problem: str | None) -> None:
        if problem and problem != self.problem:
            _log.error("%s", problem)
        elif self.problem and not problem:
            _log.warning("the queue can be read again")
        self.problem = problem


def _client(url: str) -> SQSClient:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or len(parts.path) < 2:
        raise ConfigurationError(
            f"--sqs {redact(url)}: not the queue's URL: give https://sqs.REGION.amazonaws.com/…"
        )
    session = boto3.Session()
    match = _REGION.search(parts.hostname)
    region = (match and (match[1] or match[2])) or session.region_name or "us-east-1"
    return session.client(
        "sqs",
        region_name=region,
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        config=Config(
            connect_timeout=5,
            read_timeout=_POLL_SECONDS + 10,
            max_pool_connections=2 * _CONCURRENCY,
            retries={"mode": "standard", "total_max_attempts": 2},
        ),
    )


def _describe(error: Exception) -> str:
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        return redact(f"{details.get('Code', '')}: {details.get('Message', '')}").rstrip(". ")
    return redact(error).rstrip(".")


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
