"""`restyle init`: what it writes, and what it refuses to overwrite."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from prefect_wavespeed.deployments.cli.app import main

_ROOT = Path(__file__).resolve().parent.parent
FILES = [
    ".env.example",
    ".gitignore",
    "README.md",
    "manifest.jsonl",
    "photos/coffee.jpg",
    "prefect.yaml",
]


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["init", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_a_new_folder_and_the_current_empty_one_become_the_same_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new, here = tmp_path / "new" / "pictures", tmp_path / "pictures"
    here.mkdir()
    assert main(["init", str(new)]) == 0
    assert str(new / "README.md") in capsys.readouterr().out
    monkeypatch.chdir(here)
    assert main(["init"]) == 0
    assert written(new) == written(here) == FILES
    assert all((new / name).read_bytes() == (here / name).read_bytes() for name in FILES)
    assert (new / "README.md").read_text().startswith("# pictures\n")


def test_a_new_git_repository_counts_as_empty(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert main(["init", str(tmp_path)]) == 0
    (tmp_path / ".env").write_text("WAVESPEED_API_KEY=secret\n")
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    kept = subprocess.run(["git", "-C", tmp_path, "ls-files"], capture_output=True, text=True, check=True)
    assert sorted(kept.stdout.split()) == FILES, "the filled-in settings are not committed"


def test_a_folder_that_is_not_empty_is_refused_with_the_names_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 8):
        (tmp_path / f"{number}.txt").write_text("mine")
    assert "1.txt, 2.txt, 3.txt, 4.txt, 5.txt and 2 more" in refusal(capsys, str(tmp_path))
    assert len(written(tmp_path)) == 7


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures").write_text("mine")
    assert str(tmp_path / "pictures") in refusal(capsys, str(tmp_path / "pictures"))


def test_if_not_everything_can_be_written_nothing_is(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "prefect_wavespeed",
            "init",
            str(tmp_path / "a" / "pictures"),
        ],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),  # less than the photo
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "File too large" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pictures", 'our: "pictures" #1', "ü"])
def test_the_deployments_are_those_of_this_package(name: str, tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / name)]) == 0
    written_file = yaml.safe_load((tmp_path / name / "prefect.yaml").read_text())
    ours = yaml.safe_load((_ROOT / "deployments" / "prefect.yaml").read_text())
    assert written_file == {**ours, "name": name}
