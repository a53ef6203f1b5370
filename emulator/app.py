"""The emulator as a web application on loopback."""

from __future__ import annotations

import asyncio
import signal
import socket

import aiohttp
from aiohttp import web

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.emulator import answers
from prefect_wavespeed.emulator.handlers import account, control, media, predictions, submit
from prefect_wavespeed.emulator.handlers.common import Handler
from prefect_wavespeed.emulator.options import Options
from prefect_wavespeed.emulator.predictions import Predictions
from prefect_wavespeed.emulator.state import STATE, State
from prefect_wavespeed.emulator.uploads import UPLOAD_LIMIT

HOST = "127.0.0.1"

_FILE = r"{number:\d{1,2}}.{format}"


@web.middleware
async def _answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except answers.Refusal as refusal:
        return answers.refused(refusal, request.app[STATE].predictions.dialects)


def make_app(state: State) -> web.Application:
    """Build the application with all its paths."""
    app = web.Application(client_max_size=UPLOAD_LIMIT + 1024 * 1024, middlewares=[_answer_refusals])
    app[STATE] = state
    app.add_routes(
        [
            web.post(f"/api/v3/{MODEL}", submit.submit),
            web.get("/api/v3/predictions/{id}/result", predictions.result),
            web.get("/api/v3/predictions/{id}", predictions.result),
            web.post("/api/v3/predictions", predictions.history),
            web.post("/api/v3/predictions/delete", predictions.delete),
            web.get("/api/v3/balance", account.balance),
            web.get("/api/v3/account/balance", account.account_balance),
            web.get("/account/balance", account.account_balance),
            web.post("/api/v3/model/price", account.price),
            web.post("/api/v3/model/pricing", account.pricing),
            web.post("/api/v3/billings/search", account.billings),
            web.get("/api/v3/webhook/secret", account.secret),
            web.post("/api/v3/media/upload/binary", media.upload_binary),
            web.post("/api/v3/media/uploads", media.upload_ticket),
            web.put("/cdn/uploads/{upload}/{filename}", media.upload_put),
            web.get("/cdn/uploads/{upload}/{filename}", media.download_upload),
            web.get(f"/cdn/predictions/{{prediction}}/{_FILE}", media.download_output),
            web.get(f"/cdn/predictions/{{prediction}}/{{edition}}/{_FILE}", media.download_output),
            web.get("/emulator/ledger", control.ledger),
            web.get("/emulator/faults", control.get_faults),
            web.put("/emulator/faults", control.put_faults),
            web.get("/emulator/dialects", control.get_dialects),
            web.put("/emulator/dialects", control.put_dialects),
            web.put("/emulator/price", control.put_price),
            web.post("/emulator/reset", control.reset),
            web.route("*", "/api/{rest:.*}", control.unknown),
        ]
    )
    return app


async def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT; prints the address to stdout.

    Raises:
        OSError: the port is not available.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, options.port))
        base_url = f"http://{HOST}:{listener.getsockname()[1]}"
        async with aiohttp.ClientSession(trust_env=True) as session:
            account_predictions = Predictions(options, base_url, session)
            runner = web.AppRunner(
                make_app(State(options, account_predictions)),
                access_log=None,
                handler_cancellation=True,
                shutdown_timeout=0.1,
            )
            try:
                await runner.setup()
                await web.SockSite(runner, listener, backlog=1024).start()
                print(f"listening on {base_url}", flush=True)
                await stopped.wait()
            finally:
                await account_predictions.close()
                await runner.cleanup()
