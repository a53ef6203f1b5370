"""The options of a batch: one model for the flow, its deployments, the command and the shards."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # Prefect's own
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.shards import Shard
from prefect_wavespeed.deployments.cli.app import app, main
from prefect_wavespeed.flows import restyle_batch

_DEPLOYMENTS = Path(__file__).resolve().parents[1] / "deployments" / "prefect.yaml"

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"concurrency": 10_001},
        {"max_cost_usd": 0},
        {"max_cost_usd": float("nan")},
        {"max_cost_usd": float("inf")},
        {"max_failed": 1.5},
        {"max_failed": -0.1},
        {"on_bad_row": "ignore"},
        {"nsfw": "hide"},
        {"params": {"size": "9*9"}},
        {"concurency": 5},
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BatchOptions(**wrong)


def test_options_do_not_change() -> None:
    with pytest.raises(ValidationError):
        BatchOptions().wait = False  # type: ignore[misc]


def test_every_option_is_described_and_has_its_place_in_the_form() -> None:
    fields = BatchOptions.model_json_schema()["properties"]
    assert all(field["description"] for field in fields.values())
    assert [field["position"] for field in fields.values()] == list(range(len(fields)))
    assert [field["title"] for field in fields.values()] == list(BatchOptions.model_fields)


def test_the_flow_takes_them_as_one_parameter() -> None:
    schema = parameter_schema(restyle_batch)
    assert list(schema.properties) == [
        "manifest",
        "options",
        "wavespeed",
        "output",
        "dry_run",
        "shards",
        "date",
    ]
    assert schema.properties["options"]["position"] == 1
    assert schema.definitions["BatchOptions"]["additionalProperties"] is False
    assert list(schema.definitions["BatchOptions"]["properties"]) == list(BatchOptions.model_fields)


def test_the_deployments_options_are_valid() -> None:
    deployments = yaml.safe_load(_DEPLOYMENTS.read_text())["deployments"]
    (batch,) = (one for one in deployments if one["name"] == "restyle-batch")
    options = batch["parameters"]["options"]
    assert options.pop("max_cost_usd") == "{{ prefect.variables.restyle_max_cost_usd }}"
    assert BatchOptions(**options) == BatchOptions(on_bad_row="skip", max_failed=0.05)


def test_the_form_leaves_out_what_nobody_should_touch_and_a_run_may_be_given_it_all_the_same() -> None:
    schema = parameter_schema(restyle_batch).model_dump_for_openapi()
    params = schema["definitions"]["ReduxParams"]
    assert not {"enable_base64_output", "enable_sync_mode"} & params["properties"].keys()
    given = {"manifest": "a.csv", "options": {"params": {"size": "640*480", "enable_sync_mode": True}}}
    picked = {"wavespeed": {"$ref": {"block_document_id": "1"}}}
    assert not validate({**given, **picked, "shard": {"number": 1}}, schema)
    for wrong in ({"sise": "640*480"}, {"enable_sync_mode": "yes"}):
        assert validate({"manifest": "a.csv", "options": {"params": wrong}}, schema)


def test_the_command_has_a_flag_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    line = (
        "batch m.csv --out o --size 512*512 --steps 5 --guidance 2 --num-images 3 --format png "
        "--concurrency 7 --max-cost-usd 1.5 --max-failed 0.5 --on-bad-row skip --nsfw drop --retry-failed "
        "--no-wait"
    )
    _, bound, _ = app.parse_args(line.split(), exit_on_error=False, print_error=False)
    params = ReduxParams(
        size="512*512", num_inference_steps=5, guidance_scale=2, num_images=3, output_format="png"
    )
    assert BatchOptions(**bound.arguments["options"].model_dump()) == BatchOptions(
        params=params,
        concurrency=7,
        max_cost_usd=1.5,
        max_failed=0.5,
        on_bad_row="skip",
        nsfw="drop",
        retry_failed=True,
        wait=False,
    )
    _, unset, _ = app.parse_args(["batch", "m.csv", "--out", "o"], exit_on_error=False, print_error=False)
    assert "options" not in unset.arguments


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--concurrency", "0", "--concurrency 0: must be"),
        ("--concurrency", "many", "--concurrency many: must be a whole number"),
        ("--max-cost-usd", "0", "--max-cost-usd 0: must be"),
        ("--max-cost-usd", "nan", "--max-cost-usd nan: must be"),
        ("--max-failed", "1.5", "--max-failed 1.5: must be"),
        ("--on-bad-row", "ignore", "--on-bad-row ignore: must be 'fail' or 'skip'"),
        ("--size", "9*9", "--size 9*9: "),
        ("--steps", "51", "--steps 51: must be 1 to 50"),
        ("--parallel", "5", "Unknown option: --parallel"),
        ("--seed", "5", "Unknown option: --seed"),
    ],
)
def test_a_wrong_flag_is_one_line_with_its_value_and_what_it_must_be(
    flag: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", "m.csv", "--out", "o", flag, value]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {says}")
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_a_shard_has_its_part_of_them() -> None:
    shard = Shard(number=1, of=3, run_id="x", folder="y", began=BEGAN, max_cost_usd=0.5)
    whole = BatchOptions(concurrency=10, max_cost_usd=1.5, max_failed=0.1, retry_failed=True)
    assert shard.options(whole) == BatchOptions(
        concurrency=4, max_cost_usd=0.5, max_failed=1.0, retry_failed=True
    )


def test_a_shard_without_anything_to_pay_for_has_a_cap_of_nothing() -> None:
    shard = Shard(number=1, of=3, run_id="x", folder="y", began=BEGAN, max_cost_usd=0)
    assert shard.options(BatchOptions(max_cost_usd=1.5)).max_cost_usd == 0
