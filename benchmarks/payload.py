"""The model that is transferred: shards of random bytes and ten small files, on a directory that every server serves.

It lies in ``bench/model`` below its root: the bucket ``bench`` to an S3 server, a repository to the hub.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

LOCATION = "bench/model"
_BLOCK_BYTES = 1 << 20
_SMALL_BYTES = {
    "config.json": 700,
    "generation_config.json": 150,
    "tokenizer_config.json": 50_000,
    "tokenizer.json": 2_000_000,
    "special_tokens_map.json": 300,
    "added_tokens.json": 2_000,
    "vocab.json": 800_000,
    "merges.txt": 450_000,
    "preprocessor_config.json": 500,
    "model.safetensors.index.json": 60_000,
}


@dataclass(frozen=True, slots=True)
class PayloadFile:
    """One file: its name in the model, its length, its SHA-256 and when it was written."""

    name: str
    size_bytes: int
    sha256: bytes
    modified: int


@dataclass(frozen=True, slots=True)
class Payload:
    """A model on disk, below ``root``."""

    root: Path
    files: tuple[PayloadFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(each.size_bytes for each in self.files)

    @property
    def directory(self) -> Path:
        """Where the files lie."""
        return self.root / LOCATION


def write_payload(root: Path, shards: int, shard_bytes: int) -> Payload:
    """Write the model. Every shard is another one, no two blocks of it are alike, and each run writes the same."""
    directory = root / LOCATION
    directory.mkdir(parents=True)
    sizes = dict(_SMALL_BYTES)
    sizes |= {f"model-{number:05}-of-{shards:05}.safetensors": shard_bytes for number in range(1, shards + 1)}
    return Payload(root, tuple(_write(directory / name, size_bytes) for name, size_bytes in sizes.items()))


def _write(path: Path, size_bytes: int) -> PayloadFile:
    block = random.Random(path.name).randbytes(_BLOCK_BYTES)
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes, _BLOCK_BYTES):
            piece = (start.to_bytes(8, "little") + block[8:])[: size_bytes - start]
            hasher.update(piece)
            file.write(piece)
    return PayloadFile(path.name, size_bytes, hasher.digest(), int(path.stat().st_mtime))
