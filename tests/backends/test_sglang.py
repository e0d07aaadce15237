"""The SGLang member: installations as they are found, the flags it reads, drafts, the logs it understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from lading.backends.environment import EngineEnvironments
from lading.backends.interface import Draft
from lading.backends.sglang import SglangBackend, static_share
from lading.backends.sglang_registry import MODELS, architectures
from lading.backends.vllm_registry import TRANSFORMERS_AUTO
from lading.errors import UsageError
from lading.events import Phase
from lading.profiles.fit import Wish
from lading.profiles.options import EngineOptions
from lading.profiles.rules import Support
from tests.backends.launches import launch_of

LOGS = Path(__file__).parents[1] / "assets/engine-logs"
BACKEND = SglangBackend()
ENTRY = "class LlamaForCausalLM:\n    pass\n\n\nEntryClass = LlamaForCausalLM\n"


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def source(root: Path) -> Path:
    (root / MODELS).mkdir(parents=True)
    (root / MODELS / "llama.py").write_text(ENTRY)
    return root


def found(tmp_path: Path, *places: str) -> list[tuple[str, tuple[str, ...], frozenset[str]]]:
    search_path = ":".join(str(tmp_path / place) for place in places)
    installations = BACKEND.installations(search_path, EngineEnvironments(tmp_path / "none"))
    return [(each.version, each.argv, each.architectures) for each in installations]


@pytest.mark.parametrize(("program", "behind"), [("sglang", ("serve",)), ("python3", ("-m", "sglang.launch_server"))])
def test_it_is_found_by_its_program_else_by_its_interpreter(tmp_path, program, behind):
    script = executable(tmp_path / "env/bin" / program)
    packages = source(tmp_path / "env/lib/python3.12/site-packages")
    (packages / "sglang-0.5.23.dist-info").mkdir()
    assert found(tmp_path, "env/bin") == [("0.5.23", (str(script), *behind), frozenset({"LlamaForCausalLM"}))]


@pytest.mark.parametrize("with_finder", [False, True])
def test_an_editable_install_is_read_where_its_source_lies(tmp_path, with_finder):
    executable(tmp_path / "env/bin/sglang")
    checkout = source(tmp_path / "workspace/python")
    packages = tmp_path / "env/lib/python3.12/dist-packages"
    (packages / "sglang-0.5.9.post1.dist-info").mkdir(parents=True)
    if with_finder:
        text = f"MAPPING: dict[str, str] = {{'sglang': '{checkout}/sglang'}}\n"
        (packages / "__editable___sglang_0_5_9_finder.py").write_text(text)
    else:
        (packages / "__editable__.sglang-0.5.9.pth").write_text(f"import os\n{checkout}\n")
    assert [(version, names) for version, _, names in found(tmp_path, "env/bin")] == [
        ("0.5.9.post1", frozenset({"LlamaForCausalLM"}))
    ]


def test_an_interpreter_without_it_is_nothing(tmp_path):
    executable(tmp_path / "env/bin/python3")
    (tmp_path / "env/lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    assert found(tmp_path, "env/bin", "nowhere") == []


def test_metadata_without_a_source_is_nothing(tmp_path):
    executable(tmp_path / "env/bin/sglang")
    packages = tmp_path / "env/lib/python3.12/site-packages"
    (packages / "sglang-0.5.9.dist-info").mkdir(parents=True)
    (packages / "__editable__.a.pth").write_bytes(b"\xff\xfe")
    (packages / "__editable__.b.pth").write_text("/nowhere\n")
    (packages / "__editable___c_finder.py").write_text("MAPPING = {'sglang': '/nowhere/sglang'}\n")
    assert found(tmp_path, "env/bin") == []


def test_its_model_classes_are_read_from_the_ends_of_its_files(tmp_path):
    models = source(tmp_path) / MODELS
    (models / "two.py").write_text("x = [1,\n  2]\nEntryClass = [\n    AForCausalLM,\n    BForCausalLM,  # C\n]\n")
    (models / "typed.py").write_text("EntryClass: list[type] = [DForCausalLM]\n")
    (models / "none.py").write_text("class EntryClassLike:\n    pass\n")
    (models / "broken.py").write_text("EntryClass = [\n")
    (models / "common").mkdir()
    known = {"LlamaForCausalLM", "AForCausalLM", "BForCausalLM", "DForCausalLM"}
    assert architectures(tmp_path) == known
    (models / "transformers.py").write_text("EntryClass = TransformersForCausalLM\n")
    (tmp_path / TRANSFORMERS_AUTO).parent.mkdir(parents=True)
    (tmp_path / TRANSFORMERS_AUTO).write_text(
        'MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(\n    [\n        ("new", "NewForCausalLM"),\n    ]\n)\n'
    )
    assert architectures(tmp_path) == known | {"TransformersForCausalLM", "NewForCausalLM"}


def test_the_users_flags_become_wishes():
    line = (
        "--tp=2 --context-length 4096 --served-model-name a --port 9000 --model /m --api-key k --mem-fraction-static .5"
    )
    flags = BACKEND.read_flags(line.split())
    assert flags.wish == Wish(tp=2, options=EngineOptions(max_model_len=4096, gpu_utilization=0.5))
    assert (flags.model, flags.served_names, flags.host, flags.port) == ("/m", ("a",), None, 9000)
    assert flags.api_key is not None
    assert flags.api_key.reveal() == "k"
    assert BACKEND.read_flags(["--trust-remote-code"]).wish.any_architecture


@pytest.mark.parametrize(
    "line",
    ["--disable-cuda-graph", "--disable-decode-cuda-graph", "--cuda-graph-backend-decode=disabled"],
)
def test_a_start_without_graphs_is_noticed_in_every_spelling(line):
    assert BACKEND.read_flags(line.split()).wish.options.eager


def test_batches_of_graphs_are_read_in_old_and_new_spelling():
    old, new = (f"--cuda-graph-max-bs{tail} 64 --cuda-graph-bs{tail} 1 2 4".split() for tail in ("", "-decode"))
    options = BACKEND.read_flags(new).wish.options
    assert options == BACKEND.read_flags(old).wish.options
    assert (options.largest_capture, options.capture_sizes) == (64, (1, 2, 4))


@pytest.mark.parametrize(
    ("draft", "version", "tokens"),
    [
        (Draft(None, "", 2, "N"), "0.5.23", "--speculative-algorithm NEXTN --speculative-num-steps 2 --speculative-eagle-topk 1 --speculative-num-draft-tokens 3"),
        (Draft(Path("/d"), "LlamaForCausalLMEagle3", None, "N"), "0.5.23", "--speculative-algorithm EAGLE3 --speculative-draft-model-path /d"),
        (Draft(Path("/d"), "LlamaForCausalLMEagle", None, "N"), "0.4.6", "--speculative-algorithm EAGLE --speculative-draft-model-path /d"),
        (Draft(Path("/d"), "LlamaForCausalLM", None, "N"), "", "--speculative-algorithm STANDALONE --speculative-draft-model-path /d"),
    ],
)  # fmt: skip
def test_a_draft_is_asked_for_by_its_kind(draft, version, tokens):
    assert " ".join(BACKEND.speculation(draft, version)) == tokens


def test_a_plain_draft_model_is_refused_where_the_version_has_no_way_for_it():
    with pytest.raises(UsageError, match=r"N asks for a draft model of its own, which sglang 0\.5\.1") as caught:
        BACKEND.speculation(Draft(Path("/d"), "LlamaForCausalLM", 2, "N"), "0.5.1")
    assert "0.5.2" in str(caught.value.remedy)


@pytest.mark.parametrize("granted", [0.4, 0.5, 0.9])
def test_the_granted_share_of_the_gpu_holds_everything(granted):
    launch = launch_of("sglang-bf16-tp1-pp1", "0.5.23", gpu_share=granted)
    estimate = launch.fit.estimate
    rank, whole = estimate.binding, estimate.budget_bytes
    context = rank.bytes_of("non_torch")
    static = static_share(launch) * (whole - context)
    needed = rank.bytes_of("activation", "cuda_graphs") + int((512 + 1024 / 8) * (1 << 20))
    assert static + context + needed == pytest.approx(granted * whole, rel=1e-4)
    assert static == pytest.approx(rank.bytes_of("weights", "rope_cache") + rank.kv_pool_bytes, rel=1e-6)


def test_a_share_that_holds_nothing_leaves_no_room_for_the_cache():
    assert launch_of("sglang-bf16-tp1-pp1", "0.5.23", gpu_share=0.1).fit.verdict == "incompatible"


def lines_of(name: str) -> list[str]:
    return (LOGS / f"{name}.log").read_text(errors="replace").replace("\r", "\n").split("\n")


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("sglang-0.5.7-load", [Phase.STARTING, Phase.LOADING]),
        ("sglang-0.4.4-tp", [Phase.WARMING]),
        ("sglang-0.5.5-single", []),
        ("sglang-0.5.16-mxfp4", [Phase.WARMING]),
    ],
)
def test_recorded_starts_have_their_phases_and_no_cause(name, phases):
    seen = [phase for line in lines_of(name) if (phase := BACKEND.phase_of(line))]
    assert list(dict.fromkeys(seen)) == phases
    assert BACKEND.explain(lines_of(name)) is None


STAMP = "[2026-11-20 10:00:02 TP0] "
CAUSES = {
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.": ("leave nothing", "raise"),
    "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate": ("no memory left for CUDA graphs", "lower"),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB": ("ran out of memory", "--max-running-requests"),
    "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes.": ("same memory free", "CUDA_VISIBLE_DEVICES"),
    "RuntimeError: Rank 0 scheduler died during initialization (exit code: -9). If exit code is -9": ("was killed", "memory limit"),
    "ValueError: User-specified context_length (99999) is greater than the derived context_length (2048).": ("99999 is longer than the model's own 2048", "--context-length=2048"),
    "ValueError: Model architectures ['FooForCausalLM'] are not supported for now.": ("does not run FooForCausalLM", "newer"),
    "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. Current capability: 80.": ("fp8 needs a GPU of compute capability 89, this one has 80", "another GPU"),
    "ValueError: LoRA adapter x with rank 64 is incompatible with the current LoRA memory pool configuration.": ("rank 64", "--max-lora-rank=64"),
    "launch_server.py: error: unrecognized arguments: --foo": ("refused a flag: unrecognized arguments: --foo", "sglang serve --help"),
    "ValueError: The checkpoint you are trying to load has model type `foo` but Transformers does not recognize this architecture.": ("model type foo", "newer engine"),
    "KeyError: 'new'": ("KeyError: 'new'", None),
}  # fmt: skip


@pytest.mark.parametrize("text", CAUSES, ids=lambda text: text[:40])
def test_causes_are_found_behind_what_only_says_that_it_died(text):
    message, remedy = CAUSES[text]
    lines = [
        f"{STAMP}Ignore import error when loading sglang.srt.models.x: Error: no",
        f"{STAMP}Scheduler hit an exception: Traceback (most recent call last):",
        text,
        f"{STAMP}Received sigquit from a child process. It usually means the child failed.",
        "RuntimeError: Initialization failed. Please see the error messages above.",
    ]
    cause = BACKEND.explain(lines)
    assert cause is not None
    assert message in cause.message
    assert remedy is None or remedy in str(cause.remedy)


def test_what_is_not_known_is_left_open(tmp_path):
    launch = launch_of("sglang-bf16-tp1-pp1", "0.5.23")
    assert BACKEND.support(launch.installation, "LlamaForCausalLM") == Support()
    assert BACKEND.known_architectures("0.5.23") == frozenset()
    endpoint = BACKEND.endpoint(launch.installation, tmp_path)
    assert endpoint.socket_path is None
    assert endpoint.port
    assert BACKEND.lora_api is not None
    assert (BACKEND.lora_api.load, BACKEND.lora_api.unload) == ("/load_lora_adapter", "/unload_lora_adapter")
