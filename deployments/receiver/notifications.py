"""What S3 event notifications tell, in the shape of each sender.

==============  =================================================  ==========================
sender          shape                                              the key is
==============  =================================================  ==========================
AWS S3          ``{"Records": […]}``, ``eventSource`` `aws:s3`     URL-encoded
through SNS     the same as text, in an envelope (``sns``)         URL-encoded
EventBridge     ``{"detail-type": "Object Created", "detail": …}`` as it is
MinIO           ``{"EventName", "Key", "Records": […]}``           URL-encoded
Ceph            ``{"Records": […]}``, ``eventSource`` `ceph:s3`    as it is
==============  =================================================  ==========================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote_plus

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.errors import RestyleError, redact

_KEY_BYTES = 1024  # S3's limit

_Mark = Annotated[str, StringConstraints(max_length=_KEY_BYTES)] | None


class NotUnderstoodError(RestyleError):
    """It is none of the notifications known here."""


@dataclass(frozen=True)
class Told:
    """What a notification tells.

    Attributes:
        created: objects that were created or overwritten.
        ignored: how many other things it tells: deletions, tests of the configuration.
    """

    created: list[ObjectCreated]
    ignored: int = 0


class _Bucket(BaseModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]


class _Object(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    key: Annotated[str, StringConstraints(min_length=1)]
    size: int | None = Field(default=None, ge=0, lt=2**53)  # what JSON carries
    etag: _Mark = Field(default=None, validation_alias=AliasChoices("eTag", "etag"))
    version: _Mark = Field(default=None, validation_alias=AliasChoices("versionId", "version-id"))
    sequencer: _Mark = None


class _Entity(BaseModel):
    bucket: _Bucket
    object: _Object

    def created(self, key: str) -> ObjectCreated:
        if "\0" in key or not 0 < len(key.encode()) <= _KEY_BYTES:
            raise NotUnderstoodError(f"no key of an object: {redact(key[:80])}")
        about = self.object
        return ObjectCreated(
            bucket=self.bucket.name,
            key=key,
            version=about.version or None,
            etag=(about.etag or "").strip('"') or None,
            sequencer=about.sequencer or None,
            size=about.size,
        )


class _Created(BaseModel):
    s3: _Entity


class _Bridged(BaseModel):
    detail: _Entity


class _Record(BaseModel):
    name: str = Field(validation_alias="eventName")
    source: str = Field(default="", validation_alias="eventSource")
    s3: Any = None


def parse(body: bytes | str) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        NotUnderstoodError: it is none.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise NotUnderstoodError("not JSON") from None
    if not isinstance(message, dict):
        raise NotUnderstoodError("not a JSON object")
    return message


def read(message: dict[str, Any]) -> Told:
    """Say what a notification tells.

    Raises:
        NotUnderstoodError: it has no shape known here; says where it departs from one.
    """
    try:
        if "Records" in message:
            return _records(message["Records"])
        if "detail-type" in message:
            return _from_eventbridge(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "a record"
        problem = "should be an object" if first["type"] == "model_type" else first["msg"]
        raise NotUnderstoodError(f"no S3 event notification: {where}: {problem}") from None
    if message.get("Event") == "s3:TestEvent":
        return Told([], ignored=1)
    raise NotUnderstoodError("no S3 event notification: neither Records nor detail-type")


def _records(records: Any) -> Told:
    if not isinstance(records, list):
        raise NotUnderstoodError("no S3 event notification: Records is no list")
    read = [_Record.model_validate(record) for record in records]
    created = [_record(one) for one in read if one.name.removeprefix("s3:").startswith("ObjectCreated:")]
    return Told(created, ignored=len(read) - len(created))


def _record(record: _Record) -> ObjectCreated:
    entity = _Created(s3=record.s3).s3
    if record.source == "ceph:s3":
        return entity.created(entity.object.key)
    try:
        return entity.created(unquote_plus(entity.object.key, errors="strict"))
    except UnicodeDecodeError:
        raise NotUnderstoodError(f"no URL-encoded key: {redact(entity.object.key[:80])}") from None


def _from_eventbridge(message: dict[str, Any]) -> Told:
    if message["detail-type"] != "Object Created":
        return Told([], ignored=1)
    entity = _Bridged.model_validate(message).detail
    return Told([entity.created(entity.object.key)])
