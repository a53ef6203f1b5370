"""Uploading a picture, in whichever of the API's two ways works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field, model_validator

from prefect_wavespeed.api._transport import Transport
from prefect_wavespeed.errors import InvalidRequestError, NotFoundError, RestyleError, UnavailableError

_Shape = TypeVar("_Shape", bound=BaseModel)
_Way = Callable[[str, bytes, str, float], Awaitable[str]]


class _Uploaded(BaseModel):
    """Answer of the binary way; an older form has only ``url``."""

    download_url: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _older_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("download_url"):
            return {"download_url": value.get("url")}
        return value


class _Instruction(BaseModel):
    """Where the bytes of a ticket go."""

    url: str = Field(pattern="^https?://")
    method: str = Field(default="PUT", pattern="^(PUT|POST)$")
    headers: dict[str, str] = Field(default_factory=dict)


class _Ticket(BaseModel):
    """Answer of the way with tickets."""

    upload: _Instruction
    download_url: str = Field(min_length=1)


class _Call(Protocol):
    def __call__(
        self, method: str, path: str, shape: type[_Shape], *, seconds: float | None = None, **request: Any
    ) -> Awaitable[_Shape]: ...


class Uploader:
    """Sends pictures in one request, or with a ticket; if one way fails, in the other, which it remembers.

    Args:
        transport: sends the bytes of a ticket, without the key.
        call: makes a request to the API.
    """

    def __init__(self, transport: Transport, call: _Call) -> None:
        self._transport = transport
        self._call = call
        self._ways: tuple[_Way, _Way] = self._in_one_request, self._with_a_ticket

    async def upload(self, filename: str, data: bytes, content_type: str, *, seconds: float) -> str:
        """``WaveSpeedClient.upload``."""
        first, second = self._ways
        try:
            return await first(filename, data, content_type, seconds)
        except RestyleError as error:
            if not _is_unknown_way(error):
                raise
            refusal = error
        try:
            url = await second(filename, data, content_type, seconds)
        except RestyleError as error:
            if _is_unknown_way(error) and not isinstance(refusal, NotFoundError):
                raise refusal from None
            raise
        self._ways = second, first
        return url

    async def _in_one_request(self, filename: str, data: bytes, content_type: str, seconds: float) -> str:
        file = {"file": (filename, data, content_type)}
        path = "/api/v3/media/upload/binary"
        return (await self._call("POST", path, _Uploaded, seconds=seconds, files=file)).download_url

    async def _with_a_ticket(self, filename: str, data: bytes, content_type: str, seconds: float) -> str:
        wanted = {"filename": filename, "size": len(data), "content_type": content_type}
        ticket = await self._call("POST", "/api/v3/media/uploads", _Ticket, seconds=seconds, json=wanted)
        headers = {"Content-Type": content_type, **ticket.upload.headers}
        await self._transport.send(
            ticket.upload.method, ticket.upload.url, data, headers=headers, seconds=seconds
        )
        return ticket.download_url


def _is_unknown_way(error: RestyleError) -> bool:
    """Whether the API seems not to have this way, or to answer otherwise than it is known to."""
    if isinstance(error, UnavailableError):
        return error.status is not None and 200 <= error.status < 300
    return isinstance(error, NotFoundError | InvalidRequestError)
