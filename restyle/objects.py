"""An object that was created in a bucket, and what becomes of it: its restyled pictures, or a dead letter."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ObjectCreated(BaseModel):
    """That an object was created or overwritten, as a store's notification tells it.

    Attributes:
        version: of the object, where the bucket keeps versions.
        sequencer: orders the events of one key (AWS, Ceph and MinIO send one).
        size: in bytes.
    """

    model_config = ConfigDict(frozen=True)

    bucket: str = Field(min_length=1)
    key: str = Field(min_length=1)
    version: str | None = None
    etag: str | None = None
    sequencer: str | None = None
    size: int | None = None

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """What names the work: the same for every delivery of one event, another once it is overwritten."""
        version = None if self.version == "null" else self.version
        marks = (("version", version), ("sequencer", self.sequencer), ("etag", self.etag))
        mark = next((f"{kind}={value.strip(chr(34))}" for kind, value in marks if value), "")
        return f"{self.uri}#{mark}"
