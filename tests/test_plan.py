"""Plans: which files of a model are needed, what a transfer would do, and whether the disk can take it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.digest import Digest
from lading.errors import NotEnoughDisk
from lading.model.manifest import FileEntry, Manifest
from lading.plan import (
    ALWAYS_KEPT,
    EXCLUDED,
    HIDDEN,
    MARGIN_BYTES,
    SKIP_RULES,
    Globs,
    Holdings,
    LocalCopy,
    Partial,
    SkippedFile,
    Step,
    TransferPlan,
    choose_files,
    is_pinned,
    plan_transfer,
)
from lading.units import GIB, MIB
from lading.uri import ModelUri

MODEL = ModelUri.parse("hf://demo/tiny")
CACHE = Path("/cache")


def manifest(*paths: str) -> Manifest:
    return Manifest.of(MODEL, "c0ffee", [FileEntry(path, 1, MODEL.with_file(path)) for path in paths])


def skipped(*paths: str) -> dict[str, str]:
    chosen, left_out = choose_files(manifest(*paths))
    assert sorted([file.path for file in chosen.files] + [each.entry.path for each in left_out]) == sorted(paths)
    assert (chosen.source, chosen.revision) == (MODEL, "c0ffee")
    return {each.entry.path: each.reason for each in left_out}


@pytest.mark.parametrize(
    "others",
    [
        ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"],
        ["model.pt", "model.pth", "model.ckpt", "training_args.bin"],
        ["tf_model.h5", "flax_model.msgpack", "rust_model.ot"],
        ["model-Q4_K_M.gguf"],
        ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_q4.bin", "openvino/openvino_model.bin"],
        ["original/consolidated.00.pth", "original/model-00001.safetensors", "metal/model.bin"],
        ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors"],
        [".gitattributes", ".cache/huggingface/x.json", "sub/.hidden"],
    ],
    ids=lambda others: others[0],
)
def test_other_forms_of_the_weights_are_left_out(others: list[str]) -> None:
    assert set(skipped("model.safetensors", "config.json", *others)) == set(others)


def test_every_kind_of_file_that_an_engine_may_read_is_kept() -> None:
    kept = [
        "LICENSE",
        "LICENSE.txt",
        "README.md",
        "USE_POLICY.md",
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "configuration_x.py",
        "generation_config.json",
        "hf_quant_config.json",
        "merges.txt",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "modeling_x.py",
        "original/params.json",
        "original/tokenizer.model",
        "pytorch_model.bin.index.json",
        "sub/vocab.json",
        "tiktoken.model",
        "tokenizer.model",
        "tokenizer_config.json",
        "figures/a.png",
    ]
    assert skipped(*kept) == {}


def test_a_model_with_only_pytorch_weights_keeps_them_and_loses_the_other_frameworks() -> None:
    paths = ["config.json", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "model.gguf"]
    assert set(skipped(*paths)) == {"tf_model.h5", "onnx/model.onnx"}


@pytest.mark.parametrize(
    "paths",
    [
        ["model.gguf"],
        ["onnx/model.onnx", "config.json"],
        ["consolidated.safetensors", "params.json"],
        ["original/consolidated.00.pth"],
        ["tf_model.h5"],
    ],
)
def test_the_only_weights_of_a_model_are_never_left_out(paths: list[str]) -> None:
    assert skipped(*paths) == {}


def test_weights_that_only_their_own_folder_has_in_pytorch_form_are_kept() -> None:
    """Sentence-transformers models may have ``2_Dense/pytorch_model.bin`` beside a top-level ``model.safetensors``."""
    paths = ["model.safetensors", "2_Dense/pytorch_model.bin", "3_Dense/model.safetensors", "3_Dense/pytorch_model.bin"]
    assert set(skipped(*paths)) == {"3_Dense/pytorch_model.bin"}


def test_names_are_compared_without_case() -> None:
    assert set(skipped("model.safetensors", "PyTorch_Model.BIN", "License")) == {"PyTorch_Model.BIN"}


def test_every_skipped_file_has_a_reason_of_the_table() -> None:
    reasons = {rule.reason for rule in SKIP_RULES} | {HIDDEN}
    found = skipped("model.safetensors", "a.bin", "consolidated.safetensors", "metal/a", "a.gguf", "a.h5", ".git")
    assert set(found.values()) == reasons
    assert all(pattern == pattern.lower() for pattern in ALWAYS_KEPT)


def test_a_skipped_file_is_written_and_read_back() -> None:
    value = SkippedFile(FileEntry("a.bin", 7, MODEL.with_file("a.bin"), Digest.of(b"x")), "why")
    assert SkippedFile.from_json(value.to_json()) == value


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (FileEntry("a", 1, MODEL.with_file("a")), False),
        (FileEntry("a", 1, MODEL.with_file("a"), Digest.of(b"")), True),
        (FileEntry("a", 1, MODEL.with_file("a"), etag="e"), True),
        (FileEntry("a", 1, MODEL.with_revision("c0ffee").with_file("a")), True),
    ],
    ids=["nothing", "digest", "etag", "revision"],
)
def test_a_file_is_pinned_by_digest_etag_or_revision(file: FileEntry, expected: bool) -> None:
    assert is_pinned(file) is expected


def entry(path: str, size_bytes: int, content: str | None = "own") -> FileEntry:
    digest = Digest.of((path if content == "own" else content).encode()) if content else None
    return FileEntry(path, size_bytes, MODEL.with_file(path), digest)


def plan(files: list[FileEntry], holdings: Holdings = Holdings(), free_bytes: int = 1 << 50) -> TransferPlan:
    return plan_transfer(Manifest.of(MODEL, "c0ffee", files), holdings, free_bytes=free_bytes, cache_path=CACHE)


def steps(value: TransferPlan) -> dict[str, Step]:
    return {each.entry.path: each.step for each in value.files}


def test_each_file_has_one_step() -> None:
    digest = Digest.of(b"blob")
    holdings = Holdings(
        present={"a": digest},
        local={"b": LocalCopy(Path("/hf/b")), "a": LocalCopy(Path("/hf/a"))},
        partial={"c": Partial(30, 64)},
    )
    value = plan([entry("a", 10), entry("b", 20), entry("c", 100), entry("d", 5, None)], holdings)
    assert steps(value) == {"a": Step.PRESENT, "b": Step.ADOPT, "c": Step.FETCH, "d": Step.FETCH}
    assert value.of_step(Step.PRESENT)[0].digest == digest
    assert value.of_step(Step.ADOPT)[0].local == LocalCopy(Path("/hf/b"))
    assert (value.total_bytes, value.present_bytes, value.adopt_bytes) == (135, 10, 20)
    assert (value.fetch_bytes, value.resumed_bytes) == (105, 30)
    assert value.needed_bytes == 100 - 64 + 5 + MARGIN_BYTES
    assert not value.is_satisfied


def test_a_copy_from_another_filesystem_needs_room() -> None:
    value = plan([entry("b", 20)], Holdings(local={"b": LocalCopy(Path("/hf/b"), same_filesystem=False)}))
    assert value.needed_bytes == 20 + MARGIN_BYTES


def test_small_files_come_first_then_the_order_of_paths() -> None:
    big = 9 * MIB
    value = plan([entry("b", 1), entry("a.safetensors", big), entry("z.json", 8 * MIB), entry("b.safetensors", big)])
    assert [each.entry.path for each in value.files] == ["b", "z.json", "a.safetensors", "b.safetensors"]


def test_equal_files_are_worked_on_once() -> None:
    files = [entry("a", 9, "same"), entry("b", 9, "same"), entry("c", 9, None), entry("d", 9, None)]
    value = plan(files)
    assert steps(value) == {"a": Step.FETCH, "b": Step.SHARED, "c": Step.FETCH, "d": Step.FETCH}
    assert value.of_step(Step.SHARED)[0].shared_with == "a"
    assert value.shared_bytes == 9
    assert value.fetch_bytes == 27


def test_a_file_that_equals_a_present_one_is_not_fetched() -> None:
    same = Digest.of(b"same", "gitsha1")
    files = [FileEntry(path, 9, MODEL.with_file(path), same) for path in ("a", "b")]
    value = plan(files, Holdings(present={"b": Digest.of(b"same")}))
    assert steps(value) == {"a": Step.SHARED, "b": Step.PRESENT}
    assert value.is_satisfied


def test_a_promised_sha256_is_found_under_another_name_that_is_present() -> None:
    files = [entry("a", 9, "same"), FileEntry("b", 9, MODEL.with_file("b"), Digest.of(b"same", "gitsha1"))]
    assert steps(plan(files, Holdings(present={"b": Digest.of(b"same")}))) == {"a": Step.SHARED, "b": Step.PRESENT}


def test_nothing_to_do_needs_no_room() -> None:
    value = plan([entry("a", 10)], Holdings(present={"a": Digest.of(b"")}), free_bytes=0)
    value.check_disk()
    assert value.needed_bytes == 0
    assert value.is_satisfied


def test_a_disk_that_is_too_small_is_an_error_with_the_numbers_and_the_way_out() -> None:
    with pytest.raises(NotEnoughDisk) as raised:
        plan([entry("a", 15 * GIB)], free_bytes=3 * GIB).check_disk()
    assert str(raised.value) == "hf://demo/tiny needs 15.0 GiB more in /cache, where 3.00 GiB are free"
    assert raised.value.remedy == "free 12.0 GiB there, or set NIM_CACHE_PATH to a directory on a larger disk"


def test_a_disk_with_exactly_enough_room_will_do() -> None:
    plan([entry("a", 10)], free_bytes=10 + MARGIN_BYTES).check_disk()
    with pytest.raises(NotEnoughDisk):
        plan([entry("a", 10)], free_bytes=9 + MARGIN_BYTES).check_disk()


NAMES = st.sampled_from("abcdefgh")


@given(
    sizes=st.dictionaries(NAMES, st.integers(0, 1 << 40)),
    contents=st.dictionaries(NAMES, st.sampled_from(["x", "y", None])),
    present=st.sets(NAMES),
    local=st.dictionaries(NAMES, st.booleans()),
    partial=st.dictionaries(NAMES, st.tuples(st.floats(0, 1), st.floats(0, 1))),
)
def test_the_bytes_of_a_plan_add_up(
    sizes: dict[str, int],
    contents: dict[str, str | None],
    present: set[str],
    local: dict[str, bool],
    partial: dict[str, tuple[float, float]],
) -> None:
    files = [entry(path, size, contents.get(path, "own")) for path, size in sizes.items()]
    holdings = Holdings(
        present={path: Digest.of(path.encode()) for path in present},
        local={path: LocalCopy(Path("/hf", path), same) for path, same in local.items()},
        partial={
            path: Partial(int(sizes[path] * done), int(sizes[path] * taken))
            for path, (done, taken) in partial.items()
            if path in sizes
        },
    )
    value = plan(files, holdings)
    parts = (value.present_bytes, value.adopt_bytes, value.shared_bytes, value.fetch_bytes)
    assert sum(parts) == value.total_bytes == sum(sizes.values())
    assert 0 <= value.resumed_bytes <= value.fetch_bytes
    assert 0 <= value.needed_bytes <= value.fetch_bytes + value.adopt_bytes + MARGIN_BYTES
    assert sorted(each.entry.path for each in value.files) == sorted(sizes)
    worked_on = {each.entry.path for each in value.files if each.step is not Step.SHARED}
    assert all(each.shared_with in worked_on for each in value.of_step(Step.SHARED))
    assert {each.entry.path for each in value.of_step(Step.PRESENT)} == present & sizes.keys()


class TestGlobs:
    PATHS = ("config.json", "model.safetensors", "model.Q4.gguf", "original/weights.pth", "README.md", ".hidden/x")

    def chosen(self, included: str = "", excluded: str = "", paths: tuple[str, ...] = PATHS) -> set[str]:
        return {file.path for file in choose_files(manifest(*paths), Globs.parse(included, excluded))[0].files}

    def test_without_any_the_rules_decide(self) -> None:
        assert self.chosen() == {"config.json", "model.safetensors", "README.md"}

    @pytest.mark.parametrize("glob", ["*.gguf", "model.Q*", "*Q4*"])
    def test_what_a_rule_leaves_out_can_be_asked_for(self, glob: str) -> None:
        assert self.chosen(glob) == {"config.json", "model.safetensors", "README.md", "model.Q4.gguf"}

    def test_by_its_path_and_hidden_files_too(self) -> None:
        assert self.chosen("original/*, .hidden/*") - self.chosen() == {"original/weights.pth", ".hidden/x"}

    def test_more_can_be_left_out(self) -> None:
        assert self.chosen(excluded="*.md") == {"config.json", "model.safetensors"}
        _, left_out = choose_files(manifest(*self.PATHS), Globs.parse("", "*.md"))
        assert {each.reason for each in left_out if each.entry.path == "README.md"} == {EXCLUDED}

    def test_what_is_asked_for_wins(self) -> None:
        assert self.chosen("README.md", "*.md,*.json") == {"model.safetensors", "README.md"}

    def test_what_is_excluded_is_no_reason_to_leave_its_copies_out(self) -> None:
        paths = ("config.json", "model.safetensors", "pytorch_model.bin")
        assert self.chosen(excluded="*.safetensors", paths=paths) == {"config.json", "pytorch_model.bin"}

    def test_empty_parts_mean_nothing(self) -> None:
        assert Globs.parse(" , ", "*.md,,") == Globs((), ("*.md",))
