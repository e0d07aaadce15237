"""The flags that change an engine's memory, in the spelling of each family."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.backends.engine_options import OPTIONS, flags_of, read_wish
from lading.errors import UsageError
from lading.profiles.fit import Wish
from lading.profiles.options import LONGEST_THAT_FITS, EngineOptions, Speculation
from lading.units import GIB


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        ("--max-model-len 32K", EngineOptions(max_model_len=32_768)),
        ("--max-model-len=32k", EngineOptions(max_model_len=32_000)),
        ("--max_model_len auto", EngineOptions(max_model_len=LONGEST_THAT_FITS)),
        ("--max-model-len -1", EngineOptions(max_model_len=LONGEST_THAT_FITS)),
        ("--gpu-memory-utilization 0.8", EngineOptions(gpu_utilization=0.8)),
        ("--device-memory-utilization=.7", EngineOptions(gpu_utilization=0.7)),
        ("--kv-cache-memory-bytes 2G", EngineOptions(kv_pool_bytes=2 * GIB)),
        ("--max-num-seqs 64 --max-num-batched-tokens 4k", EngineOptions(max_sequences=64, batched_tokens=4000)),
        ("--no-enable-chunked-prefill", EngineOptions(chunked_prefill=False)),
        ("--dtype float32", EngineOptions(dtype="float32")),
        ("--dtype auto --kv-cache-dtype auto", EngineOptions()),
        ("--kv-cache-dtype fp8_e4m3", EngineOptions(kv_dtype="fp8_e4m3")),
        ("-q fp8", EngineOptions(quantization="fp8")),
        ("--enforce-eager", EngineOptions(eager=True)),
        ("--enforce-eager --no-enforce-eager", EngineOptions()),
        ("--cudagraph-capture-sizes 1 2 4", EngineOptions(capture_sizes=(1, 2, 4))),
        ('-cc {"cudagraph_mode":"NONE"}', EngineOptions(eager=True)),
        ('--compilation-config {"cudagraph_capture_sizes":[1,8]}', EngineOptions(capture_sizes=(1, 8))),
        ("--compilation-config 3", EngineOptions()),
        ("--max-cudagraph-capture-size 64", EngineOptions(largest_capture=64)),
        ("--block-size 128", EngineOptions(block_size=128)),
        ("--max-loras 4 --max-lora-rank 64", EngineOptions(max_loras=4, max_lora_rank=64)),
        ("--fully-sharded-loras", EngineOptions(sharded_loras=True)),
        ("-ep -dp 2", EngineOptions(expert_parallel=True, data_parallel=2)),
        ("--cpu-offload-gb 1.5", EngineOptions(cpu_offload_bytes=3 * GIB // 2)),
        ('-sc {"method":"mtp","num_speculative_tokens":2}', EngineOptions(speculation=Speculation(2, own_layers=True))),
        ('-sc {"model":"a/b","num_speculative_tokens":3}', EngineOptions(speculation=Speculation(3, False, "a/b"))),
        ('--limit-mm-per-prompt {"image":0}', EngineOptions(images_per_prompt=0)),
        ('--limit-mm-per-prompt {"image":{"count":2}}', EngineOptions(images_per_prompt=2)),
        ("--limit-mm-per-prompt image=3,video=1", EngineOptions(images_per_prompt=3)),
        ("--skip-mm-profiling --language-model-only", EngineOptions(skip_mm_profiling=True, language_model_only=True)),
    ],
)
def test_vllms_flags_are_read(tokens: str, options: EngineOptions) -> None:
    assert read_wish("vllm", tokens.split()) == Wish(options=options)


@pytest.mark.parametrize(
    ("family", "tokens", "wish"),
    [
        ("vllm", "-tp 2 -pp 3 --enable-lora", Wish(tp=2, pp=3, lora=True)),
        ("sglang", "--tp 4 --pp-size 2 --enable-lora", Wish(tp=4, pp=2, lora=True)),
        ("sglang", "--tp-size=4", Wish(tp=4)),
        ("tensorrt_llm", "--tp_size 2 --pp_size 4", Wish(tp=2, pp=4)),
        (
            "sglang",
            "--mem-fraction-static 0.8 --context-length 4096 --max-running-requests 64 --chunked-prefill-size 4096",
            Wish(options=EngineOptions(4096, 0.8, max_sequences=64, batched_tokens=4096)),
        ),
        ("sglang", "--chunked-prefill-size -1", Wish()),
        (
            "sglang",
            "--cuda-graph-max-bs 32 --kv-cache-dtype fp8_e5m2 --page-size 64 --max-total-tokens 1000",
            Wish(options=EngineOptions(largest_capture=32, kv_dtype="fp8_e5m2", block_size=64, kv_pool_tokens=1000)),
        ),
        ("sglang", "--disable-cuda-graph --ep-size 4", Wish(options=EngineOptions(eager=True, expert_parallel=True))),
        (
            "tensorrt_llm",
            "--kv_cache_free_gpu_memory_fraction 0.8 --max_seq_len 8192 --max_batch_size 64 --max_num_tokens 4096",
            Wish(options=EngineOptions(8192, 0.8, max_sequences=64, batched_tokens=4096)),
        ),
    ],
)
def test_each_family_has_its_own_spelling(family: str, tokens: str, wish: Wish) -> None:
    assert read_wish(family, tokens.split()) == wish


def test_flags_of_no_concern_to_memory_are_passed_over() -> None:
    wish = read_wish("vllm", ["--seed", "1", "--tool-call-parser", "hermes"])
    assert replace(wish.options, others="") == EngineOptions()
    assert replace(wish, options=EngineOptions()) == Wish()


def test_flags_that_nobody_reads_leave_a_digest_and_those_that_change_nothing_do_not() -> None:
    digests = [read_wish("vllm", tokens).options.others for tokens in ([], ["--seed", "1"], ["--seed", "2"])]
    assert digests[0] == ""
    assert len(set(digests)) == 3
    assert read_wish("vllm", ["--port", "1", "--served-model-name", "a", "b", "--api-key", "k"]) == Wish()


@pytest.mark.parametrize(
    ("family", "tokens", "named"),
    [
        ("vllm", "--gpu-memory-utilization 1.5", "--gpu-memory-utilization 1.5"),
        ("vllm", "--gpu-memory-utilization 0", "--gpu-memory-utilization"),
        ("vllm", "--max-model-len many", "--max-model-len many"),
        ("vllm", "-sc {", "--speculative-config"),
        ("vllm", "-sc []", "--speculative-config"),
        ("vllm", "--block-size", "--block-size"),
        ("sglang", "--tp two", "--tp-size two"),
        ("vllm", "--limit-mm-per-prompt image=x", "--limit-mm-per-prompt"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(family: str, tokens: str, named: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as refusal:
        read_wish(family, tokens.split())
    assert named in refusal.value.message


@pytest.mark.parametrize("family", OPTIONS)
def test_no_flag_stands_twice_in_a_familys_table(family: str) -> None:
    names = [name for flag in flags_of(family) for name in (flag.name, *flag.short)]
    assert len(names) == len(set(names))
