"""The emulator answers as the WaveSpeedAI v3 API does, and bills what it creates."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from PIL import ImageChops, ImageStat

from prefect_wavespeed.emulator.pictures.styles import STYLES, variation
from tests.support.emulator_client import ASTRONAUT, EXAMPLES, MODEL, SMALL, Api, Web, data_of, opened, until
from tests.support.emulator_process import Emulator


@pytest.fixture
def api(emulator: Emulator) -> Iterator[Api]:
    client = Api(emulator.url)
    yield client
    client.close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


# --- predictions ---


@pytest.mark.parametrize("output_format", ["jpeg", "png", "webp"])
def test_a_prediction_is_a_picture_of_the_requested_size_and_format(api: Api, output_format: str) -> None:
    done = api.run(size="300*420", output_format=output_format, num_images=2)
    assert done["status"] == "completed"
    assert done["has_nsfw_contents"] is None
    assert done["timings"]["inference"] == done["executionTime"] >= 50
    assert len(done["created_at"].split(".")[1]) == len("123456789Z")
    pictures = [api.cdn.get(url) for url in done["outputs"]]
    assert [answer.headers["Content-Type"] for answer in pictures] == [f"image/{output_format}"] * 2
    for answer in pictures:
        image = opened(answer.content)
        assert image.size == (300, 420)
        assert (image.format or "").lower() == output_format
    assert pictures[0].content != pictures[1].content


def test_the_ledger_says_when_a_prediction_ended_and_when_that_was_first_reported(
    emulator: Emulator, api: Api
) -> None:
    api.submit(image=api.upload())
    (in_flight,) = emulator.ledger()["predictions"]
    assert in_flight["completed_at"] is in_flight["reported_at"] is None
    until(lambda: emulator.ledger()["in_flight"] == 0)
    (ended,) = emulator.ledger()["predictions"]
    assert ended["created_at"] < ended["completed_at"]
    assert ended["reported_at"] is None
    api.result(ended["id"])
    (reported,) = emulator.ledger()["predictions"]
    assert reported["completed_at"] == ended["completed_at"] < reported["reported_at"]
    api.result(ended["id"])
    assert emulator.ledger()["predictions"] == [reported]


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
def test_a_source_may_have_any_mode(mode: str) -> None:
    out = io.BytesIO()
    picture = opened(ASTRONAUT).convert("RGB").convert(mode)
    picture.save(out, "TIFF" if mode == "CMYK" else "PNG")
    assert opened(variation(out.getvalue(), 256, 300, "jpeg", 1, 3.5)).size == (256, 300)


def test_the_seed_chosen_for_minus_one_is_not_reported(api: Api) -> None:
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


def test_the_result_is_on_both_paths_and_at_the_predictions_url(api: Api) -> None:
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


def test_a_source_that_is_not_an_image_fails(api: Api) -> None:
    assert api.run(image=api.upload(b"not a picture"))["code"] == 1401


# --- invalid requests ---


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
def test_an_invalid_field_is_refused_by_name_and_bills_nothing(
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
def test_a_body_other_than_a_json_object_is_refused(api: Api, path: str, body: bytes) -> None:
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


def test_the_ledger_says_when_the_cdn_got_a_key(api: Api, emulator: Emulator) -> None:
    url = api.run()["outputs"][0]
    api.cdn.get(url)
    assert not emulator.ledger()["keys_seen_on_cdn"]
    api.http.get(url)
    assert emulator.ledger()["keys_seen_on_cdn"]


# --- the other calls ---


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
def test_an_invalid_history_query_is_refused(api: Api, query: dict[str, Any]) -> None:
    assert api.post("/api/v3/predictions", query).status_code == 400


def test_a_deleted_prediction_disappears_from_history_and_cdn_but_stays_billed(
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
    assert [
        (item["billing_type"], item["price"], item["prediction"]["uuid"]) for item in billings["items"]
    ] == [
        ("refund", 0.025, failed["id"]),
        ("deduct", 0.025, failed["id"]),
        ("deduct", 0.075, done["id"]),
    ]


def billed_to(api: Api, **filters: Any) -> list[str]:
    items = data_of(api.post("/api/v3/billings/search", {"page": 1, "page_size": 100, **filters}))["items"]
    return [item["prediction"]["uuid"] for item in items]


def test_billings_are_paged_sorted_and_filtered_by_time_prediction_and_type(api: Api) -> None:
    ids = []
    for seed in range(3):
        ids.append(api.run(seed=seed)["id"])
        time.sleep(0.005)  # the call has a resolution of milliseconds
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


def test_a_changed_price_applies_from_then_on(api: Api, emulator: Emulator) -> None:
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


@pytest.mark.parametrize("usd", [-1, "expensive", None, float("inf")])
def test_an_invalid_price_is_refused(emulator: Emulator, usd: Any) -> None:
    with pytest.raises(ValueError, match="price"):
        emulator.price(usd)
    assert emulator.ledger()["price"] == 0.025


def test_the_price_of_an_unknown_model_or_an_invalid_field_is_refused(api: Api) -> None:
    assert api.post("/api/v3/model/price", {"model_id": "other", "inputs": {}}).status_code == 404
    wrong = {"model_id": MODEL, "inputs": {"size": "1*1"}}
    assert '"size"' in api.post("/api/v3/model/price", wrong).json()["message"]


def test_an_upload_by_ticket_needs_no_key(api: Api) -> None:
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


def test_each_key_has_its_own_webhook_secret(api: Api, emulator: Emulator) -> None:
    mine = data_of(api.http.get("/api/v3/webhook/secret"))["secret"]
    assert mine.startswith("whsec_")
    other = Api(emulator.url, "another-key")
    assert data_of(other.http.get("/api/v3/webhook/secret"))["secret"] != mine
    other.close()


def test_a_reset_removes_everything(api: Api, emulator: Emulator) -> None:
    done = api.run()
    emulator.faults([{"on": "balance", "fault": "drop", "times": None}])
    emulator.reset()
    ledger = emulator.ledger()
    assert (ledger["predictions"], ledger["balance"], ledger["uploads"]) == ([], 100, 0)
    assert not any(ledger["calls"].values())
    assert api.cdn.get(done["outputs"][0]).status_code == 404
    assert data_of(api.http.get("/api/v3/balance")) == {"balance": 100}


def test_head_of_an_upload_is_answered_like_get(api: Api, emulator: Emulator) -> None:
    posted = api.http.post("/api/v3/media/upload/binary", files={"file": ("a.jpg", ASTRONAUT, "image/jpeg")})
    url = data_of(posted)["download_url"]
    answer = api.cdn.head(url)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(ASTRONAUT)))
    emulator.reset()
    assert api.cdn.head(url).status_code == 404
