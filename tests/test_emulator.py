"""The emulator answers as the WaveSpeedAI v3 API does, bills what it creates, and fails as it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from PIL import Image, ImageChops, ImageStat

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.emulator.faults import FAULTS, Script, ScriptError
from prefect_wavespeed.emulator.options import Options
from prefect_wavespeed.emulator.pictures import STYLES, variation
from prefect_wavespeed.emulator.predictions import Predictions
from tests.support.emulator_process import Emulator

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ASTRONAUT = (EXAMPLES / "astronaut.jpg").read_bytes()
MODEL = "wavespeed-ai/flux-redux-dev"
SMALL = {"size": "256*256", "seed": 7}


class Api:
    """Calls as a client would make them."""

    def __init__(self, url: str, key: str = "test-key") -> None:
        # All of it is plain http, and loading certificates for every client takes long.
        self.url = url
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=10,
            verify=False,
        )
        self.cdn = httpx.Client(trust_env=False, timeout=10, verify=False)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def upload(self, data: bytes = ASTRONAUT) -> str:
        answer = self.http.post(
            "/api/v3/media/upload/binary", files={"file": ("a b.jpg", data, "image/jpeg")}
        )
        url: str = data_of(answer)["download_url"]
        return url

    def submit(self, webhook: str | None = None, **fields: Any) -> httpx.Response:
        query = {"webhook": webhook} if webhook else {}
        return self.http.post(f"/api/v3/{MODEL}", json={**SMALL, **fields}, params=query)

    def result(self, prediction_id: str) -> dict[str, Any]:
        prediction: dict[str, Any] = data_of(self.http.get(f"/api/v3/predictions/{prediction_id}/result"))
        return prediction

    def wait(self, prediction_id: str) -> dict[str, Any]:
        for _ in range(500):
            prediction = self.result(prediction_id)
            if prediction["status"] not in ("created", "processing"):
                return prediction
            time.sleep(0.02)
        raise AssertionError("not finished")

    def run(self, **fields: Any) -> dict[str, Any]:
        fields.setdefault("image", self.upload())
        return self.wait(data_of(self.submit(**fields))["id"])

    def history(self, **filters: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = data_of(
            self.post("/api/v3/predictions", {"page": 1, "page_size": 100, **filters})
        )["items"]
        return items

    def close(self) -> None:
        self.http.close()
        self.cdn.close()


def data_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["code"] == 200
    return body["data"]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.fixture
def api(emulator: Emulator) -> Iterator[Api]:
    made = Api(emulator.url)
    yield made
    made.close()


# What a prediction is


@pytest.mark.parametrize("output_format", ["jpeg", "png", "webp"])
def test_a_prediction_is_a_picture_of_the_size_and_format_asked_for(api: Api, output_format: str) -> None:
    done = api.run(size="300*420", output_format=output_format, num_images=2)
    assert done["status"] == "completed"
    assert done["has_nsfw_contents"] == [False, False]
    assert done["timings"]["inference"] == done["executionTime"] >= 50
    assert len(done["created_at"].split(".")[1]) == len("123456789Z")
    pictures = [api.cdn.get(url) for url in done["outputs"]]
    assert [answer.headers["Content-Type"] for answer in pictures] == [f"image/{output_format}"] * 2
    for answer in pictures:
        image = opened(answer.content)
        assert image.size == (300, 420)
        assert (image.format or "").lower() == output_format
    assert pictures[0].content != pictures[1].content


def test_the_ledger_tells_when_a_prediction_ended_and_when_that_was_first_told(
    emulator: Emulator, api: Api
) -> None:
    api.submit(image=api.upload())
    (flying,) = emulator.ledger()["predictions"]
    assert flying["completed_at"] is flying["reported_at"] is None
    until(lambda: emulator.ledger()["in_flight"] == 0)
    (ended,) = emulator.ledger()["predictions"]
    assert ended["created_at"] < ended["completed_at"]
    assert ended["reported_at"] is None
    api.result(ended["id"])
    (told,) = emulator.ledger()["predictions"]
    assert told["completed_at"] == ended["completed_at"] < told["reported_at"]
    api.result(ended["id"])
    assert emulator.ledger()["predictions"] == [told]


def test_the_same_request_makes_the_same_bytes(api: Api) -> None:
    image = api.upload()
    first, again, other = (api.run(image=image, seed=seed)["outputs"][0] for seed in (7, 7, 8))
    assert api.cdn.get(first).content == api.cdn.get(again).content
    assert api.cdn.get(first).content != api.cdn.get(other).content


def test_the_second_image_is_that_of_the_next_seed(api: Api) -> None:
    image = api.upload()
    second = api.run(image=image, seed=7, num_images=2)["outputs"][1]
    alone = api.run(image=image, seed=8)["outputs"][0]
    assert api.cdn.get(second).content == api.cdn.get(alone).content


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_every_style_differs_visibly_from_the_source(name: str) -> None:
    source = (EXAMPLES / f"{name}.jpg").read_bytes()
    plain = opened(source).convert("RGB").resize((256, 256))
    seen = set()
    for seed in range(4 * len(STYLES)):
        image = opened(variation(source, 256, 256, "png", seed, 20.0))
        seen.add(image.tobytes())
        differs = ImageStat.Stat(ImageChops.difference(plain, image)).mean
        assert sum(differs) / 3 > 8, seed
    assert len(seen) == 4 * len(STYLES)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_a_source_may_be_of_any_kind(mode: str) -> None:
    out = io.BytesIO()
    picture = opened(ASTRONAUT).convert("RGB").convert(mode)
    picture.save(out, "TIFF" if mode == "CMYK" else "PNG")
    assert opened(variation(out.getvalue(), 256, 300, "jpeg", 1, 3.5)).size == (256, 300)


def test_the_seed_that_minus_one_turned_into_is_not_told(api: Api) -> None:
    done = api.run(seed=-1)
    assert "seed" not in done
    assert api.history(include_inputs=True)[0]["input"]["seed"] == -1


def test_base64_outputs_are_the_same_pictures(api: Api) -> None:
    image = api.upload()
    url = api.run(image=image)["outputs"][0]
    inline = api.run(image=image, enable_base64_output=True)["outputs"][0]
    assert base64.b64decode(inline, validate=True) == api.cdn.get(url).content


def test_sync_mode_answers_with_the_finished_prediction(api: Api) -> None:
    done = data_of(api.submit(image=api.upload(), enable_sync_mode=True))
    assert done["status"] == "completed"
    assert api.cdn.get(done["outputs"][0]).status_code == 200


def test_the_result_is_found_on_both_paths_and_where_the_prediction_says(api: Api) -> None:
    done = api.run()
    for url in (f"/api/v3/predictions/{done['id']}", done["urls"]["get"]):
        assert data_of(api.http.get(url)) == done


def test_an_image_is_fetched_over_http(api: Api, web: Web) -> None:
    web.files["/cat.jpg"] = ASTRONAUT
    assert api.run(image=f"{web.url}/cat.jpg?signature=x")["status"] == "completed"


@pytest.mark.parametrize(
    "image", ["http://127.0.0.1:9/none.jpg", "ftp://example.com/a", "WEB/missing", "http://"]
)
def test_an_image_that_cannot_be_fetched_fails_and_is_refunded(
    api: Api, emulator: Emulator, web: Web, image: str
) -> None:
    done = api.run(image=image.replace("WEB", web.url))
    assert (done["status"], done["code"], done["outputs"]) == ("failed", 1402, [])
    ledger = emulator.ledger()
    assert (ledger["billed"], ledger["spent"], ledger["balance"]) == (0, 0, 100)
    assert ledger["predictions"][0]["refunded"]


def test_an_image_that_is_none_fails(api: Api) -> None:
    assert api.run(image=api.upload(b"not a picture"))["code"] == 1401


# Strictness


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"image": None}, "image"),
        ({"image": ""}, "image"),
        ({"image": 5}, "image"),
        ({"size": "1024x1024"}, "size"),
        ({"size": "255*256"}, "size"),
        ({"size": "256*1537"}, "size"),
        ({"size": 1024}, "size"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 51}, "num_inference_steps"),
        ({"num_inference_steps": "28"}, "num_inference_steps"),
        ({"guidance_scale": 0.9}, "guidance_scale"),
        ({"guidance_scale": 20.1}, "guidance_scale"),
        ({"guidance_scale": "3.5"}, "guidance_scale"),
        ({"num_images": 0}, "num_images"),
        ({"num_images": 5}, "num_images"),
        ({"num_images": True}, "num_images"),
        ({"seed": -2}, "seed"),
        ({"seed": 2147483648}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"output_format": "gif"}, "output_format"),
        ({"enable_base64_output": "yes"}, "enable_base64_output"),
        ({"enable_sync_mode": 1}, "enable_sync_mode"),
        ({"prompt": "a cat"}, "prompt"),
    ],
)
def test_a_wrong_field_is_refused_by_name_and_bills_nothing(
    api: Api, emulator: Emulator, wrong: dict[str, Any], field: str
) -> None:
    answer = api.submit(**{"image": "https://example.com/a.jpg", **wrong})
    assert answer.status_code == answer.json()["code"] == 400
    assert f'"{field}"' in answer.json()["message"]
    assert emulator.ledger()["predictions"] == []


def test_the_image_is_required(api: Api) -> None:
    assert '"image"' in api.submit().json()["message"]


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"\xff"])
@pytest.mark.parametrize("path", [f"/api/v3/{MODEL}", "/api/v3/predictions", "/api/v3/model/price"])
def test_a_body_that_is_no_json_object_is_refused(api: Api, path: str, body: bytes) -> None:
    assert api.http.post(path, content=body).status_code == 400


@pytest.mark.parametrize("webhook", ["http://example.com/hook", "ftp://example.com", "nonsense", "https://"])
def test_a_webhook_must_be_https(api: Api, emulator: Emulator, webhook: str) -> None:
    answer = api.submit(webhook, image="https://example.com/a.jpg")
    assert answer.status_code == 400
    assert '"webhook"' in answer.json()["message"]
    assert emulator.ledger()["predictions"] == []


def test_unknown_models_calls_and_predictions_are_not_found(api: Api) -> None:
    assert api.post("/api/v3/wavespeed-ai/other", {}).status_code == 404
    assert api.http.get("/api/v3/nothing").json()["code"] == 404
    assert api.http.get("/api/v3/predictions/nothing/result").json()["code"] == 404


def test_every_call_but_the_cdn_needs_a_key(emulator: Emulator) -> None:
    with httpx.Client(base_url=emulator.url, trust_env=False, verify=False) as http:
        for path in ("/api/v3/balance", "/api/v3/predictions/x", "/api/v3/webhook/secret", "/api/v3/any"):
            assert http.get(path).status_code == 401
        for path in (f"/api/v3/{MODEL}", "/api/v3/predictions", "/api/v3/media/uploads"):
            assert http.post(path, json={}).json()["code"] == 401


def test_the_ledger_tells_when_the_cdn_was_given_a_key(api: Api, emulator: Emulator) -> None:
    url = api.run()["outputs"][0]
    api.cdn.get(url)
    assert not emulator.ledger()["keys_seen_on_cdn"]
    api.http.get(url)
    assert emulator.ledger()["keys_seen_on_cdn"]


# The calls around it


def test_the_history_is_newest_first_and_filtered(api: Api) -> None:
    image = api.upload()
    first, second = (api.run(image=image, seed=seed) for seed in (1, 2))
    failed = api.run(image="http://127.0.0.1:9/")
    assert [item["id"] for item in api.history()] == [failed["id"], second["id"], first["id"]]
    assert "input" not in api.history()[0]
    assert api.history(include_inputs=True)[1]["input"] == {**SMALL, "image": image, "seed": 2}
    assert [item["id"] for item in api.history(status="failed")] == [failed["id"]]
    assert len(api.history(model=MODEL)) == 3
    assert api.history(model="wavespeed-ai/other") == []
    after = api.history(created_after=second["created_at"])
    assert [item["id"] for item in after] == [failed["id"], second["id"]]
    before = api.history(created_before=second["created_at"])
    assert [item["id"] for item in before] == [second["id"], first["id"]]
    page = api.post("/api/v3/predictions", {"page": 2, "page_size": 2})
    assert [item["id"] for item in data_of(page)["items"]] == [first["id"]]


@pytest.mark.parametrize(
    "query",
    [
        {"page": 1},
        {"page_size": 10},
        {"page": 0, "page_size": 10},
        {"page": 1, "page_size": 101},
        {"page": 1, "page_size": 10, "status": "done"},
        {"page": 1, "page_size": 10, "created_after": "yesterday"},
        {"page": 1, "page_size": 10, "sort": "x"},
    ],
)
def test_a_wrong_history_query_is_refused(api: Api, query: dict[str, Any]) -> None:
    assert api.post("/api/v3/predictions", query).status_code == 400


def test_a_deleted_prediction_is_gone_from_the_history_and_the_cdn_but_stays_billed(
    api: Api, emulator: Emulator
) -> None:
    done = api.run()
    for expected in (1, 0):
        answer = api.post("/api/v3/predictions/delete", {"ids": [done["id"], "unknown"]})
        assert data_of(answer) == {"deleted_count": expected}
    assert api.result(done["id"])["status"] == "deleted"
    assert api.history() == []
    assert api.cdn.get(done["outputs"][0]).status_code == 404
    assert emulator.ledger()["billed"] == 1


def test_balance_price_and_billings_agree(api: Api) -> None:
    asked = {"model_id": MODEL, "inputs": {"image": "https://example.com/a.jpg", "num_images": 3}}
    price = data_of(api.post("/api/v3/model/price", asked))
    assert (price["price"], price["currency"]) == (0.075, "USD")
    legacy = data_of(api.post("/api/v3/model/pricing", {"model_id": MODEL}))
    assert legacy == {"unit_price": 0.025, "currency": "USD"}
    done = api.run(num_images=3)
    failed = api.run(image="http://127.0.0.1:9/")
    for path in ("/api/v3/balance", "/api/v3/account/balance"):
        assert data_of(api.http.get(path)) == {"balance": 99.925}
    billings = data_of(
        api.post("/api/v3/billings/search", {"page": 1, "page_size": 10, "start_time": done["created_at"]})
    )
    prices = {item["prediction"]["uuid"]: item["price"] for item in billings["items"]}
    assert prices == {done["id"]: 0.075, failed["id"]: 0}


def billed_to(api: Api, **filters: Any) -> list[str]:
    items = data_of(api.post("/api/v3/billings/search", {"page": 1, "page_size": 100, **filters}))["items"]
    return [item["prediction"]["uuid"] for item in items]


def test_billings_are_paged_sorted_and_filtered_by_time_prediction_and_type(api: Api) -> None:
    ids = []
    for seed in range(3):
        ids.append(api.run(seed=seed)["id"])
        time.sleep(0.005)  # the call tells milliseconds apart
    assert billed_to(api) == ids[::-1]
    assert billed_to(api, sort="created_at ASC") == ids
    assert [billed_to(api, sort="created_at ASC", page=page, page_size=2) for page in (1, 2, 3)] == [
        ids[:2],
        ids[2:],
        [],
    ]
    created = datetime.fromisoformat(api.result(ids[1])["created_at"][:26] + "+00:00").timestamp() * 1000
    assert billed_to(api, start_time=str(int(created))) == ids[:0:-1]
    assert billed_to(api, end_time=str(int(created) + 1)) == ids[1::-1]
    assert billed_to(api, prediction_uuids=[ids[2], "unknown"]) == [ids[2]]
    assert billed_to(api, billing_type="recharge") == []


def test_a_price_that_changes_holds_from_then_on(api: Api, emulator: Emulator) -> None:
    before = api.run()["id"]
    emulator.price(0.03)
    after = api.run(num_images=2)["id"]
    ledger = emulator.ledger()
    assert ledger["price"] == 0.03
    assert {record["id"]: record["price"] for record in ledger["predictions"]} == {before: 0.025, after: 0.06}
    asked = {"model_id": MODEL, "inputs": {}}
    assert data_of(api.post("/api/v3/model/price", asked))["price"] == 0.03
    emulator.reset()
    assert emulator.ledger()["price"] == 0.025


@pytest.mark.parametrize("usd", [-1, "dear", None, float("inf")])
def test_a_price_that_is_none_is_refused(emulator: Emulator, usd: Any) -> None:
    with pytest.raises(ValueError, match="price"):
        emulator.price(usd)
    assert emulator.ledger()["price"] == 0.025


def test_the_price_of_an_unknown_model_or_a_wrong_field_is_refused(api: Api) -> None:
    assert api.post("/api/v3/model/price", {"model_id": "other", "inputs": {}}).status_code == 404
    wrong = {"model_id": MODEL, "inputs": {"size": "1*1"}}
    assert '"size"' in api.post("/api/v3/model/price", wrong).json()["message"]


def test_an_upload_by_ticket_takes_the_bytes_without_a_key(api: Api) -> None:
    asked = {"filename": "a.jpg", "size": len(ASTRONAUT), "content_type": "image/jpeg"}
    ticket = data_of(api.post("/api/v3/media/uploads", asked))
    assert api.cdn.get(ticket["download_url"]).status_code == 404
    put = ticket["upload"]
    assert put["method"] == "PUT"
    assert api.cdn.put(put["url"], headers=put["headers"], content=b"short").status_code == 400
    assert api.cdn.put(put["url"], headers=put["headers"], content=ASTRONAUT).status_code == 200
    assert api.cdn.put(put["url"], headers=put["headers"], content=ASTRONAUT).status_code == 403
    assert api.cdn.get(ticket["download_url"]).content == ASTRONAUT
    assert api.run(image=ticket["download_url"])["status"] == "completed"


def test_an_upload_over_20_mb_is_refused(api: Api, emulator: Emulator) -> None:
    big = b"x" * (20 * 1024 * 1024 + 1)
    answer = api.http.post("/api/v3/media/upload/binary", files={"file": ("a.jpg", big)})
    assert answer.status_code == 400
    assert api.post("/api/v3/media/uploads", {"filename": "a.jpg", "size": len(big)}).status_code == 400
    assert api.post("/api/v3/media/upload/binary", {}).status_code == 400
    assert emulator.ledger()["uploads"] == 0


def test_each_key_has_a_webhook_secret_of_its_own(api: Api, emulator: Emulator) -> None:
    mine = data_of(api.http.get("/api/v3/webhook/secret"))["secret"]
    assert mine.startswith("whsec_")
    other = Api(emulator.url, "another-key")
    assert data_of(other.http.get("/api/v3/webhook/secret"))["secret"] != mine
    other.close()


# Webhooks


class Web:
    """A small web server on loopback: serves files, and keeps what is POSTed to it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: list[int] = []
        self.posts: list[tuple[dict[str, str], bytes]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = web.files.get(self.path.split("?")[0])
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(web.answers.pop(0) if web.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def signed_with(secret: str, headers: dict[str, str], body: bytes) -> bool:
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = secret.removeprefix("whsec_").encode()
    return headers["webhook-signature"] == "v3," + hmac.new(key, text, hashlib.sha256).hexdigest()


def test_a_webhook_is_signed_and_carries_the_prediction_with_its_input(api: Api, web: Web) -> None:
    secret = data_of(api.http.get("/api/v3/webhook/secret"))["secret"]
    image = api.upload()
    created = data_of(api.submit(f"{web.url}/hook", image=image))
    until(lambda: len(web.posts) == 1)
    headers, body = web.posts[0]
    assert signed_with(secret, headers, body)
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
    assert json.loads(body) == {**api.result(created["id"]), "input": {**SMALL, "image": image}}
    assert "authorization" not in headers


def test_a_webhook_tells_of_failures_too(api: Api, web: Web) -> None:
    api.submit(f"{web.url}/hook", image="http://127.0.0.1:9/")
    until(lambda: len(web.posts) == 1)
    assert json.loads(web.posts[0][1])["code"] == 1402


def test_a_webhook_is_delivered_again_until_it_is_answered_with_success(
    api: Api, emulator: Emulator, web: Web
) -> None:
    web.answers[:] = [500]
    api.submit(f"{web.url}/hook", image=api.upload())
    until(lambda: emulator.ledger()["predictions"][0]["deliveries"] == [500, 200])
    assert web.posts[0][0]["webhook-id"] == web.posts[1][0]["webhook-id"]


@pytest.mark.parametrize(("fault", "posts"), [("drop", 0), ("twice", 2), ("late", 1), ("forged", 1)])
def test_webhooks_go_wrong_as_told(api: Api, emulator: Emulator, web: Web, fault: str, posts: int) -> None:
    rule: dict[str, Any] = {"on": "webhook", "fault": fault}
    emulator.faults([{**rule, "seconds": 0.3} if fault == "late" else rule])
    created = data_of(api.submit(f"{web.url}/hook", image=api.upload()))
    api.wait(created["id"])
    if fault == "late":
        assert web.posts == []
    until(lambda: len(web.posts) == posts)
    time.sleep(0.1)
    assert len(web.posts) == posts
    secret = data_of(api.http.get("/api/v3/webhook/secret"))["secret"]
    assert all(signed_with(secret, *post) == (fault != "forged") for post in web.posts)


# Faults of the submission


SUBMIT_FAULTS: list[tuple[dict[str, Any], str | int, int]] = [
    ({"fault": "refused", "status": 400}, 400, 0),
    ({"fault": "refused", "status": 401}, 401, 0),
    ({"fault": "refused", "status": 402}, 402, 0),
    ({"fault": "refused", "status": 403}, 403, 0),
    ({"fault": "refused", "status": 404}, 404, 0),
    ({"fault": "refused", "status": 429, "retry_after": 2}, 429, 0),
    ({"fault": "refused"}, 503, 0),
    ({"fault": "refused", "status": 402, "enveloped": True}, "enveloped", 0),
    ({"fault": "drop_before"}, "dropped", 0),
    ({"fault": "drop_after"}, "dropped", 1),
    ({"fault": "status_after"}, 504, 1),
    ({"fault": "status_after", "status": 500}, 500, 1),
    ({"fault": "hang_before"}, "timeout", 0),
    ({"fault": "hang_before", "seconds": 0.1}, 503, 0),
    ({"fault": "hang_after"}, "timeout", 1),
    ({"fault": "hang_after", "seconds": 0.1}, "good", 1),
    ({"fault": "garbage_before"}, "garbage", 0),
    ({"fault": "garbage"}, "garbage", 1),
    ({"fault": "no_id"}, "no id", 1),
    ({"fault": "redirect", "location": "https://example.com/"}, 307, 0),
    ({"fault": "sync_timeout"}, "good", 1),
]


@pytest.mark.parametrize(("rule", "seen", "created"), SUBMIT_FAULTS, ids=lambda value: str(value))
def test_submissions_go_wrong_as_told(
    api: Api, emulator: Emulator, rule: dict[str, Any], seen: str | int, created: int
) -> None:
    emulator.faults([{"on": "submit", **rule}])
    image = api.upload()
    try:
        answer = api.http.post(f"/api/v3/{MODEL}", json={"image": image, **SMALL}, timeout=0.5)
    except httpx.TimeoutException:
        assert seen == "timeout"
    except httpx.TransportError:
        assert seen == "dropped"
    else:
        assert look(answer) == seen
        if "retry_after" in rule:
            assert answer.headers["Retry-After"] == "2"
    assert len(emulator.ledger()["predictions"]) == emulator.ledger()["billed"] == created
    assert "id" in data_of(api.submit(image=image)), "a rule fires once unless told otherwise"


def look(answer: httpx.Response) -> str | int:
    """What a client would make of an answer."""
    if answer.status_code != 200:
        return answer.status_code
    try:
        body = answer.json()
    except ValueError:
        return "garbage"
    if body["code"] != 200:
        return "enveloped"
    return "good" if body["data"].get("id") else "no id"


def test_a_late_submission_is_created_after_the_connection_was_cut(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "submit", "fault": "late", "seconds": 0.3}])
    with pytest.raises(httpx.TransportError):
        api.submit(image=api.upload())
    assert emulator.ledger()["predictions"] == []
    until(lambda: emulator.ledger()["billed"] == 1)


