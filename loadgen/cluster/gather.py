"""Captures on their way from the nodes: to the driver, as they grow, or to an object store.

A file of a capture only ever grows, so what is there is never sent twice: the driver asks for what comes behind the bytes
that it has. What an agent gives is what was whole when it was asked; a batch that was cut is completed the next time.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from loadgen.cluster.link import Link, LinkError
from loadgen.errors import RunError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PIECE_BYTES: Final = 1 << 20

FOLDERS: Final = ("capture", "bodies")


def serve(link: Link, folder: Path) -> None:
    """Answer what the driver asks for: the files that there are, or a piece of one. Until the link closes (LinkError)."""
    while True:
        said = link.hear()
        if said.get("list"):
            link.tell(files=[[str(path), size] for path, size in files(folder)])
        else:
            path, first = PurePosixPath(said["path"]), int(said["first"])
            if path.is_absolute() or ".." in path.parts or path.parts[0] not in FOLDERS:
                raise LinkError(f"{path} is no file of a run")
            with open(folder / path, "rb") as file:
                file.seek(first)
                link.send(file.read(PIECE_BYTES))


def files(folder: Path) -> list[tuple[PurePosixPath, int]]:
    """What the workers have written in `folder` so far: path in it, bytes."""
    return [
        (PurePosixPath(path.relative_to(folder).as_posix()), path.stat().st_size)
        for name in FOLDERS
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    ]


class Gathering:
    """The files of one node, as far as they have come to `run_dir`."""

    def __init__(self, run_dir: Path, node: int) -> None:
        self._run_dir = run_dir
        self._node = node
        self._have: dict[PurePosixPath, int] = {}

    def over(self, link: Link) -> None:
        """Fetch what has been added. LinkError where the node is gone, RunError where the disk does not take it."""
        link.tell(list=True)
        for name, size in link.hear()["files"]:
            path = PurePosixPath(name)
            while self._have.get(path, 0) < size:
                link.tell(path=name, first=self._have.get(path, 0))
                piece = link.receive()
                if not piece:
                    break
                self._append(path, piece)

    def beside(self, folder: Path) -> None:
        """Copy what has been added from a folder of this machine: of a node that is gone, and was here."""
        for path, size in files(folder):
            with open(folder / path, "rb") as file:
                file.seek(self._have.get(path, 0))
                while self._have.get(path, 0) < size and (piece := file.read(PIECE_BYTES)):
                    self._append(path, piece)

    def _append(self, path: PurePosixPath, piece: bytes) -> None:
        target = destination(self._run_dir, self._node, path)
        try:
            target.parent.mkdir(mode=0o700 if path.parts[0] == "bodies" else 0o777, parents=True, exist_ok=True)
            new = path not in self._have
            with open(target, "wb" if new else "ab", opener=_private if path.parts[0] == "bodies" else None) as file:
                file.write(piece)
        except OSError as error:
            raise RunError(f"{target} cannot be written: {error.strerror}") from None
        self._have[path] = self._have.get(path, 0) + len(piece)


def destination(run_dir: Path, node: int, path: PurePosixPath) -> Path:
    """Where a node's file goes: RUN/capture/node-K/..., RUN/bodies/node-K/..."""
    return run_dir.joinpath(path.parts[0], f"node-{node}", *path.parts[1:])


def upload(folder: Path, uri: str, node: int) -> None:
    """Copy a node's files into an object store, laid out as in a run directory. RunError where it does not take them."""
    from pyarrow import fs

    here = fs.LocalFileSystem()
    with _told(uri, node):
        store, root = fs.FileSystem.from_uri(uri)
        for path, _ in files(folder):
            target = _target(store, root, path, node)
            fs.copy_files(str(folder / path), target, source_filesystem=here, destination_filesystem=store)


def check_takes(uri: str, node: int) -> None:
    """RunError where a store does not let this machine write a node's files; what is written to see that, is deleted."""
    import pyarrow as pa
    from pyarrow import fs

    with _told(uri, node):
        store, root = fs.FileSystem.from_uri(uri)
        target = _target(store, root, PurePosixPath(FOLDERS[0], "writable"), node)
        with store.open_output_stream(target) as stream:
            stream.write(b"loadgen")
        with contextlib.suppress(OSError, pa.ArrowException):  # who may write may not always delete
            store.delete_file(target)


def check_store(uri: str) -> None:
    """RunError where pyarrow knows no such store. Whether it takes anything, the nodes see: they alone may reach it."""
    from pyarrow import fs

    try:
        fs.FileSystem.from_uri(uri)
    except OSError:  # it knows the store, and did not come through
        return
    except Exception as error:
        raise RunError(" ".join(str(error).split())) from None


@contextmanager
def _told(uri: str, node: int) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        words = " ".join(str(error).split())
        raise RunError(f"--collect: {uri} does not take the captures of node {node}: {words}") from None


def _target(store: "FileSystem", root: str, path: PurePosixPath, node: int) -> str:
    """Where a node's file goes in a store; its folder is there then."""
    target = f"{root.rstrip('/')}/{path.parts[0]}/node-{node}/{'/'.join(path.parts[1:])}"
    if store.type_name == "local":  # others have no folders
        store.create_dir(target.rpartition("/")[0], recursive=True)
    return target


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
