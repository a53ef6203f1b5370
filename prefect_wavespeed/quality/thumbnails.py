"""Small JPEGs for people to look at. Decoding is CPU work: call ``thumbnail`` in a thread."""

from __future__ import annotations

from prefect_wavespeed.errors import OutputError
from prefect_wavespeed.quality.decoding import decode, small_jpeg
from prefect_wavespeed.quality.formats import decoding_problem, sniff


def thumbnail(data: bytes, edge: int = 160) -> bytes:
    """The picture as a small JPEG, upright, with no side longer than ``edge`` pixels.

    Raises:
        OutputError: it is no image, does not decode, or is too big to be decoded.
    """
    try:
        decoded = decode(data, sniff(data) or "", edge)
        if decoded.small is None:
            raise ValueError(decoded.odd)
        return small_jpeg(decoded.small, quality=80)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"no thumbnail can be made: {decoding_problem(error)}") from None
