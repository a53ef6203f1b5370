"""`restyle batch` with a manifest or a setting that cannot be used: one line, before Prefect starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_wavespeed.deployments.cli.app import main
from prefect_wavespeed.settings import get_settings
from tests.support.batches import pictures, write_manifest


@dataclass(frozen=True)
class Mistake:
    """What is wrong, and what the line must say."""

    name: str
    says: tuple[str, ...]
    make: Callable[[Path], object] = lambda path: write_manifest(path, pictures(3))
    file: str = "m.jsonl"
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def _wrong_column(path: Path) -> None:
    write_manifest(path, [{"imge": row["image"]} for row in pictures(3)])


def _bad_json_in_row_7(path: Path) -> None:
    lines = [json.dumps(row) for row in pictures(10)]
    lines[6] = lines[6].replace('"id":', '"id"')
    path.write_text("\n".join(lines))


def _wrong_types(path: Path) -> None:
    images = [row["image"] for row in pictures(3)]
    pq.write_table(pa.table({"image": images, "seed": ["7", "8", "9"]}), path)


def _some_bad(path: Path) -> None:
    rows = pictures(20)
    write_manifest(path, [{**row, "size": "9*9"} if n % 10 == 5 else row for n, row in enumerate(rows)])


def _many_bad(path: Path) -> None:
    write_manifest(path, pictures(600, size="9*9"))


MISTAKES = [
    Mistake("wrong column", ("row 1: unknown column", '"imge"', "did you mean image?"), _wrong_column),
    Mistake(
        "wrong column of a table",
        ('unknown column "img"', "--columns image=img"),
        lambda path: path.write_text("img,id\na.jpg,1\n"),
        "m.csv",
    ),
    Mistake("bad JSON in row 7", ("1 of 10 rows", "row 7: not JSON"), _bad_json_in_row_7),
    Mistake("empty file", ("m.jsonl", "it has no rows"), Path.touch),
    Mistake("a directory without images", ("m.jsonl", "no images below it"), Path.mkdir),
    Mistake("missing file", ("m.jsonl", "no such file"), lambda path: None),
    Mistake("file of another kind", ("m.txt", ".jsonl", ".parquet"), Path.touch, "m.txt"),
    Mistake(
        "Parquet with wrong types", ("column 'seed'", "string", "a whole number"), _wrong_types, "m.parquet"
    ),
    Mistake(
        "no Parquet at all",
        ("m.parquet", "not a complete Parquet file"),
        lambda path: path.write_text("image"),
        "m.parquet",
    ),
    Mistake(
        "a tenth of the rows is bad",
        ("2 of 20 rows", "row 6: size", "row 16: size", "or skip them with --on-bad-row skip;"),
        _some_bad,
    ),
    Mistake(
        "all of many rows are bad",
        ("500 of the first 500 rows", "row 5: size", "and 495 more"),
        _many_bad,
    ),
    Mistake(
        "output of another kind",
        ("unsupported scheme gs://", "gs://bucket/a"),
        options=("--out", "gs://bucket/a"),
    ),
    Mistake("settings at odds", ("RESTYLE_LEASE_SECONDS",), env={"RESTYLE_LEASE_SECONDS": "6"}),
]


@pytest.fixture(autouse=True)
def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prefect's server cannot be reached; settings are read anew."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake_is_one_line_before_prefect_is_asked_anything(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in mistake.env.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / mistake.file
    mistake.make(path)
    out = [] if "--out" in mistake.options else ["--out", str(tmp_path / "out")]
    assert main(["batch", str(path), *out, *mistake.options]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert [word for word in mistake.says if word not in shown.err] == []
    assert "Prefect" not in shown.err
    assert not (tmp_path / "out").exists()


def test_an_error_is_json_if_json_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", str(tmp_path / "gone.jsonl"), "--out", str(tmp_path), "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    error = json.loads(shown.out)["error"]
    assert (error["type"], error["retryable"]) == ("ManifestError", False)


def test_a_mistake_needs_no_prefect_to_be_found(tmp_path: Path) -> None:
    """Prefect takes seconds to import."""
    script = (
        "import sys; from prefect_wavespeed.deployments.cli.app import main\n"
        "assert main(sys.argv[1:]) == 1\n"
        "assert 'prefect' not in sys.modules"
    )
    command = [sys.executable, "-c", script, "batch", str(tmp_path / "gone.csv"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
