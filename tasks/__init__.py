"""Prefect tasks, one a file: the engine's steps, with retries, names and events."""

from prefect_wavespeed.tasks.download import download
from prefect_wavespeed.tasks.find import find
from prefect_wavespeed.tasks.poll import poll
from prefect_wavespeed.tasks.settle_open import settle_open
from prefect_wavespeed.tasks.submit import submit

__all__ = ["download", "find", "poll", "settle_open", "submit"]