def test_sync_mode_that_waits_too_long_says_that_it_goes_on(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "submit", "fault": "sync_timeout"}])
    told = data_of(api.submit(image=api.upload(), enable_sync_mode=True))
    assert (told["status"], told["code"]) == ("processing", 5004)
    assert api.wait(told["id"])["status"] == "completed"


# Faults of the other calls


CALLS: dict[str, Callable[[Api], httpx.Response]] = {
    "result": lambda api: api.http.get("/api/v3/predictions/x/result"),
    "history": lambda api: api.post("/api/v3/predictions", {"page": 1, "page_size": 1}),
    "delete": lambda api: api.post("/api/v3/predictions/delete", {"ids": ["x"]}),
    "upload": lambda api: api.post("/api/v3/media/uploads", {"filename": "a", "size": 1}),
    "price": lambda api: api.post("/api/v3/model/price", {"model_id": MODEL, "inputs": {}}),
    "pricing": lambda api: api.post("/api/v3/model/pricing", {"model_id": MODEL}),
    "balance": lambda api: api.http.get("/api/v3/balance"),
    "account_balance": lambda api: api.http.get("/api/v3/account/balance"),
    "billings": lambda api: api.post("/api/v3/billings/search", {"page": 1, "page_size": 1}),
    "secret": lambda api: api.http.get("/api/v3/webhook/secret"),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_other_call_goes_wrong_as_told(api: Api, emulator: Emulator, name: str) -> None:
    emulator.faults(
        [
            {"on": name, "fault": "status", "status": 429, "retry_after": "Wed, 21 Oct 2037 07:28:00 GMT"},
            {"on": name, "fault": "drop"},
            {"on": name, "fault": "garbage"},
            {"on": name, "fault": "html"},
            {"on": name, "fault": "redirect", "location": "https://example.com/"},
            {"on": name, "fault": "hang", "seconds": 0.2},
        ]
    )
    limited = CALLS[name](api)
    assert limited.status_code == 429
    assert limited.headers["Retry-After"].endswith("GMT")
    with pytest.raises(httpx.TransportError):
        CALLS[name](api)
    assert look(CALLS[name](api)) == "garbage"
    page = CALLS[name](api)
    assert (page.status_code, page.headers["Content-Type"].split(";")[0]) == (200, "text/html")
    assert CALLS[name](api).status_code == 307
    started = time.monotonic()
    expected = 404 if name == "result" else 200
    assert CALLS[name](api).status_code == expected
    assert time.monotonic() - started >= 0.2
    assert CALLS[name](api).status_code == expected
    assert emulator.ledger()["calls"][name] == 7


def test_the_cdn_goes_wrong_as_told(api: Api, emulator: Emulator) -> None:
    url = api.run()["outputs"][0]
    whole = api.cdn.get(url).content

    def tell(fault: str, **more: Any) -> None:
        emulator.faults([{"on": "cdn", "fault": fault, **more}])

    for status in (404, 503):
        tell("status", status=status)
        assert api.cdn.get(url).status_code == status
    for fault in ("drop", "truncated"):
        tell(fault)
        with pytest.raises(httpx.RemoteProtocolError if fault == "truncated" else httpx.TransportError):
            api.cdn.get(url)
    tell("html")
    assert api.cdn.get(url).headers["Content-Type"].startswith("text/html")
    tell("corrupt")
    with pytest.raises(OSError, match="truncated"):
        opened(api.cdn.get(url).content)
    tell("wrong_format")
    assert opened(api.cdn.get(url).content).format == "PNG"
    tell("hang")
    with pytest.raises(httpx.ReadTimeout):
        api.cdn.get(url, timeout=0.2)
    tell("redirect", location=url)
    assert api.cdn.get(url, follow_redirects=True).content == whole
    tell("slow", seconds=0.4)
    started = time.monotonic()
    assert api.cdn.get(url).content == whole
    assert time.monotonic() - started >= 0.4
    assert api.cdn.get(url).content == whole


# How predictions end


OUTCOMES: list[tuple[dict[str, Any], str, int, int]] = [
    ({"fault": "failed"}, "failed", 5000, 0),
    ({"fault": "failed", "code": 1200, "message": "moderated"}, "failed", 1200, 0),
    ({"fault": "timeout"}, "timeout", 5004, 0),
    ({"fault": "cancelled"}, "cancelled", 0, 0),
    ({"fault": "deleted"}, "deleted", 0, 1),
    ({"fault": "no_outputs"}, "completed", 0, 1),
]


@pytest.mark.parametrize(("rule", "status", "code", "billed"), OUTCOMES, ids=lambda value: str(value))
def test_predictions_end_as_told(
    api: Api, emulator: Emulator, rule: dict[str, Any], status: str, code: int, billed: int
) -> None:
    emulator.faults([{"on": "prediction", **rule}])
    done = api.run()
    assert (done["status"], done["code"], done["outputs"]) == (status, code, [])
    if "message" in rule:
        assert done["error"] == "moderated"
    ledger = emulator.ledger()
    assert (ledger["billed"], ledger["in_flight"]) == (billed, 0)
    assert ledger["balance"] == 100 - 0.025 * billed


def test_a_stuck_prediction_stays_in_flight(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "stuck"}])
    created = data_of(api.submit(image=api.upload()))
    time.sleep(0.3)
    assert api.result(created["id"])["status"] == "processing"
    assert emulator.ledger()["in_flight"] == 1


