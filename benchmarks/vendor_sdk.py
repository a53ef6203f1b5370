"""The rival: the vendor's SDK in a thread pool, as a user would write it. No ledger, nothing verified.

It stores what this project stores of a finished image: the picture, and a JSON record beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import requests
from botocore.config import Config
from wavespeed import Client  # type: ignore[import-untyped]

from benchmarks.contender import IMAGE, Work, contend, now
from prefect_wavespeed.api.models import MODEL

Put = Callable[[str, bytes, str], object]


def _put_into(output: str, in_flight: int) -> Put:
    scheme, _, place = output.rpartition("://")
    if not scheme:
        folder = Path(output)
        folder.mkdir(parents=True)
        return lambda name, data, _: (folder / name).write_bytes(data)
    bucket, _, prefix = place.partition("/")
    client = boto3.client("s3", config=Config(max_pool_connections=in_flight))
    return lambda name, data, kind: client.put_object(
        Bucket=bucket, Key=f"{prefix}/{name}", Body=data, ContentType=kind
    )


def run(work: Work) -> float:
    """Restyle all images."""
    client = Client(api_key="bench-key", base_url=work.base_url)
    put = _put_into(work.output, work.in_flight)

    def one(number: int) -> None:
        request = {"image": IMAGE, "seed": number}
        outputs = client.run(MODEL, request, poll_interval=1.0)["outputs"]
        picture = requests.get(outputs[0], timeout=30)
        put(f"{number}.jpeg", picture.content, "image/jpeg")
        record = {"model": MODEL, "request": request, "outputs": outputs, "bytes": len(picture.content)}
        put(f"{number}.json", json.dumps(record, indent=2).encode(), "application/json")

    with ThreadPoolExecutor(work.in_flight) as pool:
        list(pool.map(one, range(work.images)))
    return now()


if __name__ == "__main__":
    contend(run)
