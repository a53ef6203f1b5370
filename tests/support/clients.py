"""A client of a server that says what a test wants."""

from __future__ import annotations

import pickle
from typing import Any

from prefect_wavespeed import errors
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from tests.support.raw_server import RawServer

KEY = "canary-2f6d1c9e8b7a4053"
REQUEST = ReduxRequest(image="https://example.com/cat.jpg", seed=7)
CREATED = {"id": "p1", "model": MODEL, "status": "created"}


def client_of(server: RawServer, **options: Any) -> WaveSpeedClient:
    return WaveSpeedClient(KEY, server.url, **options)


def holds_no_key(error: BaseException) -> None:
    """Neither shown, nor pickled, nor in anything that hangs on the error."""
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    for each in (error, again):
        assert KEY not in f"{each!s} {each!r} {vars(each)}"
    assert KEY.encode() not in pickle.dumps(error)
    for chained in (error.__cause__, error.__context__):
        assert chained is None or isinstance(chained, errors.RestyleError)