def test_flagged_outputs_are_all_flagged(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "nsfw"}])
    assert api.run(num_images=2)["has_nsfw_contents"] == [True, True]


def test_expired_outputs_come_back_when_the_result_is_asked_again(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "expired"}])
    done = api.run()
    assert api.cdn.get(done["outputs"][0]).status_code == 404
    again = api.result(done["id"])
    assert again["outputs"] != done["outputs"]
    assert api.cdn.get(again["outputs"][0]).status_code == 200


def test_an_unlisted_prediction_appears_in_the_history_later(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "unlisted", "seconds": 0.5}])
    data_of(api.submit(image=api.upload()))
    assert api.history() == []
    until(lambda: len(api.history()) == 1)


def test_base64_can_come_as_a_data_uri(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "data_uri"}])
    assert api.run(enable_base64_output=True)["outputs"][0].startswith("data:image/jpeg;base64,/9j/")


# The fault script


def test_rules_fire_in_order_as_often_as_told(api: Api, emulator: Emulator) -> None:
    emulator.faults(
        [
            {"on": "balance", "fault": "status", "status": 500, "skip": 1, "times": 2},
            {"on": "balance", "fault": "status", "status": 502, "skip": 1, "times": None},
        ]
    )
    assert [api.http.get("/api/v3/balance").status_code for _ in range(5)] == [200, 500, 500, 502, 502]


