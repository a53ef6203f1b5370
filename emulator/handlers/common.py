"""What all calls of the API share: counting, the key, faults, and errors in the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from prefect_wavespeed.emulator import answers
from prefect_wavespeed.emulator.dialects import Dialect
from prefect_wavespeed.emulator.faults import Rule
from prefect_wavespeed.emulator.limits import Excess
from prefect_wavespeed.emulator.state import STATE, State

_Query = TypeVar("_Query", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def key_of(request: web.Request) -> str | None:
    """Return the API key of a request."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def check_key(request: web.Request) -> None:
    """Let only a request with an acceptable key pass.

    Raises:
        Refusal: 401.
    """
    key = key_of(request)
    keys = request.app[STATE].options.keys
    if key is None or (keys and key not in keys):
        raise answers.Refusal(401, "unauthorized, the API key is missing or wrong")


def call(
    name: str, *, keyed: bool = True, missing_in: Iterable[Dialect] = ()
) -> Callable[[Handler], Handler]:
    """Decorate the handler of a call: count it, check its key, and apply its faults.

    Args:
        name: of the call, as in ``faults.CALLS``.
        keyed: whether the call needs a key.
        missing_in: the dialects in which there is no such call.
    """

    def decorate(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            state = request.app[STATE]
            state.calls[name] += 1
            if keyed:
                check_key(request)
            if not state.predictions.dialects.isdisjoint(missing_in):
                raise no_such_call()
            prediction = state.predictions.get(request.match_info.get("id", ""))
            rule = state.predictions.script.pick(name, prediction.input if prediction else None)
            if rule is not None and (faulty := await _apply(request, rule)) is not None:
                return faulty
            return await handler(request)

        return handle

    return decorate


def no_such_call() -> answers.Refusal:
    """The refusal of a path that the API does not have."""
    return answers.Refusal(404, "not found, no such model or call")


def check_limit(state: State, excess: Excess | None) -> None:
    """Let only a call within the account's limits pass.

    Raises:
        Refusal: 429, which says how long to wait in the dialect ``retry-after`` alone.
    """
    if excess is not None:
        wait = excess.wait if "retry-after" in state.predictions.dialects else None
        raise answers.Refusal(429, excess.message, retry_after=wait)


async def _apply(request: web.Request, rule: Rule) -> web.Response | None:
    """Return the faulty answer; None where the call goes on."""
    match rule.fault:
        case "status":
            raise answers.by_rule(rule)
        case "drop":
            return answers.drop(request)
        case "garbage":
            return answers.garbage()
        case "html":
            return answers.html()
        case "redirect":
            return answers.redirect(rule)
        case _:
            await answers.hang(rule.seconds)
            return None


async def query_of(request: web.Request, shape: type[_Query]) -> _Query:
    """Return a request's body.

    Raises:
        Refusal: it has not this shape.
    """
    try:
        return shape.model_validate(await answers.body_of(request))
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> answers.Refusal:
    """A 400 that names the field."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "body"
    reason = (
        "unknown field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    )
    return answers.Refusal(400, f'invalid parameter "{name}": {reason}')


def nanoseconds(moment: datetime | None, default: int) -> int:
    """A time of a query as Unix nanoseconds; one without a zone is UTC."""
    if moment is None:
        return default
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1000
