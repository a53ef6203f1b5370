"""Sources on S3: an object, identified by its uri with its ETag or version."""

from __future__ import annotations

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from prefect_wavespeed.errors import SourceDeniedError, SourceError, StoreError
from prefect_wavespeed.job import Source
from prefect_wavespeed.quality.verify import check_source_size
from prefect_wavespeed.storage.errors import bucket_is_missing, translate
from prefect_wavespeed.storage.s3 import split_s3_uri
from prefect_wavespeed.storage.store import Store

# Every picture that this project stores has these metadata (steps.output_collector).
_OUTPUT_METADATA = frozenset({"job-key", "prediction-id"})


def check_s3_uri(image: str) -> None:
    """Refuse an ``s3://`` uri that lacks its bucket or its key.

    Raises:
        SourceError: it does.
    """
    bucket, key = split_s3_uri(image)
    if not (bucket and key):
        raise SourceError(f"{'no key' if bucket else 'no bucket'}: image {image}: use s3://bucket/key")


def object_source(uri: str, version: str | None, etag: str | None) -> Source:
    """The picture that one version of an S3 object is; nothing is fetched."""
    is_versioned = version and version != "null"
    mark = f"version={version}" if is_versioned else f"etag={(etag or '').strip(chr(34))}"
    return Source(uri=uri, identity=f"{uri}#{mark}", name=uri.rpartition("/")[2], location=uri)


async def identify_object(uri: str, store: Store) -> Source:
    """The picture that an S3 object is now.

    Args:
        uri: ``s3://bucket/key``.
        store: whose credentials are used, if it is on S3.

    Raises:
        SourceError: it does not exist or is too big; SourceDeniedError where the credentials may not read it.
        StoreError: the server cannot be reached now.
    """
    bucket, key = handle_and_key(uri, store)
    try:
        meta = await obstore.head_async(bucket, key)
    except (BaseError, OSError) as error:
        raise _source_error(uri, error) from None
    check_source_size(meta["size"], f"image {uri}")
    return object_source(uri, meta["version"], meta["e_tag"])


class SourceObject:
    """An S3 object as one GET describes it; its bytes are on their way only once they are asked for.

    Attributes:
        source: the picture that it would be.
        metadata: its user metadata, names in lower case.
    """

    def __init__(self, uri: str, result: obstore.GetResult) -> None:
        meta = result.meta
        self.source = object_source(uri, meta["version"], meta["e_tag"])
        self.metadata = {str(name).lower(): value for name, value in result.attributes.items()}
        self._size = meta["size"]
        self._result = result

    @property
    def is_output(self) -> bool:
        """Whether it is a picture that this project stored, or a copy of one."""
        return self.metadata.keys() >= _OUTPUT_METADATA

    async def read(self) -> bytes:
        """Its bytes.

        Raises:
            SourceError: it is too big; nothing of it is read.
            StoreError: it cannot be read now.
        """
        check_source_size(self._size, f"image {self.source.uri}")
        try:
            return bytes(await self._result.bytes_async())
        except (BaseError, OSError) as error:
            raise _source_error(self.source.uri, error) from None


async def find_object(uri: str, store: Store, *, with_bytes: bool = True) -> SourceObject:
    """The object at ``s3://bucket/key`` as it is now.

    Args:
        uri: of the object.
        store: whose credentials are used, if it is on S3.
        with_bytes: False asks for its headers only.

    Raises:
        SourceError: it does not exist; SourceDeniedError where these credentials may not read it.
        StoreError: the server cannot be reached now.
    """
    check_s3_uri(uri)
    bucket, key = handle_and_key(uri, store)
    try:
        return SourceObject(uri, await obstore.get_async(bucket, key, options={"head": not with_bytes}))
    except (BaseError, OSError) as error:
        raise _source_error(uri, error) from None


def handle_and_key(uri: str, store: Store) -> tuple[S3Store, str]:
    """An obstore handle on the bucket of ``s3://bucket/key``, and the key.

    Raises:
        SourceError: obstore would refuse the key, or read another object.
    """
    bucket, key = split_s3_uri(uri)
    if not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise SourceError(f"empty part, '.' or '..' in the key: image {uri}: rename the object")
    return store.source_access.bucket(bucket), key


def _source_error(uri: str, error: Exception) -> SourceError | StoreError:
    """What is wrong with the picture; a StoreError where it is the server that cannot be reached."""
    if isinstance(error, FileNotFoundError) and not bucket_is_missing(error):
        return SourceError(f"no such object: image {uri}")
    if "Metadata value for" in str(error):  # some servers take what S3 does not allow, and obstore reads none
        return SourceError(f"metadata is not ASCII: image {uri}: upload it again with ASCII metadata")
    problem = translate(error, f"cannot read image {uri}")
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    kind = SourceDeniedError if denied or not problem.retryable else StoreError
    return kind(problem.message)
