"""Options that several commands take, each described once. Imports nothing that is slow."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Flag = Parameter(negative="")
"""A flag without a ``--no-…`` counterpart."""

Out = Annotated[
    str,
    Parameter(
        help="s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks)."
    ),
]
JobName = Annotated[
    str,
    Parameter(
        help="Its key or the first 8 characters of it, a prediction's id, or the source as it was given (or "
        "its end, such as the file's name)."
    ),
]
WaveSpeedBlock = Annotated[
    str,
    Parameter(
        name="--wavespeed",
        help='WaveSpeed block with the API key. Without a block "default", WAVESPEED_API_KEY is used.',
    ),
]
Run = Annotated[
    str, Parameter(help="The run of a batch: its flow run's id, or the beginning of it; or latest.")
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object on stdout.")]
Since = Annotated[
    str | None,
    Parameter(help="Only from this day on (UTC): YYYY-MM-DD, or 7d for seven days ago."),
]
