"""The image: its definition is clean, and what it does works, done here in a folder in place of a container."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the linter is a program for Linux")


def instructions():
    """(word, the rest) of each instruction, stage by stage."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages = []
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


def lint(path):
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, timeout=120, check=False)


def test_the_definition_has_nothing_that_the_linter_knows_better():
    done = lint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_finds_what_is_wrong(tmp_path):
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(
        DOCKERFILE.read_text().replace("python:3.11-slim-bookworm", "python:latest").replace("USER", "USR")
    )
    done = lint(wrong)
    assert done.returncode != 0


def test_nothing_of_the_build_is_left_in_the_image_and_it_is_nobodys():
    build, image = instructions()
    bases = {rest.split()[0] for (_, rest) in (build[0], image[0])}
    assert len(bases) == 1, "what was compiled for one Python runs on it"
    copies = [rest for word, rest in image if word == "COPY"]
    assert copies == ["--from=build /opt/loadgen /opt/loadgen"]
    users = [rest for word, rest in image if word == "USER"]
    assert users[-1].split(":")[0].isdigit(), "a number, by which runAsNonRoot can tell"
    assert int(users[-1].split(":")[0]) > 0
    assert ("ENTRYPOINT", '["loadgen"]') in image


def test_what_the_build_copies_is_there_and_is_let_through():
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    (build, _) = instructions()
    sources = [name for word, rest in build if word == "COPY" for name in rest.split()[:-1]]
    assert set(sources) == let_through
    assert all((ROOT / name).exists() for name in sources)


def test_every_package_is_pinned():
    lines = [line for line in (ROOT / "deploy" / "requirements.lock").read_text().splitlines() if line[0] not in " #"]
    assert len(lines) > 40
    assert all(re.match(r"[a-z0-9._\-]+==\S+", line) for line in lines)
    direct = {"ray", "aiohttp", "altair", "tiktoken", "tokenizers", "pyarrow", "setuptools"}
    assert direct <= {line.partition("==")[0] for line in lines}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_build_make_a_loadgen_that_knows_ray(tmp_path):
    """The build stage, with / standing for a folder: what it copies, and what it runs, in order."""
    (build, _) = instructions()
    version = re.search(r"python:(\d+\.\d+)-", build[0][1])[1]
    if version != ".".join(map(str, sys.version_info[:2])):
        pytest.skip(f"the image has Python {version}")
    place = tmp_path / "src"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    for word, rest in build[1:]:
        if word == "WORKDIR":
            place = tmp_path / rest.lstrip("/")
            place.mkdir(parents=True)
        elif word == "COPY":
            *names, target = rest.split()
            for name in names:
                to = place / target / (name if target.endswith("/") else "")
                to.parent.mkdir(parents=True, exist_ok=True)
                ignored = shutil.ignore_patterns("__pycache__")
                (
                    shutil.copytree(ROOT / name, to, ignore=ignored)
                    if (ROOT / name).is_dir()
                    else shutil.copy(ROOT / name, to)
                )
        else:
            assert word == "RUN"
            command = rest.replace("/opt/loadgen", str(tmp_path / "opt/loadgen"))
            command = re.sub(r"^python ", f"{sys.executable} ", command)
            done = subprocess.run(
                command,
                shell=True,
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=500,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    made = tmp_path / "opt/loadgen/bin"
    told = subprocess.run([made / "loadgen", "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.startswith("loadgen")
    script = "import ray, loadgen, analysis.page, tokenizers, tiktoken; print(ray.__version__, loadgen.__file__)"
    told = subprocess.run(
        [made / "python", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert str(tmp_path) in told.stdout, "the installed one, not that of this folder"
    assert (made / "ray").exists()
