"""Media uploads, and the CDN that serves them and the outputs. It needs no key."""

from __future__ import annotations

import asyncio
import mimetypes

from aiohttp import BodyPartReader, web
from pydantic import BaseModel, ConfigDict, Field

from prefect_wavespeed.emulator import answers
from prefect_wavespeed.emulator.faults import Rule
from prefect_wavespeed.emulator.handlers.common import call, query_of
from prefect_wavespeed.emulator.pictures.files import Picture, in_another_format
from prefect_wavespeed.emulator.prediction import Prediction
from prefect_wavespeed.emulator.state import STATE
from prefect_wavespeed.emulator.uploads import UPLOAD_LIMIT, Upload

_TOO_BIG = 'invalid parameter "file": larger than 20 MB'
_PIECES = 20


# --- uploads ---


@call("upload", missing_in={"upload-tickets-only"})
async def upload_binary(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/media/upload/binary``: multipart, in the field ``file``."""
    uploads = request.app[STATE].predictions.uploads
    if not request.content_type.startswith("multipart/"):
        raise answers.Refusal(400, 'invalid parameter "file": must be sent as multipart/form-data')
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name != "file":
                continue
            data = bytearray()
            while chunk := await part.read_chunk(1 << 16):
                data += chunk
                if len(data) > UPLOAD_LIMIT:
                    raise answers.Refusal(400, _TOO_BIG)
            filename = part.filename or "upload"
            content_type = part.headers.get("Content-Type") or _guess(filename)
            upload = uploads.add(filename, content_type, len(data), bytes(data))
            return _uploaded(request, upload)
    except ValueError:
        raise answers.Refusal(400, 'invalid parameter "file": the multipart body cannot be read') from None
    raise answers.Refusal(400, 'invalid parameter "file": Field required')


def _uploaded(request: web.Request, upload: Upload) -> web.Response:
    predictions = request.app[STATE].predictions
    url = predictions.uploads.url(upload)
    if "upload-url" in predictions.dialects:
        return web.json_response({"data": {"url": url}})
    kind = upload.content_type.split("/")[0]
    return answers.success(
        {"type": kind, "download_url": url, "filename": upload.filename, "size": upload.size}
    )


def _guess(filename: str) -> str:
    return mimetypes.guess_type(filename)[0] or "application/octet-stream"


class Ticket(BaseModel):
    """Body of the upload ticket call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    filename: str = Field(min_length=1)
    size: int = Field(ge=1, le=UPLOAD_LIMIT)
    content_type: str | None = None


@call("upload", missing_in={"upload-binary-only", "upload-url"})
async def upload_ticket(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/media/uploads``: a URL to PUT the bytes to."""
    uploads = request.app[STATE].predictions.uploads
    ticket = await query_of(request, Ticket)
    content_type = ticket.content_type or _guess(ticket.filename)
    upload = uploads.add(ticket.filename, content_type, ticket.size)
    url = uploads.url(upload)
    instruction = {"method": "PUT", "url": url, "headers": {"Content-Type": content_type}}
    return answers.success({"upload": instruction, "download_url": url})


@call("upload", keyed=False)
async def upload_put(request: web.Request) -> web.StreamResponse:
    """``PUT`` to the URL of a ticket: once, with its size and type."""
    _note_key(request)
    upload = request.app[STATE].predictions.uploads.get(request.match_info["upload"])
    if upload is None or upload.data is not None:
        return web.Response(status=403, text="no such upload")
    data = await request.read()
    if len(data) != upload.size or request.headers.get("Content-Type") != upload.content_type:
        return web.Response(status=400, text="size or Content-Type differs from the ticket's")
    upload.data = data
    return web.Response(status=200)


# --- downloads ---


async def download_upload(request: web.Request) -> web.StreamResponse:
    """``GET /cdn/uploads/{upload}/{filename}``."""
    state = request.app[STATE]
    state.calls["cdn"] += 1
    _note_key(request)
    upload = state.predictions.uploads.get(request.match_info["upload"])
    rule = state.predictions.script.pick("cdn", {"image": str(request.url)})
    return await _send(request, upload.data if upload else None, upload.content_type if upload else "", rule)


async def download_output(request: web.Request) -> web.StreamResponse:
    """``GET /cdn/predictions/{prediction}/{number}.{format}``, with an edition where URLs are renewed."""
    state = request.app[STATE]
    state.calls["cdn"] += 1
    _note_key(request)
    prediction = state.predictions.get(request.match_info["prediction"])
    rule = state.predictions.script.pick("cdn", prediction.input if prediction else None)
    number = int(request.match_info["number"])
    if prediction is None or not 1 <= number <= len(prediction.pictures) or _has_expired(request, prediction):
        return await _send(request, None, "", rule)
    picture = prediction.pictures[number - 1]
    return await _send(request, picture.data, f"image/{picture.format}", rule)


def _has_expired(request: web.Request, prediction: Prediction) -> bool:
    if "edition" in request.match_info:
        return request.match_info["edition"] == "0"
    return prediction.fault == "expired" and prediction.handed_out < 2


def _note_key(request: web.Request) -> None:
    if "Authorization" in request.headers:
        request.app[STATE].keys_seen_on_cdn = True


async def _send(
    request: web.Request, data: bytes | None, content_type: str, rule: Rule | None
) -> web.StreamResponse:
    if rule is not None:
        match rule.fault:
            case "status":
                raise answers.by_rule(rule)
            case "drop":
                return answers.drop(request)
            case "html":
                return answers.html()
            case "redirect":
                return answers.redirect(rule)
            case "hang":
                await answers.hang(rule.seconds)
    if data is None:
        return web.Response(status=404, text="NoSuchKey")
    if rule is not None:
        match rule.fault:
            case "truncated":
                return await _truncated(request, data, content_type)
            case "corrupt":
                data = data[: len(data) // 2]
            case "wrong_format":
                data = await asyncio.to_thread(_in_another_format, data, content_type)
            case "slow":
                return await _slow(request, data, content_type, rule.seconds or 0)
    return web.Response(body=data, headers={"Content-Type": content_type})


def _in_another_format(data: bytes, content_type: str) -> bytes:
    return in_another_format(Picture(data, content_type.removeprefix("image/"))).data


async def _truncated(request: web.Request, data: bytes, content_type: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _slow(request: web.Request, data: bytes, content_type: str, seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type, "Content-Length": str(len(data))})
    await response.prepare(request)
    step = len(data) // _PIECES + 1
    for start in range(0, len(data), step):
        await asyncio.sleep(seconds / _PIECES)
        await response.write(data[start : start + step])
    return response
