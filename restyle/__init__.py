"""Restyle images with WaveSpeedAI's FLUX.1 Redux [dev], each billed once. Plain Python, without Prefect."""

from restyle.client import WaveSpeedClient
from restyle.jobs import Job, Restyled, RunInfo
from restyle.models import Prediction, ReduxParams, ReduxRequest
from restyle.steps import Steps, carry_through, make_job
from restyle.store import Store, open_store

__all__ = [
    "Job",
    "Prediction",
    "ReduxParams",
    "ReduxRequest",
    "Restyled",
    "RunInfo",
    "Steps",
    "Store",
    "WaveSpeedClient",
    "carry_through",
    "make_job",
    "open_store",
]