def test_a_rule_can_be_for_one_request_only(api: Api, emulator: Emulator) -> None:
    image = api.upload()
    emulator.faults(
        [{"on": "submit", "fault": "refused", "times": None, "match": {"image": "uploads", "seed": 2}}]
    )
    assert [api.submit(image=image, seed=seed).status_code for seed in (1, 2, 3)] == [200, 503, 200]


def test_a_rule_with_a_probability_fires_now_and_then() -> None:
    script = Script.parse([{"on": "cdn", "fault": "drop", "times": None, "probability": 0.3}])
    assert 250 < sum(script.pick("cdn") is not None for _ in range(1000)) < 350


@pytest.mark.parametrize("on", FAULTS)
def test_every_documented_fault_is_accepted(on: str) -> None:
    for fault in FAULTS[on]:
        more = {"location": "https://example.com/"} if fault == "redirect" else {}
        assert Script.parse([{"on": on, "fault": fault, **more}]).rules[0].fault == fault


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ({}, "list"),
        ([5], "object"),
        ([{"fault": "drop"}], '"on"'),
        ([{"on": "cdn"}], '"fault"'),
        ([{"on": "nowhere", "fault": "drop"}], "submit, result"),
        ([{"on": "cdn", "fault": "no_id"}], "truncated"),
        ([{"on": "cdn", "fault": "drop", "seconds": 3}], '"seconds" is not an option'),
        ([{"on": "cdn", "fault": "drop", "times": 0}], "times"),
        ([{"on": "cdn", "fault": "drop", "times": "2"}], "times"),
        ([{"on": "cdn", "fault": "drop", "probability": 2}], "probability"),
        ([{"on": "submit", "fault": "refused", "status": 42}], "status"),
        ([{"on": "balance", "fault": "drop", "match": {"seed": 1}}], '"match" is not possible'),
        ([{"on": "submit", "fault": "drop_after", "match": {"size": 1}}], "match.size"),
        ([{"on": "result", "fault": "redirect"}], "location"),
    ],
)
def test_a_wrong_script_is_refused_in_one_line(script: Any, says: str) -> None:
    with pytest.raises(ScriptError) as refused:
        Script.parse(script)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


