"""Every image below a prefix in S3, except the pictures that this project stored there."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prefect_wavespeed.batch.manifest.left_out import ending_of, is_marker, left_out_line
from prefect_wavespeed.batch.manifest.text import UnreadableError
from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.errors import SourceError
from prefect_wavespeed.quality.formats import endings
from prefect_wavespeed.sources.objects import find_object, objects_below
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.s3_names import is_bucket_name
from prefect_wavespeed.storage.store import Store

_CONCURRENT_HEADS = 50
_S3 = "s3://"


async def images_below(
    manifest: str, store: Store, left_out: Counter[str]
) -> AsyncGenerator[dict[str, Entry], None]:
    """The images below ``s3://bucket/prefix/`` by their uris, as the listing has them, a page at a time.

    Args:
        manifest: the prefix.
        store: where outputs go: S3 is read with its credentials.
        left_out: counts the objects that are no images, by the ending of their names.

    Raises:
        UnreadableError: it names no bucket, or there are none.
        ConfigurationError: it may not be listed.
        StoreError: it cannot be listed now.
    """
    bucket, _, prefix = manifest[len(_S3) :].partition("/")
    if not bucket:
        raise UnreadableError("the bucket's name is missing: give s3://bucket/prefix/")
    if not is_bucket_name(bucket):
        raise UnreadableError(f"not a valid bucket name: {bucket!r}: give s3://bucket/prefix/")
    root, found = f"{_S3}{bucket}/{prefix}", Found()
    async for page in objects_below(bucket, prefix, store):
        listed = {f"{_S3}{bucket}/{entry.path}": entry for entry in page if not is_marker(entry.path)}
        pictures = list(candidates(listed, root, store, left_out, found))
        images = await _without_outputs(pictures, root, store)
        found.images += len(images)
        found.stored += len(pictures) - len(images)
        yield {image: listed[image] for image in images}
    if not found.images:
        raise no_images("below it", left_out, found)


@dataclass
class Found:
    """How many images there are, and how many besides that this project stored."""

    images: int = 0
    stored: int = 0


def candidates(
    uris: Iterable[str], root: str, store: Store, left_out: Counter[str], found: Found
) -> Iterator[str]:
    """The uris, or paths, below a root that may be images, without what this batch's output holds."""
    own, records, known = _own_folders(root, store), _records(store), endings()
    for uri in uris:
        ending = ending_of(uri)
        if uri.startswith(own):
            found.stored += ending in known
        elif ending in known:
            yield uri
        elif not uri.startswith(records):
            left_out[ending] += 1


def no_images(where: str, left_out: Mapping[str, int], found: Found) -> UnreadableError:
    """The error where there are none."""
    besides = f" ({left_out_line(left_out)})" if left_out else ""
    if not found.stored:
        return UnreadableError(f"no images {where}{besides}")
    return UnreadableError(
        f"no images {where}{besides} except those that this project stored: to restyle these, name their "
        "folder images/"
    )


def _own_folders(root: str, store: Store) -> tuple[str, ...]:
    """The uris below which this batch's own output stores pictures."""
    output = store.uri_of("")
    if output.startswith(root) and output != root:
        return (output,)
    return store.uri_of(layout.IMAGES), store.uri_of(layout.QUARANTINE)  # beside the sources, or above them


def _records(store: Store) -> tuple[str, ...]:
    """The uris below which an output's own records are: nobody misses them among the images."""
    folders = (layout.OPEN, layout.FAILED, layout.RUNS, layout.UPLOADS, layout.PROBE)
    return tuple(map(store.uri_of, folders))


async def _without_outputs(images: list[str], root: str, store: Store) -> list[str]:
    """The images except pictures of other outputs: two batches that read each other's would never end.

    A root that names the folder ``images/`` itself is taken to mean them.
    """
    candidates = [image for image in images if layout.is_picture(image.removeprefix(root))]
    stored = await map_all(lambda image: _is_stored(image, store), candidates, _CONCURRENT_HEADS)
    outputs = {image for image, is_output in zip(candidates, stored, strict=True) if is_output}
    return [image for image in images if image not in outputs]


async def _is_stored(image: str, store: Store) -> bool:
    try:
        return (await find_object(image, store, with_bytes=False)).is_output
    except SourceError:  # reported for its row
        return False
