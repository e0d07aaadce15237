"""What the hub keeps: models, their commits and their files, with the ids git and Git LFS give them.

Values, no HTTP. A commit is a whole tree; ids are true git ids, so ``git hash-object`` and the real client's check of
checksums agree with them. Nothing is refused: paths a client must not trust (``../evil``) can be listed too.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

Gated = Literal["auto", "manual", False]

_LFS_ABOVE_BYTES = 10 * 1024 * 1024
_LFS_NAMES = (
    *("*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gguf", "*.gz", "*.h5", "*.joblib", "*.mlmodel"),
    *("*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt"),
    *("*.pth", "*.rar", "*.safetensors", "*.tar", "*.tar.*", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst"),
)
_FIRST_COMMIT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Blob:
    """One version of a file. ``oid`` is its git blob id; in LFS that of the pointer, and ``sha256`` the file's own."""

    content: bytes | Path
    size_bytes: int
    oid: str
    sha256: str | None = None
    pointer_bytes: int = 0

    @classmethod
    def of(cls, path: str, content: "bytes | Path | Blob") -> "Blob":
        """The file ``path`` as the hub keeps it: in LFS when it is weights by its name or over 10 MiB, else in git.

        A blob is taken as it is: its ids need not be true, as they cannot be for files that are mostly holes.
        """
        if isinstance(content, Blob):
            return content
        size_bytes = len(content) if isinstance(content, bytes) else content.stat().st_size
        name = PurePosixPath(path).name
        if size_bytes <= _LFS_ABOVE_BYTES and not any(fnmatchcase(name, pattern) for pattern in _LFS_NAMES):
            text = content if isinstance(content, bytes) else content.read_bytes()
            return cls(content, size_bytes, git_id("blob", text))
        digest = _sha256(content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size_bytes}\n".encode()
        return cls(content, size_bytes, git_id("blob", pointer), digest, len(pointer))

    @property
    def lfs(self) -> dict[str, object]:
        """The members the tree listing adds for a file in LFS; empty for others."""
        if self.sha256 is None:
            return {}
        return {"lfs": {"oid": self.sha256, "size": self.size_bytes, "pointerSize": self.pointer_bytes}}


@dataclass(frozen=True, slots=True)
class Commit:
    """A whole tree: every file by path, every directory's git tree id by path."""

    id: str
    title: str
    created: datetime
    blobs: Mapping[str, Blob]
    directories: Mapping[str, str]

    def entry(self, path: str) -> dict[str, object] | None:
        """``path`` as the tree API lists it, or None when it is not in the tree."""
        if path in self.directories:
            return {"type": "directory", "oid": self.directories[path], "size": 0, "path": path}
        blob = self.blobs.get(path)
        if blob is None:
            return None
        return {"type": "file", "oid": blob.oid, "size": blob.size_bytes, "path": path, **blob.lfs}

    def paths(self, directory: str, *, recursive: bool) -> list[str] | None:
        """Files and directories in ``directory`` ("" is the root), sorted; None when there is no such directory."""
        if directory and directory not in self.directories:
            return None
        below = [path for path in (*self.directories, *self.blobs) if not directory or path.startswith(f"{directory}/")]
        return sorted(path for path in below if recursive or _parent(path) == directory)


@dataclass(slots=True)
class Model:
    """A model repository: refs (branches, tags, pull requests) onto commits that are never forgotten."""

    name: str
    gated: Gated = False
    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | Path | Blob], revision: str) -> Commit:
        """A new commit whose tree is exactly ``files``, and ``revision`` moved (or made) to point at it."""
        blobs = {path: Blob.of(path, content) for path, content in files.items()}
        directories = directory_ids({path: blob.oid for path, blob in blobs.items()})
        root = directories.pop("")
        title = f"commit {len(self.commits) + 1}"
        created = _FIRST_COMMIT + timedelta(minutes=len(self.commits))
        parent = f"parent {self.refs[revision]}\n" if revision in self.refs else ""
        author = f"Hub Simulator <hub@simulator.invalid> {int(created.timestamp())} +0000"
        text = f"tree {root}\n{parent}author {author}\ncommitter {author}\n\n{title}\n"
        commit = Commit(git_id("commit", text.encode()), title, created, blobs, directories)
        self.commits[commit.id] = commit
        self.refs[revision] = commit.id
        return commit

    def find(self, revision: str) -> Commit | None:
        """The commit a ref or a full commit id names."""
        return self.commits.get(self.refs.get(revision, revision))


def git_id(kind: str, body: bytes) -> str:
    """The id git gives an object."""
    return hashlib.sha1(f"{kind} {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()


def directory_ids(blobs: Mapping[str, str]) -> dict[str, str]:
    """The git tree id of every directory above the blobs (path to id); "" is the root, there even when empty."""
    members: dict[str, dict[str, bytes]] = {"": {}}
    for path in blobs:
        for directory in _ancestors(path):
            members.setdefault(directory, {})
    for path, oid in blobs.items():
        members[_parent(path)][_name(path)] = _tree_line("100644", path, oid)
    ids: dict[str, str] = {}
    for directory in sorted((d for d in members if d), key=lambda d: d.count("/"), reverse=True):
        ids[directory] = _tree_id(members[directory])
        members[_parent(directory)][f"{_name(directory)}/"] = _tree_line("40000", directory, ids[directory])
    return ids | {"": _tree_id(members[""])}


def files_below(directory: Path) -> dict[str, Path]:
    """Every file below ``directory`` by relative path, except in ``.git`` and ``.cache``."""
    found = ((path.relative_to(directory), path) for path in sorted(directory.rglob("*")) if path.is_file())
    return {short.as_posix(): path for short, path in found if not {".git", ".cache"} & set(short.parts)}


def _tree_id(members: Mapping[str, bytes]) -> str:
    return git_id("tree", b"".join(line for _, line in sorted(members.items(), key=lambda item: item[0].encode())))


def _tree_line(mode: str, path: str, oid: str) -> bytes:
    return f"{mode} {_name(path)}\0".encode() + bytes.fromhex(oid)


def _ancestors(path: str) -> Iterator[str]:
    while path := _parent(path):
        yield path


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def siblings(blobs: Mapping[str, Blob], *, with_blobs: bool) -> Iterable[dict[str, object]]:
    """The files as model info lists them: names only, or with sizes and ids."""
    for path, blob in sorted(blobs.items()):
        if not with_blobs:
            yield {"rfilename": path}
            continue
        lfs = {"sha256": blob.sha256, "size": blob.size_bytes, "pointerSize": blob.pointer_bytes}
        yield {"rfilename": path, "size": blob.size_bytes, "blobId": blob.oid} | ({"lfs": lfs} if blob.sha256 else {})