# The account and the process


def test_a_reset_forgets_everything(api: Api, emulator: Emulator) -> None:
    done = api.run()
    emulator.faults([{"on": "balance", "fault": "drop", "times": None}])
    emulator.reset()
    ledger = emulator.ledger()
    assert (ledger["predictions"], ledger["balance"], ledger["uploads"]) == ([], 100, 0)
    assert not any(ledger["calls"].values())
    assert api.cdn.get(done["outputs"][0]).status_code == 404
    assert data_of(api.http.get("/api/v3/balance")) == {"balance": 100}


def test_an_upload_answers_head_as_it_answers_get_without_the_picture(api: Api, emulator: Emulator) -> None:
    posted = api.http.post("/api/v3/media/upload/binary", files={"file": ("a.jpg", ASTRONAUT, "image/jpeg")})
    url = data_of(posted)["download_url"]
    there = api.cdn.head(url)
    assert (there.status_code, there.headers["Content-Length"]) == (200, str(len(ASTRONAUT)))
    emulator.reset()
    assert api.cdn.head(url).status_code == 404


def test_limits_keys_balance_and_faults_are_as_the_command_line_says(tmp_path: Path) -> None:
    script = tmp_path / "faults.json"
    script.write_text('[{"on": "balance", "fault": "status", "status": 500}]')
    told = "--tier 4 2 --key one --key two --balance 0.06 --price 0.02 --latency 0.2 0.2 --prerendered"
    with Emulator(*told.split(), "--faults", str(script)) as emulator:
        stranger, api = Api(emulator.url, "three"), Api(emulator.url, "two")
        assert stranger.http.get("/api/v3/balance").status_code == 401
        assert api.http.get("/api/v3/balance").status_code == 500
        assert data_of(api.http.get("/api/v3/balance")) == {"balance": 0.06}

        image = "https://example.com/never-fetched.jpg"
        created = [data_of(api.submit(image=image))["id"] for _ in range(2)]
        too_many = api.submit(image=image)
        assert (too_many.status_code, too_many.headers["Retry-After"]) == (429, "1")
        done = [api.wait(prediction_id) for prediction_id in created]
        one, two = (api.cdn.get(prediction["outputs"][0]).content for prediction in done)
        assert one == two
        assert opened(one).size == (256, 256)

        assert api.submit(image=image).status_code == 200
        assert api.submit(image=image).status_code == 402
        too_fast = api.submit(image=image)
        assert too_fast.status_code == 429
        assert 50 <= int(too_fast.headers["Retry-After"]) <= 60
        ledger = emulator.ledger()
        assert (ledger["billed"], ledger["rejected"], ledger["max_in_flight"]) == (3, 2, 2)
        assert ledger["balance"] == 0
        stranger.close()
        api.close()


