"""Restyle images with WaveSpeedAI's FLUX.1 Redux [dev] and store them, each one billed once.

In a Prefect flow, or in a deployment::

    from prefect_wavespeed import ReduxParams, restyle_image

    restyled = restyle_image("s3://photos/in/coffee.jpg", ReduxParams(num_images=2), output="s3://…")

Without Prefect::

    from prefect_wavespeed import Engine, WaveSpeedClient, open_store

    async with WaveSpeedClient(api_key) as client:
        restyled = await Engine(client, open_store("pictures")).restyle("coffee.jpg")

Every error is a `RestyleError`; ``prefect_wavespeed.errors`` has one for each thing that can go wrong.
Names are imported when they are first used, so ``import prefect_wavespeed`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_wavespeed.api.client import WaveSpeedClient
    from prefect_wavespeed.api.models import ReduxParams
    from prefect_wavespeed.batch.options import BatchOptions
    from prefect_wavespeed.batch.report.rows import Summary
    from prefect_wavespeed.blocks.wavespeed import WaveSpeed
    from prefect_wavespeed.errors import RestyleError
    from prefect_wavespeed.flows.read_account import read_account
    from prefect_wavespeed.flows.restyle_batch import arestyle_batch, restyle_batch
    from prefect_wavespeed.flows.restyle_image import arestyle_image, restyle_image
    from prefect_wavespeed.flows.restyle_object import restyle_object
    from prefect_wavespeed.flows.settle import settle
    from prefect_wavespeed.job import Job, Restyled, RunInfo
    from prefect_wavespeed.settings import Settings
    from prefect_wavespeed.steps.engine import Engine
    from prefect_wavespeed.steps.run_job import make_job, run_job
    from prefect_wavespeed.steps.step_set import StepSet
    from prefect_wavespeed.storage.open_store import open_store
    from prefect_wavespeed.storage.store import Store
    from prefect_wavespeed.tasks.restyle import arestyle, restyle

__all__ = [
    "BatchOptions",
    "Engine",
    "Job",
    "ReduxParams",
    "RestyleError",
    "Restyled",
    "RunInfo",
    "Settings",
    "StepSet",
    "Store",
    "Summary",
    "WaveSpeed",
    "WaveSpeedClient",
    "arestyle",
    "arestyle_batch",
    "arestyle_image",
    "make_job",
    "open_store",
    "read_account",
    "restyle",
    "restyle_batch",
    "restyle_image",
    "restyle_object",
    "run_job",
    "settle",
]

# The same as above, for __getattr__.
_MODULES = {
    "BatchOptions": "batch.options",
    "Engine": "steps.engine",
    "Job": "job",
    "ReduxParams": "api.models",
    "RestyleError": "errors",
    "Restyled": "job",
    "RunInfo": "job",
    "Settings": "settings",
    "StepSet": "steps.step_set",
    "Store": "storage.store",
    "Summary": "batch.report.rows",
    "WaveSpeed": "blocks.wavespeed",
    "WaveSpeedClient": "api.client",
    "arestyle": "tasks.restyle",
    "arestyle_batch": "flows.restyle_batch",
    "arestyle_image": "flows.restyle_image",
    "make_job": "steps.run_job",
    "open_store": "storage.open_store",
    "read_account": "flows.read_account",
    "restyle": "tasks.restyle",
    "restyle_batch": "flows.restyle_batch",
    "restyle_image": "flows.restyle_image",
    "restyle_object": "flows.restyle_object",
    "run_job": "steps.run_job",
    "settle": "flows.settle",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
