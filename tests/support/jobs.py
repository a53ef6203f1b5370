"""Jobs of pictures that need not exist."""

from __future__ import annotations

from typing import Any

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.rows import Row
from prefect_wavespeed.job import Job, Source


def make_row(number: int, image: str = "", **params: Any) -> Row:
    """A row of a manifest; by default each has an image of its own."""
    return Row(number, image or f"https://example.com/{number}.jpg", ReduxParams(**params), f"n{number}")


def job_of(row: Row) -> Job:
    """The job that a row asks for."""
    name = row.image.rpartition("/")[2]
    source = Source(uri=row.safe_image, identity=row.safe_image, name=name, location=row.image)
    return Job(source=source, params=row.params, variant=row.variant)
