"""S3 event notifications, in the format of each sender.

==============  =================================================  ==========================
sender          format                                             the key is
==============  =================================================  ==========================
AWS S3          ``{"Records": […]}``, ``eventSource`` `aws:s3`     URL-encoded
through SNS     the same as text, in an envelope (``sns``)         URL-encoded
EventBridge     ``{"detail-type": "Object Created", "detail": …}`` plain
MinIO           ``{"EventName", "Key", "Records": […]}``           URL-encoded
Ceph            ``{"Records": […]}``, ``eventSource`` `ceph:s3`    plain
==============  =================================================  ==========================
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_plus

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from prefect_wavespeed.api.base64_stream import NotJsonError, decode_json
from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.errors import RestyleError, redact

_KEY_BYTES = 1024  # S3's limit
_MAX_RECORDS = 1000  # senders put one into a notification, or a few

_log = logging.getLogger(__name__)

_Shape = TypeVar("_Shape", bound=BaseModel)
_Identifier = Annotated[str, StringConstraints(max_length=_KEY_BYTES)] | None


class InvalidNotificationError(RestyleError):
    """A message is not a notification in one of these formats."""


@dataclass(frozen=True)
class Notification:
    """The content of a notification.

    Attributes:
        created: objects that were created or overwritten.
        ignored: number of other records in it: deletions, tests of the configuration, odd ones.
    """

    created: list[ObjectCreated]
    ignored: int = 0


class _Bucket(BaseModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]


class _Object(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    key: Annotated[str, StringConstraints(min_length=1)]
    size: int | None = Field(default=None, ge=0, lt=2**53)  # exact in JSON
    etag: _Identifier = Field(default=None, validation_alias=AliasChoices("eTag", "etag"))
    version: _Identifier = Field(default=None, validation_alias=AliasChoices("versionId", "version-id"))
    sequencer: _Identifier = None


class _Entity(BaseModel):
    bucket: _Bucket
    object: _Object

    def created(self, key: str) -> ObjectCreated:
        if "\0" in key or not 0 < len(key.encode()) <= _KEY_BYTES:
            raise InvalidNotificationError(f"not a valid object key: {redact(key[:80])}")
        created = self.object
        return ObjectCreated(
            bucket=self.bucket.name,
            key=key,
            version=created.version or None,
            etag=(created.etag or "").strip('"') or None,
            sequencer=created.sequencer or None,
            size=created.size,
        )


class _S3Record(BaseModel):
    s3: _Entity


class _EventBridgeMessage(BaseModel):
    detail: _Entity


class _Record(BaseModel):
    name: str = Field(validation_alias="eventName")
    source: str = Field(default="", validation_alias="eventSource")
    s3: Any = None


def parse_json(body: bytes | str) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        InvalidNotificationError: the body is something else.
    """
    try:
        message = decode_json(body)
    except NotJsonError:
        raise InvalidNotificationError("not JSON") from None
    if not isinstance(message, dict):
        raise InvalidNotificationError("not a JSON object")
    return message


def parse_notification(message: dict[str, Any]) -> Notification:
    """Extract the content of a notification; what cannot be read beside that is logged.

    Raises:
        InvalidNotificationError: it has none of the formats, or only records that have none; says where it
            differs.
    """
    if "Records" in message:
        return _from_records(message["Records"])
    if "detail-type" in message:
        return _from_eventbridge(message)
    if message.get("Event") == "s3:TestEvent":
        return Notification([], ignored=1)
    raise InvalidNotificationError("not an S3 event notification: it has neither Records nor detail-type")


def _from_records(records: Any) -> Notification:
    if not isinstance(records, list):
        raise InvalidNotificationError("not an S3 event notification: Records is not a list")
    if len(records) > _MAX_RECORDS:
        raise InvalidNotificationError(f"not an S3 event notification: more than {_MAX_RECORDS:,} records")
    created: list[ObjectCreated] = []
    odd: list[InvalidNotificationError] = []
    for record in records:
        try:
            one = _read(_Record, record)
            if one.name.removeprefix("s3:").startswith("ObjectCreated:"):
                created.append(_created_by(one))
        except InvalidNotificationError as error:
            odd.append(error)
    if odd and not created:
        raise odd[0]
    for problem in odd:
        _log.error("%s: this record is left out, the others of its notification are taken", problem)
    return Notification(created, ignored=len(records) - len(created))


def _read(shape: type[_Shape], value: Any) -> _Shape:
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "a record"
        problem = "should be an object" if first["type"] == "model_type" else first["msg"]
        raise InvalidNotificationError(f"not an S3 event notification: {where}: {problem}") from None


def _created_by(record: _Record) -> ObjectCreated:
    entity = _read(_S3Record, {"s3": record.s3}).s3
    if record.source == "ceph:s3":
        return entity.created(entity.object.key)
    try:
        return entity.created(unquote_plus(entity.object.key, errors="strict"))
    except UnicodeDecodeError:
        raise InvalidNotificationError(
            f"the key is not URL-encoded: {redact(entity.object.key[:80])}"
        ) from None


def _from_eventbridge(message: dict[str, Any]) -> Notification:
    if message["detail-type"] != "Object Created":
        return Notification([], ignored=1)
    entity = _read(_EventBridgeMessage, message).detail
    return Notification([entity.created(entity.object.key)])