def test_it_stops_quickly_with_calls_and_predictions_under_way() -> None:
    emulator = Emulator("--latency", "60", "60")
    api = Api(emulator.url)
    data_of(api.submit(image=api.upload()))
    emulator.faults([{"on": "balance", "fault": "hang"}])
    with pytest.raises(httpx.ReadTimeout):
        api.http.get("/api/v3/balance", timeout=0.2)
    started = time.monotonic()
    assert emulator.stop() == 0
    assert time.monotonic() - started < 3
    api.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "70000"], "--port"),
        (["--latency", "4", "2"], "--latency"),
        (["--latency", "nan", "2"], "--latency"),
        (["--tier", "0", "1"], "--tier"),
        (["--balance", "-1"], "--balance"),
        (["--faults", "missing.json"], "missing.json"),
        (["--faults", __file__], "not JSON"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_options_are_told_in_one_line(options: list[str], says: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "prefect_wavespeed.emulator", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=EXAMPLES.parent,
    )
    assert ended.returncode == 2
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_told_in_one_line(emulator: Emulator) -> None:
    port = emulator.url.rsplit(":", 1)[1]
    ended = subprocess.run(
        [sys.executable, "-m", "prefect_wavespeed.emulator", "--port", port],
        capture_output=True,
        text=True,
        check=False,
        cwd=EXAMPLES.parent,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert port in ended.stderr


async def test_predictions_are_forgotten_after_seven_days(monkeypatch: pytest.MonkeyPatch) -> None:
    async with aiohttp.ClientSession() as session:
        predictions = Predictions(Options(latency=(0, 0), prerendered=True), "http://127.0.0.1:1", session)
        request = ReduxRequest(image="https://example.com/a.jpg", size="256*256")
        record = predictions.create(request, {}, None, "key")
        await record.done.wait()
        now = time.time_ns()
        day = 24 * 3600 * 1_000_000_000
        monkeypatch.setattr("prefect_wavespeed.emulator.predictions.time.time_ns", lambda: now + 6 * day)
        assert predictions.get(record.id) is record
        monkeypatch.setattr("prefect_wavespeed.emulator.predictions.time.time_ns", lambda: now + 7 * day + 1)
        assert predictions.get(record.id) is None
        assert list(predictions.newest_first()) == []
        await predictions.close()
