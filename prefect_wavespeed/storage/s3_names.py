"""Names of buckets and objects; apart from ``s3``, which imports boto3: that takes as long as 15 images."""

from __future__ import annotations

import re

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")


def is_bucket_name(name: str) -> bool:
    """Whether a server may have a bucket of that name; in a URL, others would mean another path."""
    return _BUCKET.fullmatch(name) is not None and name.strip(".") != ""


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key, or prefix, of ``s3://bucket/key``; what is missing is an empty string."""
    bucket, _, key = uri[len("s3://") :].partition("/")
    return bucket, key
