"""`restyle resolve`: record what a person found out about a job in doubt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.find_job import ambiguous, find_jobs
from prefect_wavespeed.deployments.cli.shared.options import AsJson, Flag, JobName, Out, WaveSpeedBlock
from prefect_wavespeed.deployments.prefect_runtime import quiet_run
from prefect_wavespeed.errors import InvalidRequestError

if TYPE_CHECKING:
    from prefect_wavespeed.inspect.job_view import JobView


def resolve(
    job: JobName,
    /,
    *,
    out: Out,
    prediction: Annotated[str | None, Parameter(help="Id of the prediction that is this job's.")] = None,
    not_submitted: Annotated[
        bool, Flag, Parameter(help="No prediction is this job's: the next run submits it again.")
    ] = False,
    wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK,
    as_json: AsJson = False,
) -> int:
    """Find the job, and record what became of its newest attempt.

    Raises:
        InvalidRequestError: not exactly one of both is given, or the prediction cannot be this job's.
        ConfigurationError: no job matches, several do, or the job is not in doubt.
    """
    import asyncio

    if (prediction is None) != not_submitted:
        raise InvalidRequestError("give either --prediction ID or --not-submitted")
    with quiet_run():
        found = asyncio.run(_resolve(job.strip(), out, prediction, wavespeed))
    if isinstance(found, list):
        raise ambiguous(job, found, as_json=as_json)
    print(json.dumps(found) if as_json else f"recorded: {found['recorded']}\nnext: {found['next']}")
    return 0


async def _resolve(
    wanted: str, out: str, prediction_id: str | None, wavespeed: str
) -> dict[str, Any] | list[JobView]:
    """Record it; or return all jobs that match, where several do."""
    import shlex

    from prefect_wavespeed.blocks.wavespeed import load_wavespeed
    from prefect_wavespeed.settling.resolution import Resolution

    store, found = await find_jobs(wanted, out)
    if len(found) > 1:
        return found
    (job,) = found
    async with (await load_wavespeed(wavespeed)).get_client() as client:
        resolution = Resolution(client, store, job.key)
        if prediction_id is not None:
            await resolution.is_prediction(prediction_id.strip())
            recorded = f"prediction {prediction_id.strip()} is this job's"
            next_step = (
                f"`restyle settle --out {shlex.quote(out)}`, or the same run again, stores its pictures"
            )
        else:
            await resolution.is_not_submitted()
            recorded, next_step = "nothing was submitted", "run the job again, which submits it and is billed"
    return {"job_key": job.key, "recorded": recorded, "next": next_step}
