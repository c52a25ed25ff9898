"""The example of docs/dialects.md, installed beside loadgen, measures a server of its kind with the installed command."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from asked import rows, typed
from canned import canned, response

EXAMPLE = Path(__file__).parents[2] / "examples" / "dialect"

KEY = "polly-0123456789"


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """The PYTHONPATH of the example package and of what pip notes down of it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return os.pathsep.join([str(EXAMPLE), str(tmp_path / "site")])


def parrot(request: bytes) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    asked = json.loads(body)
    assert head.startswith(b"POST /parrot/talk HTTP/1.1\r\n")
    assert f"x-parrot-key: {KEY}".encode() in head
    said = asked["text"].split()[: asked["words"]]
    lines = [json.dumps({"word": word, "n": n}) for n, word in enumerate(said, 1)]
    lines.append(json.dumps({"end": "enough", "n": len(said), "heard": len(asked["text"].split())}))
    return response("\n".join(lines).encode(), "application/x-ndjson")


def test_a_package_brings_an_api_and_its_endpoint_is_measured(installed, tmp_path):
    with canned(parrot) as server:
        ended = typed(
            *("run", "--url", server.url.removesuffix("/v1"), "--api", "parrot", "--requests", 6, "--workers", 1),
            *("--input-tokens", 20, "--output-tokens", 5, "--out", tmp_path / "run"),
            PYTHONPATH=installed,
            PARROT_KEY=KEY,
        )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    told = rows(tmp_path / "run")
    assert {(row["error"], len(row["event_ns"]), row["prompt_tokens"], row["output_tokens"]) for row in told} == {
        (None, 5, 20, 5)
    }
    assert {tuple(row["event_tokens"]) for row in told} == {(1, 1, 1, 1, 1)}
    assert KEY not in (tmp_path / "run" / "run.json").read_text()


def test_without_the_package_the_api_is_not_known(tmp_path):
    ended = typed("run", "--url", "http://127.0.0.1:9", "--api", "parrot", "--out", tmp_path / "run")
    assert ended.returncode == 2
    assert "--api: 'parrot' is not known; allowed is auto, chat," in ended.stderr
