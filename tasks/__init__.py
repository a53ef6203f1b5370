"""Prefect tasks, one a file: the engine's steps, with retries, names and events."""

from tasks.download import download
from tasks.find import find
from tasks.poll import poll
from tasks.settle_open import settle_open
from tasks.submit import submit

__all__ = ["download", "find", "poll", "settle_open", "submit"]
