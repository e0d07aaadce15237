"""Large models: how little is read of them, how fast, and that what was derived instead is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lading.cache.listing import KeptListing, Reads, load_listing, save_listing
from lading.cache.root import open_cache
from lading.errors import OfflineError, SourceUnreachable
from lading.events import Event, Note
from lading.hardware.inventory import Inventory
from lading.inspection import ModelReader, inspect
from lading.model.facts import ModelFacts, gather_facts
from lading.model.manifest import FileEntry
from lading.model.safetensors import Tensor
from lading.model.weights import Heads, Loading
from lading.profiles.fit import Wish
from lading.recall import Consultation, Refresh
from lading.resolve import Listing, Machine, Subject, list_profiles
from lading.sources.http import HttpClient, Network
from lading.sources.huggingface import HuggingFaceSource
from lading.uri import ModelUri
from tests.simulators.faults import Latency
from tests.simulators.hub import HubSimulator
from tests.simulators.hub_repository import Blob
from tests.simulators.memory_source import Fault
from tests.sparse import SparseSource, bf16, deepseek, llama, model_files, qwen_moe, sharded, write_sparse

LLAMA_405B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16_384, "num_hidden_layers": 126,
    "num_attention_heads": 128, "num_key_value_heads": 8, "intermediate_size": 53_248, "vocab_size": 128_256,
    "max_position_embeddings": 131_072, "rope_theta": 5e5, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "intermediate_size": 18_432,
    "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "vocab_size": 129_280, "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip
QWEN_30B = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
    "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151_936,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False,
}  # fmt: skip
BUDGET_BYTES = 2_000_000
SIZES = ((1, 1), (8, 1), (2, 4))


def look(source: SparseSource, find: Callable[[FileEntry], Path | None] = lambda _: None) -> ModelFacts:
    return inspect(source.manifest.files, ModelReader(source, find))


def read_bytes(source: SparseSource) -> int:
    return sum(request.end - request.start for request in source.requests)


def largest_ranks(facts: ModelFacts) -> list[int]:
    assert facts.weights
    heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
    return [max(facts.weights.rank_bytes(Loading(tp, pp, heads))) for tp, pp in SIZES]


@pytest.mark.parametrize("with_index", [True, False])
def test_of_191_shards_a_few_hundred_kib_are_read_and_all_is_known(with_index: bool) -> None:
    tensors = llama(LLAMA_405B)
    source = SparseSource().put(model_files(LLAMA_405B, sharded(tensors, 191, with_index=with_index)))
    facts = look(source)
    assert (facts.weights_bytes, facts.notes) == (sum(tensor.size_bytes for tensor in tensors), ())
    assert read_bytes(source) < 500_000
    assert len(source.requests) <= 2 * 191


@pytest.mark.parametrize(
    ("config", "tensors", "files", "with_index"),
    [
        (DEEPSEEK_V3, deepseek(DEEPSEEK_V3), 163, True),
        (DEEPSEEK_V3, deepseek(DEEPSEEK_V3), 163, False),
        (DEEPSEEK_V3, deepseek(DEEPSEEK_V3), 8, True),
        (DEEPSEEK_V3, deepseek(DEEPSEEK_V3, drafts=0), 40, True),
        (QWEN_30B, qwen_moe(QWEN_30B), 16, True),
        (QWEN_30B, qwen_moe(QWEN_30B), 1, False),
        (QWEN_30B, qwen_moe(QWEN_30B), 191, True),
    ],
    ids=["163 shards", "no index", "long headers", "no drafts", "16 shards", "one header", "191 shards"],
)
def test_what_was_derived_from_a_sample_is_what_all_headers_say(
    config: Mapping[str, Any], tensors: list[Tensor], files: int, with_index: bool
) -> None:
    source = SparseSource().put(model_files(config, sharded(tensors, files, with_index=with_index)))
    facts, exact = look(source), gather_facts(config, tensors)
    assert read_bytes(source) < BUDGET_BYTES
    assert facts.weights_bytes == pytest.approx(exact.weights_bytes, rel=0.001)
    assert largest_ranks(facts) == pytest.approx(largest_ranks(exact), rel=0.005)
    assert any("were derived from those" in note for note in facts.notes)


def test_layers_that_are_not_alike_are_scaled_to_what_the_files_hold() -> None:
    """A model whose every tenth layer is three times as wide, which its config does not say."""
    config = QWEN_30B | {"num_experts": 0}
    tensors = [
        Tensor(each.name, each.dtype, (each.shape[0] * 3, *each.shape[1:]))
        if ".layers." in each.name and int(each.name.split(".")[2]) % 10 == 7
        else each
        for each in qwen_moe(QWEN_30B)
    ]
    source = SparseSource().put(model_files(config, sharded(tensors, 191)))
    facts = look(source)
    assert facts.weights_bytes == pytest.approx(sum(tensor.size_bytes for tensor in tensors), rel=0.001)
    assert any("were scaled by" in note for note in facts.notes)


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        pytest.param(QWEN_30B, qwen_moe(QWEN_30B), id="many tensors"),
        pytest.param(DEEPSEEK_V3, deepseek(DEEPSEEK_V3), id="an index that is longer than the budget"),
    ],
)
def test_what_lies_here_is_read_whole_whatever_it_costs(
    tmp_path: Path, config: Mapping[str, Any], tensors: list[Tensor]
) -> None:
    files = model_files(config, sharded(tensors, 4))
    write_sparse(tmp_path, files)
    source = SparseSource().put(files)
    facts = look(source, lambda entry: tmp_path / entry.path)
    assert not source.requests
    assert not [note for note in facts.notes if "were read" in note]
    assert facts.parameters == sum(tensor.elements for tensor in tensors)


def test_of_two_numberings_that_of_the_index_counts() -> None:
    old, new = qwen_moe(QWEN_30B), [*qwen_moe(QWEN_30B), bf16("model.more.weight", 1000, 1000)]
    files = model_files(QWEN_30B, sharded(old, 30, with_index=False) | sharded(new, 16))
    facts = look(SparseSource().put(files))
    assert facts.weights_bytes == pytest.approx(sum(tensor.size_bytes for tensor in new), rel=0.001)


class TestListing:
    MACHINE = Machine(Inventory((), 64 << 30, 64 << 30, cpu_count=8), ())

    def list(self, source: Any, root: Path, events: list[Event] | None = None, *, refresh: bool = False) -> Listing:
        cache = open_cache(root, default=root, fallback=root)
        world = Consultation(
            Refresh.DEMANDED if refresh else Refresh.NEVER, report=(events if events is not None else []).append
        )
        model = ModelUri.parse("hf://demo/tiny")
        return list_profiles(Subject(model), Wish(), source=source, cache=cache, machine=self.MACHINE, world=world)

    def test_a_second_listing_reads_nothing_again(self, tmp_path: Path) -> None:
        source = SparseSource().put(model_files(DEEPSEEK_V3, sharded(deepseek(DEEPSEEK_V3), 163)))
        first = self.list(source, tmp_path)
        asked = len(source.requests)
        assert asked > 10
        assert self.list(source, tmp_path).facts == first.facts
        assert len(source.requests) == asked

    def test_offline_the_last_listing_is_looked_at(self, tmp_path: Path) -> None:
        source = SparseSource().put(model_files(LLAMA_405B, sharded(llama(LLAMA_405B), 20)))
        first = self.list(source, tmp_path)
        events: list[Event] = []
        offline = Unreachable(OfflineError("the network is forbidden"))
        again = self.list(offline, tmp_path, events)
        assert (again.facts, again.manifest) == (first.facts, first.manifest)
        assert any(isinstance(each, Note) and "as it was listed last" in each.text for each in events)

    def test_a_refresh_does_not_take_the_last_listing(self, tmp_path: Path) -> None:
        self.list(SparseSource().put(model_files(LLAMA_405B, sharded(llama(LLAMA_405B), 20))), tmp_path)
        with pytest.raises(SourceUnreachable):
            self.list(Unreachable(SourceUnreachable("down")), tmp_path, refresh=True)
        with pytest.raises(OfflineError):
            self.list(Unreachable(OfflineError("down")), tmp_path / "another")

    def test_a_new_revision_is_read_anew(self, tmp_path: Path) -> None:
        source = SparseSource().put(model_files(LLAMA_405B, sharded(llama(LLAMA_405B), 20)))
        self.list(source, tmp_path)
        smaller = LLAMA_405B | {"num_hidden_layers": 2}
        changed = SparseSource(revision="next").put(model_files(smaller, sharded(llama(smaller), 3)))
        assert self.list(changed, tmp_path).facts.layers == 2

    def test_a_range_that_was_damaged_is_not_kept(self, tmp_path: Path) -> None:
        source = SparseSource().put(model_files(LLAMA_405B, sharded(llama(LLAMA_405B), 20)))
        source.fail("model-00003-of-000020.safetensors", Fault(invert=20))
        with pytest.raises(Exception, match="header"):
            self.list(source, tmp_path)
        assert self.list(source, tmp_path).facts.layers == 126

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1, "manifest": {}, "reads": 1}'])
    def test_a_file_that_cannot_be_understood_is_as_good_as_none(self, tmp_path: Path, text: bytes) -> None:
        (tmp_path / "x").write_bytes(text)
        assert load_listing(tmp_path / "x", ModelUri.parse("hf://demo/tiny")) is None

    def test_what_is_kept_comes_back_and_only_of_pinned_files(self, tmp_path: Path) -> None:
        source = SparseSource(revision=None)
        pinned, other = source.add("a", b"1234"), source.add("b", b"5678", promise=None)
        reads = Reads()
        reads.add(pinned, 1, b"23")
        reads.add(other, 0, b"5678")
        save_listing(tmp_path / "x", KeptListing(source.manifest, reads))
        found = load_listing(tmp_path / "x", source.model)
        assert found
        assert (found.manifest, found.reads.find(pinned, 2, 3)) == (source.manifest, b"3")
        assert (found.reads.find(other, 0, 1), found.reads.find(pinned, 0, 2)) == (None, None)
        assert load_listing(tmp_path / "x", ModelUri.parse("hf://demo/another")) is None


class Unreachable(SparseSource):
    """A source that cannot be asked."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def list_files(self, model: ModelUri) -> Any:
        raise self.error


def test_listing_191_shards_over_a_slow_line_takes_less_than_three_seconds(tmp_path: Path) -> None:
    files = model_files(LLAMA_405B, sharded(llama(LLAMA_405B), 191))
    write_sparse(tmp_path, files)
    blobs: dict[str, Any] = {
        name: Blob(tmp_path / name, file.size_bytes, "0" * 40, f"{number:064}", 135)
        for number, (name, file) in enumerate(files.items())
        if name.startswith("model-")
    }
    with HubSimulator() as hub:
        hub.add_model("demo/huge", {name: file.head for name, file in files.items() if name not in blobs} | blobs)
        hub.fault(None, Latency(0.05), times=None)
        source = HuggingFaceSource(HttpClient(Network()), hub.endpoint)
        began = time.monotonic()
        manifest = source.list_files(ModelUri.parse("hf://demo/huge"))
        facts = inspect(manifest.files, ModelReader(source, lambda _: None))
        seconds = time.monotonic() - began
    assert facts.parameters == sum(tensor.elements for tensor in llama(LLAMA_405B))
    assert seconds < 3, f"{seconds:.1f} s"
