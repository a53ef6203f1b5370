"""The rival: the vendor's SDK in a thread pool, as a user would write it. No ledger, no side-car."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import requests
from wavespeed import Client  # type: ignore[import-untyped]

from benchmarks.contender import IMAGE, Work, contend
from restyle.models import MODEL


def run(work: Work) -> None:
    """Restyle all images."""
    client = Client(api_key="bench-key", base_url=work.base_url)
    work.output.mkdir(parents=True)

    def one(number: int) -> None:
        outputs = client.run(MODEL, {"image": IMAGE, "seed": number}, poll_interval=1.0)["outputs"]
        (work.output / f"{number}.jpeg").write_bytes(requests.get(outputs[0], timeout=30).content)

    with ThreadPoolExecutor(work.in_flight) as pool:
        list(pool.map(one, range(work.images)))


if __name__ == "__main__":
    contend(run)
