"""The floor is kept by machine and version, and what cannot be read is not known."""

import pytest

from loadgen.doctor import floor

FACTS = {"name": "host", "kernel": "6.1", "cpu": "a CPU", "cpus": 4}
TOLD = {"at": "2026-01-31T00:00:00+00:00", "stamp_error_us": {"p50": 3.0, "p99": 8.0}, "workers": 2}


def test_what_was_kept_is_known(tmp_path):
    of = floor.key(FACTS, "1.0")
    kept = floor.keep(tmp_path / "new" / "folder", of, TOLD)
    assert floor.known(kept.parent, of) == TOLD
    floor.keep(kept.parent, of, TOLD | {"workers": 3})
    assert floor.known(kept.parent, of) == TOLD | {"workers": 3}
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize("change", [{"name": "other"}, {"kernel": "6.2"}, {"cpu": "another"}])
def test_of_another_machine_nothing_is_known(tmp_path, change):
    floor.keep(tmp_path, floor.key(FACTS, "1.0"), TOLD)
    assert floor.known(tmp_path, floor.key(FACTS | change, "1.0")) is None
    assert floor.known(tmp_path, floor.key(FACTS, "1.1")) is None
    assert floor.known(tmp_path, floor.key(FACTS | {"cpus": 8}, "1.0")) == TOLD


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"schema": 1}', b'{"schema": 99, "of": {}}', b"\xff\xfe"]
)
def test_a_damaged_file_is_as_good_as_none(tmp_path, damage):
    of = floor.key(FACTS, "1.0")
    floor.keep(tmp_path, of, TOLD).write_bytes(damage)
    assert floor.known(tmp_path, of) is None


def test_without_a_folder_nothing_is_known(tmp_path):
    assert floor.known(None, floor.key(FACTS, "1.0")) is None
    assert floor.known(tmp_path / "missing", floor.key(FACTS, "1.0")) is None
