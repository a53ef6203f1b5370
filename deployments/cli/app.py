"""The command line `restyle`: its commands, each in a module that is imported when the command is used.

Prefect, pydantic and the stores take time to import, which help and a mistyped option do not need. So a
command's module imports at its top only what its signature needs, and the rest when the command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, Group

from prefect_wavespeed.deployments.cli.completion import add_completion
from prefect_wavespeed.deployments.cli.shared.examples import epilogue
from prefect_wavespeed.deployments.cli.shared.help import (
    ABOUT,
    RESTYLE,
    SERVE,
    SET_UP,
    describe_usage_error,
    print_error,
)
from prefect_wavespeed.deployments.cli.shared.pipes import flush_streams
from prefect_wavespeed.deployments.cli.shared.terminal import printable_streams
from prefect_wavespeed.deployments.prefect_runtime import interrupt_status
from prefect_wavespeed.deployments.stopping import stop
from prefect_wavespeed.errors import InvalidRequestError, PrefectUnavailableError, RestyleError
from prefect_wavespeed.version import package_version

_COMMANDS: dict[Group, dict[str, str]] = {
    RESTYLE: {
        "image": "Restyle one image. The same command again returns the stored picture and bills nothing.",
        "batch": "Restyle all images of a manifest, each billed once, and write a report on every row below "
        "runs/.\n\nRunning the same command again continues where it stopped, whatever stopped it.",
        "backfill": "Begin the runs of a deployment for a range of days, each once, within one cap.\n\n"
        "All days are quoted first, and each run gets its part of the cap. The same command again begins no "
        "day twice.",
        "settle": "Finish the open jobs of an output, whichever run submitted them: store what is ready. It "
        "bills nothing.",
        "resolve": "Record what you found out about a job that may have been submitted.\n\n"
        "WaveSpeedAI may not say what its predictions were asked for. Then a submission whose answer was "
        "lost cannot be found again, and nothing is sent until you have looked it up.",
        "failures": "List every row of a batch that has no pictures: its id, image, status, the reason, and "
        "what to do next.\n\nWhen the output is not a terminal, it is a line a row, and the columns are "
        "separated by tabs.",
        "gallery": "Serve the gallery of a batch on this machine, with the pictures themselves, wherever the "
        "output is, until Ctrl-C.\n\nIt prints an address to open in a browser. Pictures on S3 are read by "
        "presigned links. Nothing is served but the pictures of that run, and to this machine only.",
        "costs": "Add up what an output has cost by day and by run, and compare it with what was billed.",
        "show": "Show everything about a job: status, attempts, times, cost, files, and what to do next.",
        "list": "List the jobs of an output, newest first, a line each: time, status, source, key, cost or "
        "reason.\n\nWith --by day, its days instead: whether each is whole, its rows by status, its manifest."
        "\n\nWhen the output is not a terminal, the columns are separated by tabs.",
    },
    SET_UP: {
        "setup": "Create what deployed flows need in Prefect: blocks, work pool, settings, automations.\n\n"
        "Safe to repeat. It reports what it found, created and left unchanged. Settings come from the "
        "environment (docs/deploying.md), the API key from WAVESPEED_API_KEY.",
        "doctor": "Check what a run needs: key, balance, clocks, Prefect, storage; and say how to fix it.\n\n"
        "Spends nothing, and removes what it writes. The exit status is 1 if a check reports an error.\n\n"
        "With --live it finds out instead, for a few cents, what WaveSpeedAI does where its documentation "
        "and public records disagree, and what follows for you. The report in the output holds no secrets, "
        "so it can be attached to an issue.",
        "init": "Write a small project into an empty folder: deployments, a manifest, settings.",
        "demo": "Run a small batch into ./demo, with an emulator and a Prefect server of its own.\n\n"
        "It needs no account. Two rows fail, to show how that looks; the last line is the gallery's path.",
    },
    SERVE: {
        "receiver": "Receive S3 event notifications and WaveSpeedAI's webhooks, and pass them to Prefect as "
        "events.\n\nPOST /s3, POST /wavespeed, GET /health, GET /metrics. Senders of notifications need the "
        "token in RESTYLE_RECEIVER_TOKEN or in the block secret/restyle-receiver-token.",
        "emulator": "Emulate the WaveSpeedAI API on this machine. See `restyle emulator --help`.",
    },
}
"""Every command, in the group and with the description that the help shows."""
_FUNCTIONS = {
    "list": "inspect.list_jobs",
    **{name: f"inspect.{name}" for name in ("costs", "failures", "gallery", "show")},
}
"""The module, whose name is also the function's, where that is not the command."""
_KEYWORDS: dict[str, dict[str, Any]] = {"emulator": {"help_flags": []}}  # its parser has a --help of its own

app = App(
    name="restyle",
    help="Restyle images with WaveSpeedAI's FLUX.1 Redux [dev] in Prefect flows, each one billed once.",
    version=package_version,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app["--help"].group = app["--version"].group = (ABOUT,)
for _group, _descriptions in _COMMANDS.items():
    for _name, _description in _descriptions.items():
        _function = _FUNCTIONS.get(_name, _name)
        app.command(
            f"{__package__}.{_function}:{_function.rpartition('.')[2]}",
            name=_name,
            group=_group,
            help=_description,
            help_epilogue=epilogue(_name),
            **_KEYWORDS.get(_name, {}),
        )
add_completion(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 0; 1 after an error, which is printed in one line on stderr; 130 or 143 when
        interrupted.
    """
    with printable_streams():
        status = _main(list(sys.argv[1:] if argv is None else argv))
        try:
            flush_streams()
        except OSError as error:
            print(f"error: {error.strerror}: what the command prints is lost", file=sys.stderr)
            return 1
        return status


def _main(arguments: list[str]) -> int:
    command = next((name for name in arguments[:1] if name in app and not name.startswith("-")), None)
    try:
        return app(arguments, exit_on_error=False, print_error=False) or 0
    except CycloptsError as error:
        usage = describe_usage_error(error, app[command] if command else app)
        help_of = f"restyle {command}" if command else "restyle"
        failure: RestyleError = InvalidRequestError(f"{usage} See `{help_of} --help`.")
    except BaseException as error:
        # libraries turn an interruption into errors of their own
        if status := stop.status or interrupt_status(error):
            stop.say()
            return status
        if not isinstance(error, Exception):
            raise
        from prefect_wavespeed.deployments.cli.shared.errors import as_restyle_error

        failure = as_restyle_error(error)
        stop.in_haste = isinstance(failure, PrefectUnavailableError)
    print_error(failure, as_json="--json" in arguments)
    return 1
