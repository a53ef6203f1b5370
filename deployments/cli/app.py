"""The command `restyle`.

Commands import what they need when they run: Prefect takes seconds to import, and `restyle emulator`,
help and a mistyped option need none of it.
"""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, ValidationError

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli import _help
from prefect_wavespeed.deployments.cli._help import ABOUT, RESTYLE, SERVE, SET_UP, examples
from prefect_wavespeed.version import package_version

if TYPE_CHECKING:
    from prefect_wavespeed.errors import RestyleError

_Flag = Parameter(negative="")


app = App(
    name="restyle",
    help="Restyle images with WaveSpeedAI's FLUX.1 Redux [dev] in Prefect flows, each one billed once.",
    version=package_version,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app["--help"].group = app["--version"].group = (ABOUT,)


# Imported when one of them is called or asked for help
app.command(
    f"{__package__}._restyle:image",
    name="image",
    group=RESTYLE,
    help="Restyle one image. Run again, the same command returns what is stored and bills nothing.",
    help_epilogue=examples("image"),
)
app.command(
    f"{__package__}._restyle:batch",
    name="batch",
    group=RESTYLE,
    help="Restyle all images of a manifest, each billed once; the account of every row lies under runs/.\n\n"
    "Run again, the same command goes on where it was, whatever ended it.",
    help_epilogue=examples("batch"),
)


@app.command(group=RESTYLE, help_epilogue=examples("settle"))
def settle(
    *,
    out: str,
    wavespeed: str = WAVESPEED_BLOCK,
    json: Annotated[bool, _Flag] = False,
) -> int:
    """Finish what is open in an output, whoever submitted it: store what is ready. It never bills anything.

    Args:
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks).
        wavespeed: WaveSpeed block with the API key. Without a block "default", WAVESPEED_API_KEY serves.
        json: Print one JSON object on stdout.
    """
    from prefect_wavespeed.deployments.cli import settle as command

    return command.run(out, wavespeed, as_json=json)


@app.command(group=RESTYLE, help_epilogue=examples("costs"))
def costs(
    *,
    out: str,
    since: str | None = None,
    wavespeed: str = WAVESPEED_BLOCK,
    json: Annotated[bool, _Flag] = False,
) -> int:
    """Add up what an output has cost by day and by run, and compare it with what WaveSpeedAI billed.

    Args:
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks).
        since: From the start of a day on (UTC): YYYY-MM-DD, or 7d for so many days ago.
        wavespeed: WaveSpeed block with the API key. Without a block "default", WAVESPEED_API_KEY serves.
        json: Print one JSON object on stdout.
    """
    from prefect_wavespeed.deployments.cli import costs as command

    return command.run(out, since, wavespeed, as_json=json)


@app.command(group=RESTYLE)
def show(job: str, /, *, out: str, json: Annotated[bool, _Flag] = False) -> int:
    """Tell the whole story of a job: where it stands, attempts, times, cost, files, and what to do next.

    Args:
        job: Its key or the first 8 characters of it, a prediction's id, or the source as it was given (or its
            end, such as the file's name).
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks).
        json: Print one JSON object on stdout.
    """
    from prefect_wavespeed.deployments.cli import show as command

    return command.run(job, out, as_json=json)


@app.command(name="list", group=RESTYLE)
def list_jobs(
    *,
    out: str,
    status: Literal["open", "failed", "done"] | None = None,
    since: str | None = None,
    json: Annotated[bool, _Flag] = False,
) -> int:
    """List the jobs of an output, a line each, the newest first: time, status, source, key, cost or reason.

    Where it is not shown on a terminal, there are tabs between.

    Args:
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks).
        status: Only those that are open, have failed for good, or are done.
        since: From the start of a day on (UTC): YYYY-MM-DD, or 7d for so many days ago.
        json: Print one JSON object on stdout.
    """
    from prefect_wavespeed.deployments.cli import list_jobs as command

    return command.run(out, status, since, as_json=json)


@app.command(group=SET_UP, help_epilogue=examples("setup"))
def setup(
    *,
    out: str | None = None,
    watch: str | None = None,
    tier: Literal["bronze", "silver", "gold", "ultra"] | None = None,
) -> int:
    """Make what deployed flows need in Prefect: blocks, work pool, settings, automations.

    Safe to repeat. It says what it found, made and left alone. Settings are taken from the environment
    (docs/deploying.md), the API key from WAVESPEED_API_KEY.

    Args:
        out: s3://bucket/prefix (block s3-bucket/restyle-output) or a directory (block
            local-file-system/restyle-output).
        watch: s3://bucket/prefix/ whose objects are restyled as they come, and every night what was missed.
        tier: Your account's level: sets submissions a minute and predictions in flight in the WaveSpeed
            block, and the global concurrency limit by which all runs share the latter.
    """
    from prefect_wavespeed.deployments import setup as command

    return command.run(command.Options(out=out, watch=watch, tier=tier))


@app.command(group=SERVE)
def receiver(
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    sqs: str | None = None,
    wavespeed: str = WAVESPEED_BLOCK,
) -> int:
    """Receive S3 event notifications and WaveSpeedAI's webhooks, and hand them to Prefect as events.

    POST /s3, POST /wavespeed, GET /health, GET /metrics. Senders of notifications bear the token in
    RESTYLE_RECEIVER_TOKEN or in the block secret/restyle-receiver-token.

    Args:
        host: Address to listen on; 0.0.0.0 for all of this machine's.
        port: Port to listen on; 0 takes a free one.
        sqs: URL of an SQS queue with notifications, read as well.
        wavespeed: WaveSpeed block whose webhooks come. Without a block "default", WAVESPEED_API_KEY serves.
    """
    from prefect_wavespeed.deployments.receiver import serve as command

    return command.run(host, port, sqs, wavespeed)


@app.command(group=SET_UP)
def doctor(
    *,
    out: str | None = None,
    wavespeed: str = WAVESPEED_BLOCK,
    json: Annotated[bool, _Flag] = False,
) -> int:
    """Check what a run needs: key, balance, clocks, Prefect, storage; and say what to do about it.

    Spends nothing, and removes what it writes. The exit status is 0 only when no check says error.

    Args:
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks). By
            default the output that deployments use.
        wavespeed: WaveSpeed block with the API key. Without a block "default", WAVESPEED_API_KEY serves.
        json: Print one JSON object on stdout.
    """
    from prefect_wavespeed.deployments.cli import doctor as command

    return command.run(out, wavespeed, as_json=json)


@app.command(group=SET_UP, help_epilogue=examples("init"))
def init(folder: str = ".", /) -> int:
    """Write a small project into an empty folder: deployments, a manifest, settings. To keep as your own.

    Args:
        folder: An empty folder, or one to be made; by default the one you are in.
    """
    from prefect_wavespeed.deployments.cli import init as command

    return command.run(folder, package_version())


@app.command(group=SET_UP, help_epilogue=examples("completion"))
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a script by which a shell completes this command and its options.

    Args:
        shell: The shell that you use.
    """
    print(_help.completion(app, shell))
    return 0


@app.command(group=SET_UP)
def demo() -> int:
    """Restyle the photographs in examples/ into ./demo, with an emulator and a Prefect server of its own."""
    from prefect_wavespeed.deployments.cli import demo as command

    return command.run()


@app.command(help_flags=[], group=SERVE)
def emulator(*options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Stand in for the WaveSpeedAI API on this machine. See `restyle emulator --help`.

    Args:
        options: Its options.
    """
    from prefect_wavespeed.emulator import main as command

    return command(options, prog="restyle emulator")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit status: 0, 1 after an error that is told in one line on stderr, 130 or 143 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return app(arguments, exit_on_error=False, print_error=False) or 0
    except CycloptsError as problem:
        from prefect_wavespeed.errors import InvalidRequestError

        command = [name for name in arguments[:1] if name in app]
        said = _mistake(problem, app[command[0]] if command else app)
        error: RestyleError = InvalidRequestError(f"{said} See `{' '.join(['restyle', *command])} --help`.")
    except Exception as problem:
        from prefect_wavespeed.deployments.cli._errors import as_told

        error = as_told(problem)
    except BaseException as stopped:
        from prefect_wavespeed.deployments.cli._prefect import interrupted

        status = interrupted(stopped)
        if status is None:
            raise
        print(": ".join(["interrupted", *getattr(stopped, "__notes__", [])]), file=sys.stderr)
        return status
    tell(error, as_json="--json" in arguments)
    return 1


def _mistake(problem: CycloptsError, command: App) -> str:
    if not isinstance(problem, ValidationError):
        return _help.mistake(problem, command)
    from prefect_wavespeed.deployments.cli._flags import refused_flag

    return refused_flag(problem)


def tell(error: RestyleError, *, as_json: bool) -> None:
    """Print an error: one line on stderr, or one JSON object on stdout."""
    if not as_json:
        print(f"error: {error.message}", file=sys.stderr)
        return
    told = {
        "type": type(error).__name__,
        "message": error.message,
        "retryable": error.retryable,
        "job_key": error.job_key,
        "prediction_id": error.prediction_id,
    }
    print(jsonlib.dumps({"error": told}))


if __name__ == "__main__":
    sys.exit(main())
