"""The same notifications from an SQS queue: a message is deleted after Prefect has taken what it tells."""

from __future__ import annotations

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from prefect_wavespeed.deployments.receiver import metrics, notifications, sns
from prefect_wavespeed.deployments.receiver.events import object_created
from prefect_wavespeed.deployments.receiver.notifications import NotUnderstoodError, Told
from prefect_wavespeed.deployments.receiver.prefect_api import NotTakenError, PrefectApi
from prefect_wavespeed.errors import ConfigurationError, redact

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

_POLLS = 4  # at once
_BATCH = 10  # messages a poll: SQS's limit
_POLL_SECONDS = 20  # SQS's limit
_LONGEST_PAUSE = 30.0
_REMEMBERED = 10_000  # ids of messages that were not understood

_REGION = re.compile(r"(?:^|\.)sqs\.([a-z0-9-]+)\.|^([a-z0-9-]+)\.queue\.")

_log = logging.getLogger(__name__)


class Queue:
    """Reads a queue until told to stop.

    Who may write into it is for the queue's policy to say: neither token nor signature is asked for.

    Attributes:
        trouble: why the queue could not be read when last tried; None when it could.
    """

    def __init__(self, url: str, prefect: PrefectApi) -> None:
        self._url = url
        self._prefect = prefect
        self._sqs = _client(url)
        self._threads = ThreadPoolExecutor(2 * _POLLS, thread_name_prefix="sqs")
        self._told: dict[str, None] = {}
        self.trouble: str | None = None

    async def check(self) -> None:
        """Make sure that the queue is there and may be read.

        Raises:
            ConfigurationError: it is not, or may not; says what to do.
        """
        try:
            answer = await self._call(
                self._sqs.get_queue_attributes, QueueUrl=self._url, AttributeNames=["RedrivePolicy"]
            )
        except (BotoCoreError, ClientError) as error:
            raise ConfigurationError(
                f"--sqs {self._url}: {_said(error)}: the queue must exist, and this machine's AWS identity "
                "needs sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes on it"
            ) from None
        if "RedrivePolicy" not in answer.get("Attributes", {}):
            _log.warning(
                "the queue has no redrive policy: what cannot be understood comes again until it expires"
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Read until ``stop`` is set; what is in hand by then is finished first."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_POLLS):
                group.create_task(self._poll(stop))
        self._threads.shutdown(wait=False)

    async def _poll(self, stop: asyncio.Event) -> None:
        pause = 0.0
        while not stop.is_set():
            # nothing is received that Prefect would not take: each receipt counts for the dead-letter queue
            if self._prefect.trouble is None or await self._prefect.look() is None:
                try:
                    await self._once()
                    pause = 0.0
                    continue
                except NotTakenError:
                    pass  # told by PrefectApi; the messages come again after their visibility timeout
                except (BotoCoreError, ClientError) as error:
                    self._note(f"the queue cannot be read: {_said(error)}")
            pause = min(2 * pause + 1, _LONGEST_PAUSE)
            await _set_within(stop, pause)

    async def _once(self) -> None:
        received = await self._call(
            self._sqs.receive_message,
            QueueUrl=self._url,
            MaxNumberOfMessages=_BATCH,
            WaitTimeSeconds=_POLL_SECONDS,
        )
        self._note(None)
        messages = received.get("Messages", [])
        told = [(message, read) for message in messages if (read := self._read(message))]
        taken = await asyncio.gather(*(self._put(read) for _, read in told), return_exceptions=True)
        done = [message for (message, _), error in zip(told, taken, strict=True) if error is None]
        metrics.MESSAGES.labels("left").inc(len(told) - len(done))
        await self._delete(done)
        for error in taken:
            if error is not None:
                raise error

    def _read(self, message: MessageTypeDef) -> Told | None:
        try:
            body = notifications.parse(message.get("Body", ""))
            if sns.is_envelope(body):
                body = notifications.parse(sns.text(body, "Message"))
            return notifications.read(body)
        except NotUnderstoodError as error:
            metrics.MESSAGES.labels("not_understood").inc()
            name = message.get("MessageId", "")
            if name not in self._told:
                _log.error("message %s is left to the queue's redrive policy: %s", name, error)
                self._told[name] = None
                if len(self._told) > _REMEMBERED:
                    del self._told[next(iter(self._told))]
        return None

    async def _put(self, told: Told) -> None:
        await self._prefect.put([object_created(created) for created in told.created])
        metrics.IGNORED.inc(told.ignored)

    async def _delete(self, messages: list[MessageTypeDef]) -> None:
        if not messages:
            return
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(messages)
        ]
        answer = await self._call(self._sqs.delete_message_batch, QueueUrl=self._url, Entries=entries)
        metrics.MESSAGES.labels("done").inc(len(answer.get("Successful", [])))
        if failed := answer.get("Failed", []):  # they come again, and are the same events again
            metrics.MESSAGES.labels("left").inc(len(failed))
            _log.warning("%d messages could not be deleted: %s", len(failed), redact(failed[0].get("Code")))

    async def _call(self, call: Any, **arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, **arguments))

    def _note(self, trouble: str | None) -> None:
        if trouble and trouble != self.trouble:
            _log.error("%s", trouble)
        elif self.trouble and not trouble:
            _log.warning("the queue can be read again")
        self.trouble = trouble


def _client(url: str) -> SQSClient:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or len(parts.path) < 2:
        raise ConfigurationError(
            f"--sqs {redact(url)}: give the queue's URL, https://sqs.REGION.amazonaws.com/…"
        )
    session = boto3.Session()
    named = _REGION.search(parts.hostname)
    region = (named and (named[1] or named[2])) or session.region_name or "us-east-1"
    return session.client(
        "sqs",
        region_name=region,
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        config=Config(
            connect_timeout=5,
            read_timeout=_POLL_SECONDS + 10,
            max_pool_connections=2 * _POLLS,
            retries={"mode": "standard", "total_max_attempts": 2},
        ),
    )


def _said(error: Exception) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return redact(f"{told.get('Code', '')}: {told.get('Message', '')}").rstrip(". ")
    return redact(error).rstrip(".")


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
