"""The calls below /emulator/, which read and change the emulator itself."""

from __future__ import annotations

import json
import math

from aiohttp import web

from prefect_wavespeed.emulator.dialects import DialectError, parse
from prefect_wavespeed.emulator.faults import Script, ScriptError
from prefect_wavespeed.emulator.handlers.common import check_key, no_such_call
from prefect_wavespeed.emulator.state import STATE


async def ledger(request: web.Request) -> web.Response:
    """``GET /emulator/ledger``: all predictions, calls and sums."""
    return web.json_response(request.app[STATE].ledger())


async def get_faults(request: web.Request) -> web.Response:
    """``GET /emulator/faults``."""
    return web.json_response(request.app[STATE].predictions.script.state())


async def put_faults(request: web.Request) -> web.Response:
    """``PUT /emulator/faults``: replace the whole fault script."""
    try:
        script = Script.parse(json.loads(await request.read()))
    except ScriptError as error:
        return web.json_response({"error": str(error)}, status=400)
    except ValueError as error:
        return web.json_response({"error": f"fault script: not JSON: {error}"}, status=400)
    request.app[STATE].predictions.script = script
    return web.json_response(script.state())


async def get_dialects(request: web.Request) -> web.Response:
    """``GET /emulator/dialects``."""
    return web.json_response(sorted(request.app[STATE].predictions.dialects))


async def put_dialects(request: web.Request) -> web.Response:
    """``PUT /emulator/dialects``: speak these, and no others."""
    try:
        dialects = parse(json.loads(await request.read()))
    except DialectError as error:
        return web.json_response({"error": str(error)}, status=400)
    except ValueError as error:
        return web.json_response({"error": f"dialects: not JSON: {error}"}, status=400)
    request.app[STATE].predictions.dialects = dialects
    return web.json_response(sorted(dialects))


async def put_price(request: web.Request) -> web.Response:
    """``PUT /emulator/price``: set the price of a picture, ``{"usd": 0.03}``."""
    try:
        price = float(json.loads(await request.read())["usd"])
    except (ValueError, TypeError, KeyError):
        price = -1.0
    if not (math.isfinite(price) and price >= 0):
        return web.json_response({"error": 'price: must be {"usd": a number, 0 or more}'}, status=400)
    request.app[STATE].predictions.price = price
    return web.json_response({"usd": price})


async def reset(request: web.Request) -> web.Response:
    """``POST /emulator/reset``: start anew with an empty account."""
    await request.app[STATE].reset()
    return web.json_response({})


async def unknown(request: web.Request) -> web.StreamResponse:
    """Any path below /api/ that the API does not have."""
    check_key(request)
    raise no_such_call()
