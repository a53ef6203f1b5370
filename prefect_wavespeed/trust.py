"""Whom we trust beside the system's certificate authorities."""

from __future__ import annotations

import os
from functools import partial

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.local_files import in_time_sync, read_regular

CA_BUNDLE = "AWS_CA_BUNDLE"
"""Names a file with certificates of authorities, such as that of a company's proxy."""

_LIMIT = 16 << 20  # bytes; all public authorities have 250 kB

NOT_TRUSTED = f"set {CA_BUNDLE} to a file with its authority's certificate"


def ca_bundle() -> str | None:
    """The certificates in the file that AWS_CA_BUNDLE names, as PEM; None where it names none.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    path = os.environ.get(CA_BUNDLE)
    if not path:
        return None
    try:
        return in_time_sync(partial(read_regular, path, _LIMIT)).decode("ascii", "replace")
    except OSError as error:
        raise ConfigurationError(
            f"{error.strerror}: {CA_BUNDLE} {path}: name a file with your authority's certificate"
        ) from None
