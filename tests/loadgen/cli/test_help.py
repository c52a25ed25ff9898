"""--help tells of every flag once, by subject."""

import re

import pytest
from click.testing import CliRunner

from loadgen.cli import group
from loadgen.cli.options import OWN
from loadgen.job.saturate import CHOSEN_HERE
from loadgen.spec.settings import SETTINGS, SUBJECTS


@pytest.mark.parametrize("command", ["run", "sweep", "saturate", "plan"])
def test_flags_stand_below_their_subject_and_each_once(command):
    ended = CliRunner().invoke(group, [command, "--help"])
    assert ended.exit_code == 0
    heads = [*SUBJECTS, OWN]
    parts = re.split(rf"^({'|'.join(heads)}):\n", ended.output, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(sections) == heads
    said = {head: re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE) for head, text in sections.items()}
    for subject, settings in SUBJECTS.items():
        for setting in settings:
            there = bool(setting.help) and not (command == "saturate" and setting.name in CHOSEN_HERE)
            assert said[subject].count("--" + setting.name.replace("_", "-")) == there, setting.name
    every = [flag for flags in said.values() for flag in flags]
    assert len(every) == len(set(every))
    assert "--help" in said[OWN]
    assert not {flag.removeprefix("--").replace("-", "_") for flag in said[OWN]} & SETTINGS.keys()
