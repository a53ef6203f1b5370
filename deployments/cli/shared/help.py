"""Groups of commands in the help, and what is printed about wrong command lines and other errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.words import counted

_SIMILAR = 0.75  # from here on, another option is probably what was meant

RESTYLE = Group.create_ordered("Restyle")
SET_UP = Group.create_ordered("Set up and check")
SERVE = Group.create_ordered("Serve")
ABOUT = Group.create_ordered("Help")


def describe_usage_error(error: CycloptsError, command: App) -> str:
    """Describe what is wrong with a command line; for a missing argument include its help.

    Args:
        error: cyclopts's error.
        command: the command that was called; the whole app where none was.
    """
    if isinstance(error, UnknownCommandError):  # its text would import the modules of all commands
        return _describe_unknown_command((error.unused_tokens or [""])[0], command)
    if isinstance(error, UnknownOptionError):
        return _describe_unknown_option(error)
    if isinstance(error, UnusedCliTokensError):
        return _describe_too_many(error.unused_tokens or [])
    if isinstance(error, ValidationError):
        from prefect_wavespeed.deployments.cli.shared.flags import describe_refused_flag

        return describe_refused_flag(error)
    message, argument = str(error), error.argument
    if isinstance(error, MissingArgumentError) and argument:
        arguments = command.assemble_argument_collection(parse_docstring=True)
        help_of = {one.name: one.parameter.help for one in arguments}
        problem = "needs a value" if error.keyword else "is missing"
        _, hint, suggestion = message.partition(" Did you mean ")
        message = f"{argument.name} {problem}: {help_of[argument.name]}{hint}{suggestion}"
    return " ".join(message.split())


def _describe_unknown_option(error: UnknownOptionError) -> str:
    option = (error.token.keyword or error.token.value).partition("=")[0]
    if option == "--prompt":
        from prefect_wavespeed.api.models import NO_PROMPT

        return f"Unknown option: --prompt. {NO_PROMPT}."
    names = {name.lstrip("-"): name for one in error.argument_collection if one.parse for name in one.names}
    similar = get_close_matches(option.lstrip("-"), names, n=1, cutoff=_SIMILAR)
    return f"Unknown option: {option}.{f' Did you mean {names[similar[0]]}?' if similar else ''}"


def _describe_too_many(left: Sequence[str]) -> str:
    shown = " ".join(left[:3]) + (" …" if len(left) > 3 else "")
    return (
        f"{shown}: {counted(len(left), 'argument')} too many: put a name with blanks in quotes, and a "
        "pattern such as '*.jpg', too."
    )


def _describe_unknown_command(name: str, app: App) -> str:
    names = [known for known in app if not known.startswith("-")]
    similar = get_close_matches(name, names, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"the commands are {', '.join(sorted(names))}."
    return f"There is no command {name}: {hint}"


def print_error(error: RestyleError, *, as_json: bool) -> None:
    """Print an error: one line on stderr and its details below, or one JSON object on stdout.

    The object has the summary of a batch beside the error, if one was written.
    """
    if not as_json:
        print("\n  ".join([f"error: {error}", *error.details]), file=sys.stderr)
        return
    details = {
        "type": type(error).__name__,
        "message": error.message,
        "retryable": error.retryable,
        "job_key": error.job_key,
        "prediction_id": error.prediction_id,
    }
    summary = {"summary": error.summary} if error.summary else {}
    print(json.dumps({"error": details, **summary}))
