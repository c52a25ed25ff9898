"""Files on their way to the driver: what grows is fetched once, what is no file of a run is not given."""

import os
import threading

import pytest

from loadgen.cluster.gather import PIECE_BYTES, Gathering, serve, upload
from loadgen.cluster.link import Link, LinkError
from loadgen.errors import RunError


@pytest.fixture
def node(pair, tmp_path):
    """A folder of a node that is served, and the link to it."""
    folder = tmp_path / "node"
    (folder / "capture" / "part-2").mkdir(parents=True)
    (folder / "bodies").mkdir()

    def give(link: Link) -> None:
        with pytest.raises(LinkError):
            serve(link, folder)
        link.close()

    thread = threading.Thread(target=give, args=(pair[1],), daemon=True)
    thread.start()
    yield folder, pair[0]
    pair[0].close()
    thread.join(30)


def test_what_has_grown_is_fetched_and_nothing_twice(node, tmp_path):
    folder, link = node
    gathering = Gathering(tmp_path / "run", 3)
    source = folder / "capture" / "worker-07.arrow"
    expected = b""
    for piece in (b"", b"abc", os.urandom(2 * PIECE_BYTES + 17), b"", b"end"):
        expected += piece
        source.write_bytes(expected)
        gathering.over(link)
        assert (tmp_path / "run/capture/node-3/worker-07.arrow").exists() == bool(expected)
    assert (tmp_path / "run/capture/node-3/worker-07.arrow").read_bytes() == expected


def test_parts_and_bodies_keep_their_places(node, tmp_path):
    folder, link = node
    (folder / "capture/part-2/worker-00.arrow").write_bytes(b"c")
    (folder / "bodies/worker-00.jsonl").write_bytes(b"b")
    (folder / "other").write_bytes(b"nobody asked for it")
    Gathering(tmp_path / "run", 0).over(link)
    found = sorted(str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert found == ["bodies/node-0/worker-00.jsonl", "capture/node-0/part-2/worker-00.arrow"]
    assert (tmp_path / "run/bodies/node-0/worker-00.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "capture/../../secret", "other/file", "capture/../../../x"]
)
def test_a_file_that_is_none_of_a_run_is_not_given(node, tmp_path, path):
    _, link = node
    (tmp_path / "secret").write_bytes(b"s")
    link.tell(path=path, first=0)
    link.set_timeout(20)
    with pytest.raises(LinkError):
        link.receive()


def test_of_a_node_that_is_gone_the_rest_is_copied_where_it_was_here(node, tmp_path):
    folder, link = node
    gathering = Gathering(tmp_path / "run", 1)
    (folder / "capture/worker-01.arrow").write_bytes(b"first ")
    gathering.over(link)
    (folder / "capture/worker-01.arrow").write_bytes(b"first last")
    gathering.beside(folder)
    assert (tmp_path / "run/capture/node-1/worker-01.arrow").read_bytes() == b"first last"


def test_a_disk_that_takes_nothing_is_said(node, tmp_path):
    folder, link = node
    (folder / "capture/worker-01.arrow").write_bytes(b"x")
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        Gathering(tmp_path / "run", 1).over(link)


def test_a_store_that_is_none_is_said(tmp_path):
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture/worker-00.arrow").write_bytes(b"x")
    with pytest.raises(RunError, match="--collect: nothing://x does not take the captures of node 2"):
        upload(tmp_path, "nothing://x", 2)
