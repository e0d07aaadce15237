"""Which files an engine loads, of the many that lie side by side."""

from __future__ import annotations

import pytest

from lading.errors import MalformedModel
from lading.model.files import loaded_shards, unread_bytes, weight_map
from lading.model.manifest import FileEntry
from lading.uri import ModelUri

MODEL = ModelUri.parse("hf://org/model")


def entries(sizes: dict[str, int]) -> list[FileEntry]:
    return [FileEntry(path, size, MODEL.with_file(path)) for path, size in sizes.items()]


@pytest.mark.parametrize(
    ("paths", "named", "loaded"),
    [
        (["model.safetensors"], None, ["model.safetensors"]),
        (["a.safetensors", "b.safetensors"], None, ["a.safetensors", "b.safetensors"]),
        (["model.safetensors", "consolidated.safetensors"], None, ["model.safetensors"]),
        (["consolidated.safetensors", "params.json"], None, ["consolidated.safetensors"]),
        (["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"], None,
         ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"]),
        (["model.safetensors", "model.fp16.safetensors"], None, ["model.safetensors"]),
        (["model.fp16.safetensors"], None, ["model.fp16.safetensors"]),
        (["model.safetensors", "adapter_model.safetensors"], None, ["model.safetensors"]),
        (["adapter_model.safetensors"], None, ["adapter_model.safetensors"]),
        (["model.safetensors", "original/model.safetensors", "metal/model.safetensors", "onnx/x.safetensors"], None, ["model.safetensors"]),
        (["model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors"], None, ["2_Dense/model.safetensors", "model.safetensors"]),
        (["2_Dense/model.safetensors", "pytorch_model.bin"], None, []),
        (["x.safetensors", "y.safetensors", "old.safetensors"], ["x.safetensors", "y.safetensors"], ["x.safetensors", "y.safetensors"]),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model-00001-of-00003.safetensors"], None,
         ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        (["pytorch_model.bin"], None, []),
        ([], None, []),
    ],
)  # fmt: skip
def test_of_what_lies_side_by_side_the_engines_choice_counts(
    paths: list[str], named: list[str] | None, loaded: list[str]
) -> None:
    assert loaded_shards(paths, named) == loaded


@pytest.mark.parametrize(
    ("paths", "named", "words"),
    [
        (["a.safetensors"], ["a.safetensors", "b.safetensors"], r"index\.json names b\.safetensors"),
        (["model-00002-of-00003.safetensors"], None, r"names model-00001-of-00003\.safetensors, model-00003-of-00003"),
        (["model-00001-of-00009.safetensors"], None, "and 5 more"),
    ],
)
def test_shards_that_are_missing_are_named(paths: list[str], named: list[str] | None, words: str) -> None:
    with pytest.raises(MalformedModel, match=words):
        loaded_shards(paths, named)


@pytest.mark.parametrize(
    ("sizes", "total", "words"),
    [
        ({"pytorch_model.bin": 10, "training_args.bin": 3, "optimizer.pt": 5}, 10, ""),
        ({"pytorch_model-1.bin": 10, "pytorch_model-2.bin": 20}, 30, ""),
        ({"consolidated.00.pth": 10}, 10, ""),
        ({"model.pt": 10, "model.bin": 20}, 20, ""),
        ({"m-Q4_K_M.gguf": 40, "m-Q8_0.gguf": 80}, 80, "the largest of 2 precisions"),
        ({"m-00001-of-00002.gguf": 40, "m-00002-of-00002.gguf": 30}, 70, "those of m.gguf count"),
        ({"sub/pytorch_model.bin": 10, "config.json": 1}, 0, ""),
    ],
)
def test_weights_without_readable_headers_count_by_their_size(sizes: dict[str, int], total: int, words: str) -> None:
    found, note = unread_bytes(entries(sizes))
    assert found == total
    assert (words in note) if words else (note == "")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": None}])
def test_an_index_without_a_map_is_refused(index: dict[str, object]) -> None:
    with pytest.raises(MalformedModel, match="weight_map"):
        weight_map(index)
