"""The emulator as a web application on loopback."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket

import aiohttp
from aiohttp import web

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.emulator import api, media
from prefect_wavespeed.emulator.faults import Script, ScriptError
from prefect_wavespeed.emulator.options import Options
from prefect_wavespeed.emulator.predictions import Predictions
from prefect_wavespeed.emulator.state import STATE, State
from prefect_wavespeed.emulator.uploads import UPLOAD_LIMIT

HOST = "127.0.0.1"


async def ledger(request: web.Request) -> web.Response:
    """``GET /emulator/ledger``."""
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


async def put_price(request: web.Request) -> web.Response:
    """``PUT /emulator/price``: what one picture costs from now on, ``{"usd": 0.03}``."""
    try:
        price = float(json.loads(await request.read())["usd"])
    except (ValueError, TypeError, KeyError):
        price = -1.0
    if not (math.isfinite(price) and price >= 0):
        return web.json_response({"error": 'price: must be {"usd": a number, 0 or more}'}, status=400)
    request.app[STATE].predictions.price = price
    return web.json_response({"usd": price})


async def reset(request: web.Request) -> web.Response:
    """``POST /emulator/reset``."""
    await request.app[STATE].reset()
    return web.json_response({})


def make_app(state: State) -> web.Application:
    """The application with all its paths."""
    app = web.Application(client_max_size=UPLOAD_LIMIT + 1024 * 1024)
    app[STATE] = state
    app.add_routes(
        [
            web.post(f"/api/v3/{MODEL}", api.submit),
            web.get("/api/v3/predictions/{id}/result", api.result),
            web.get("/api/v3/predictions/{id}", api.result),
            web.post("/api/v3/predictions", api.history),
            web.post("/api/v3/predictions/delete", api.delete),
            web.get("/api/v3/balance", api.balance),
            web.get("/api/v3/account/balance", api.account_balance),
            web.get("/account/balance", api.account_balance),
            web.post("/api/v3/model/price", api.price),
            web.post("/api/v3/model/pricing", api.pricing),
            web.post("/api/v3/billings/search", api.billings),
            web.get("/api/v3/webhook/secret", api.secret),
            web.post("/api/v3/media/upload/binary", media.upload_binary),
            web.post("/api/v3/media/uploads", media.upload_ticket),
            web.put("/cdn/uploads/{upload}/{filename}", media.upload_put),
            web.get("/cdn/uploads/{upload}/{filename}", media.download_upload),
            web.get(r"/cdn/outputs/{prediction}/{edition}/{number:\d{1,2}}.{format}", media.download_output),
            web.get("/emulator/ledger", ledger),
            web.get("/emulator/faults", get_faults),
            web.put("/emulator/faults", put_faults),
            web.put("/emulator/price", put_price),
            web.post("/emulator/reset", reset),
            web.route("*", "/api/{rest:.*}", api.unknown),
        ]
    )
    return app


async def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; says on stdout when it listens.

    Raises:
        OSError: the port cannot be had.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, options.port))
        base_url = f"http://{HOST}:{listening.getsockname()[1]}"
        async with aiohttp.ClientSession(trust_env=True) as session:
            predictions = Predictions(options, base_url, session)
            runner = web.AppRunner(
                make_app(State(options, predictions)),
                access_log=None,
                handler_cancellation=True,
                shutdown_timeout=0.1,
            )
            try:
                await runner.setup()
                await web.SockSite(runner, listening, backlog=1024).start()
                print(f"listening on {base_url}", flush=True)
                await stopped.wait()
            finally:
                await predictions.close()
                await runner.cleanup()
