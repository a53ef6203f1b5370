"""One prediction and its state."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.emulator.faults import Rule
from prefect_wavespeed.emulator.pictures.files import Picture

Status = Literal["created", "processing", "completed", "failed", "timeout", "cancelled", "deleted"]
TERMINAL = frozenset({"completed", "failed", "timeout", "cancelled", "deleted"})

SECOND = 1_000_000_000
"""In nanoseconds."""


@dataclass(slots=True, eq=False)
class Prediction:
    """A prediction. Times are Unix nanoseconds, 0 where they have not come; prices are in USD.

    Attributes:
        request: as validated.
        input: as it was sent.
        price: of the whole request.
        webhook: URL to deliver to.
        key: the API key that submitted it.
        rule: the fault that it ends with.
        pictures: the outputs.
        inline: the outputs as base64, where that was asked for.
        handed_out: how often its output URLs have been given to the client.
        completed_at: when it ended, in whatever way.
        reported_at: when the first answer said so; a webhook is not an answer.
        listed_from: since when the history contains it.
        deliveries: statuses of the webhook's deliveries; None where there was no answer.
        done: set when it ends, for those that wait for it.
        task: works on it.
    """

    request: ReduxRequest
    input: Mapping[str, Any]
    price: float
    webhook: str | None
    key: str
    rule: Rule | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=time.time_ns)
    status: Status = "created"
    code: int = 0
    error: str = ""
    inference_ms: int = 0
    refunded: bool = False
    pictures: list[Picture] = field(default_factory=list)
    inline: list[str] | None = None
    handed_out: int = 0
    completed_at: int = 0
    reported_at: int = 0
    listed_from: int = 0
    deliveries: list[int | None] = field(default_factory=list)
    done: asyncio.Event | None = None
    task: asyncio.Task[None] | None = None

    @property
    def fault(self) -> str | None:
        """Name of the fault that it ends with."""
        return self.rule.fault if self.rule else None

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL

    def entry(self) -> dict[str, Any]:
        """The item of ``GET /emulator/ledger``."""
        return {
            "id": self.id,
            "created_at": timestamp(self.created),
            "completed_at": timestamp(self.completed_at) if self.completed_at else None,
            "reported_at": timestamp(self.reported_at) if self.reported_at else None,
            "status": self.status,
            "code": self.code,
            "model": MODEL,
            "input": self.input,
            "price": self.price,
            "billed": not self.refunded,
            "refunded": self.refunded,
            "webhook": self.webhook,
            "deliveries": self.deliveries,
        }


def timestamp(nanoseconds: int) -> str:
    """An ISO timestamp with nine decimal places, as the API writes it."""
    seconds, fraction = divmod(nanoseconds, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
