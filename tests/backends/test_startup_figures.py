"""What engines print of their memory, version by version: recorded logs, single wordings, and lines of no sense at all."""

from __future__ import annotations

import timeit
from itertools import compress, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.backends.startup_figures import DIALECTS, figure_reader
from lading.backends.vllm_log import phase_of
from lading.profiles.measurement import Measurement
from lading.units import GIB, MIB

LOGS = Path(__file__).parents[1] / "assets" / "engine-logs"


def of(**gib: float) -> Measurement:
    """A measurement from GiB (and tokens, as they are), as exact as the engine's two to four digits."""
    tokens = gib.pop("tokens", None)
    figures = {f"{name}_bytes": round(size * GIB) for name, size in gib.items()}
    return Measurement(**figures, kv_pool_tokens=None if tokens is None else int(tokens))


def ranks(backend: str, text: str) -> tuple[Measurement, ...]:
    reader = figure_reader(backend)
    for line in text.splitlines():
        reader.read(line)
    return reader.ranks


def test_the_helper_of_these_tests_makes_what_it_says() -> None:
    assert of(weights=1.5, tokens=7) == Measurement(weights_bytes=1536 * MIB, kv_pool_tokens=7)


RECORDED = {
    "vllm-gpu-0.9.0-runai.log": [of(cuda_graph=0.45, tokens=1_131_008)],
    "vllm-gpu-0.11.0-single.log": [of(cuda_graph=0.95, kv_pool=16.23, tokens=425_424)],
    "vllm-gpu-0.11.1-docker.log": [of(weights=2.0513, kv_pool=33.31, tokens=1_587_648)],
    "vllm-gpu-2026-05-tp2.log": [of(weights=12.66)],
    "vllm-gpu-2026-05-tp2-slow-compile.log": [of(cuda_graph=0.04), of(cuda_graph=0.04)],
    "vllm-gpu-fail-free-memory-0.9.1.log": [],
    "vllm-gpu-fail-nccl-shm.log": [],
    "ok-plain.log": [of(kv_pool=0.25, tokens=131_072)],
    "ok-lora.log": [of(kv_pool=0.25, tokens=131_072)],
    "ok-sharded-tp2.log": [of(kv_pool=0.25, tokens=262_144)] * 2,
    "fail-no-weights.log": [],
    "sglang-0.4.4-tp.log": [of(weights=8.13, kv_pool=108.24, tokens=834_615)],
    "sglang-0.5.5-single.log": [of(cuda_graph=1.44, tokens=2_261_377)],
    "sglang-0.5.7-load.log": [of(non_torch=0.0)],
    "sglang-0.5.16-mxfp4.log": [of(weights=64.88, kv_pool=14.37, tokens=1_912_896)],
    "trtllm-0.20.0-llama8b-fp8.log": [of(weights=8.46, kv_pool=52.51, tokens=860_320)],
    "trtllm-1.1.0rc3-gpt-oss-120b.log": [of(weights=63.52, activation=0.85, kv_pool=5.95, tokens=86_720)],
    "trtllm-1.2-small-gpu.log": [of(kv_pool=5.07, tokens=41_568)],
    "trtllm-fail-oom-1.0.0rc3.log": [],
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_starts_give_the_figures_that_stand_in_them(name: str) -> None:
    backend = {"sglang": "sglang", "trtllm": "tensorrt_llm"}.get(name.partition("-")[0], "vllm")
    found = ranks(backend, (LOGS / name).read_text())
    assert [near(each) for each in found] == [near(each) for each in RECORDED[name]]


def near(each: Measurement) -> list[tuple[str, int]]:
    """Sums of figures are rounded once for each."""
    return [(term, value if term == "kv_pool_tokens" else round(value, -2)) for term, value in each.items()]


VLLM = {
    "0.5, blocks alone": ("INFO 07-01 10:00:00 gpu_executor.py:84] # GPU blocks: 2160, # CPU blocks: 512", []),
    "0.6.2, blocks of 16": (
        """INFO 10-01 10:00:00 model_runner.py:1025] Loading model weights took 14.9595 GB
INFO 10-01 10:00:09 gpu_executor.py:122] # GPU blocks: 27896, # CPU blocks: 2048
INFO 10-01 10:00:09 gpu_executor.py:126] Maximum concurrency for 131072 tokens per request: 3.41x""",
        [of(weights=14.9595, tokens=446_336)],
    ),
    "0.6.4, torch's peak has the weights": (
        """INFO 12-06 17:07:09 model_runner.py:1077] Loading model weights took 0.2389 GB
INFO 12-06 17:07:09 worker.py:232] Memory profiling results: total_gpu_memory=7.92GiB initial_memory_usage=0.65GiB peak_torch_memory=0.71GiB memory_usage_post_profile=0.68Gib non_torch_memory=0.43GiB kv_cache_size=5.99GiB gpu_memory_utilization=0.90
INFO 12-06 17:07:09 gpu_executor.py:113] # GPU blocks: 10900, # CPU blocks: 7281
INFO 12-06 17:07:09 gpu_executor.py:117] Maximum concurrency for 2048 tokens per request: 85.16x""",
        [of(weights=0.2389, activation=0.4711, non_torch=0.43, kv_pool=5.99, tokens=174_400)],
    ),
    "0.6.5, with commas": (
        """INFO 12-25 14:00:09 model_runner.py:1094] Loading model weights took 67.6979 GB
INFO 12-25 14:00:28 worker.py:265] Memory profiling results: duration=18.41 seconds, total_gpu_memory=191.98GiB, initial_memory_usage=71.40GiB, peak_torch_memory=86.79GiB, memory_usage_post_profile=73.77GiB, non_torch_memory=6.07GiB, kv_cache_size=95.28GiB, gpu_memory_utilization=0.98.""",
        [of(weights=67.6979, activation=19.0921, non_torch=6.07, kv_pool=95.28)],
    ),
    "0.8, V0": (
        """INFO 08-12 22:32:09 [model_runner.py:1115] Model loading took 0.5151 GiB and 3.479114 seconds
INFO 08-12 22:32:11 [worker.py:295] the current vLLM instance can use total_gpu_memory (47.50GiB) x gpu_memory_utilization (0.78) = 37.18GiB
INFO 08-12 22:32:11 [worker.py:295] model weights take 0.52GiB; non_torch_memory takes -0.05GiB; PyTorch activation peak memory takes 1.78GiB; the rest of the memory reserved for KV Cache is 34.81GiB.
INFO 08-12 22:32:11 [executor_base.py:113] # cuda blocks: 190100, # CPU blocks: 0
INFO 08-12 22:32:11 [executor_base.py:118] Maximum concurrency for 32768 tokens per request: 92.82x
INFO 08-12 22:32:19 [model_runner.py:1570] Graph capturing finished in 59 secs, took 1.12 GiB""",
        [of(weights=0.5151, activation=1.78, non_torch=0, cuda_graph=1.12, kv_pool=34.81, tokens=3_041_600)],
    ),
    "0.8, GB": ("INFO 03-30 [m.py:1] Model loading took 15.0 GB and 3.4 seconds", [of(weights=15.0)]),
    "0.10, each rank's tokens, the least counts": (
        """(EngineCore_0 pid=7) INFO [kv_cache_utils.py:829] GPU KV cache size: 12,800 tokens
(EngineCore_0 pid=7) INFO [kv_cache_utils.py:829] GPU KV cache size: 12,656 tokens""",
        [of(tokens=12_656)],
    ),
    "0.10.2, the parts at INFO, the pool to the byte": (
        """(EngineCore_DP0 pid=3021) INFO 09-23 [gpu_worker.py:298] Available KV cache memory: 55.15 GiB
(EngineCore_DP0 pid=3021) INFO 09-23 [gpu_model_runner.py:3118] Graph capturing finished in 5 secs, took 0.67 GiB
(EngineCore_DP0 pid=3021) INFO 09-23 [gpu_worker.py:391] Free memory on device (78.66/79.19 GiB) on startup. Desired GPU memory utilization is (0.9, 71.27 GiB). Actual usage is 14.08 GiB for weight, 1.97 GiB for peak activation, 0.07 GiB for non-torch memory, and 0.67 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=58333988249` to fit into requested memory, or `--kv-cache-memory=66273897472` to fully utilize gpu memory. Current kv cache memory in use is 59212694937 bytes.""",
        [of(weights=14.08, activation=1.97, non_torch=0.07, cuda_graph=0.67, kv_pool=59212694937 / GIB)],
    ),
    "0.19, DEBUG": (
        """(EngineCore pid=9) DEBUG [gpu_worker.py:284] Initial free memory: 78.68 GiB; Requested memory: 0.95 (util), 75.23 GiB
(EngineCore pid=9) DEBUG [gpu_worker.py:297] Memory profiling takes 14.40 seconds. Total non KV cache memory: 10.22GiB; torch peak memory increase: 1.40GiB; non-torch forward increase memory: 0.02GiB; weights memory: 8.80GiB.
(EngineCore pid=9) INFO [gpu_worker.py:298] Available KV cache memory: 8.60 GiB""",
        [of(weights=8.8, activation=1.4, non_torch=0.02, kv_pool=8.6)],
    ),
    "0.24, graphs in the budget and told apart": (
        """(Worker_TP2_EP2 pid=7) INFO [gpu_model_runner.py:6376] Estimated CUDA graph memory: 4.99 GiB total
(Worker_TP2_EP2 pid=7) INFO [gpu_worker.py:466] Available KV cache memory: 50.62 GiB
(Worker_TP2_EP2 pid=7) INFO [gpu_worker.py:481] CUDA graph memory profiling is enabled (default since v0.21.0). The current --gpu-memory-utilization=0.9200 is equivalent
(Worker_TP2_EP2 pid=7) INFO [gpu_worker.py:793] CUDA graph pool memory: 4.13 GiB (actual), 4.99 GiB (estimated), difference: 0.86 GiB (20.9%).
(Worker_TP2_EP2 pid=7) INFO [gpu_worker.py:857] Free memory on device (181.84/184.31 GiB) on startup. Desired GPU memory utilization is (0.92, 169.56 GiB). Actual usage is 106.69 GiB for weight, 6.31 GiB for peak activation, 0.95 GiB for non-torch memory, and 4.13 GiB for CUDAGraph memory. Current kv cache memory in use is 50.62 GiB.""",
        [of(weights=106.69, activation=6.31, non_torch=0.95, cuda_graph=4.99, kv_pool=50.62)],
    ),
    "0.32, graphs in the budget and in the activation": (
        """(EngineCore pid=7) INFO [model_runner.py:407] Model loading took 15.0 GiB memory and 5.420225 seconds
(EngineCore pid=7) INFO [gpu_model_runner.py:6376] Estimated CUDA graph memory: 0.25 GiB total
(EngineCore pid=7) INFO [gpu_worker.py:692] Available KV cache memory: 56.21 GiB
(EngineCore pid=7) INFO [gpu_worker.py:481] CUDA graph memory profiling is enabled (default since v0.21.0).
(EngineCore pid=7) INFO [kv_cache_utils.py:2464] GPU KV cache size: 460,496 tokens, Maximum concurrency for 131,072 tokens per request: 3.51x
(EngineCore pid=7) INFO [gpu_worker.py:955] Free memory on device (78.84/79.25 GiB) on startup. Desired GPU memory utilization is (0.92, 72.91 GiB). Actual usage is 15.26 GiB for consumed memory (weights + non-torch), 1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory. Current kv cache memory in use is 56.21 GiB.""",
        [of(weights=15, activation=1.19, non_torch=0.26, cuda_graph=0.25, kv_pool=56.21, tokens=460_496)],
    ),
    "0.32, graphs estimated and not in the budget": (
        """(EngineCore pid=7) INFO [model_runner.py:407] Model loading took 15.0 GiB memory and 5.420225 seconds
(EngineCore pid=7) INFO [gpu_model_runner.py:6376] Estimated CUDA graph memory: 0.25 GiB total
(EngineCore pid=7) INFO [gpu_worker.py:692] Available KV cache memory: 56.21 GiB
(EngineCore pid=7) WARNING [gpu_worker.py:481] CUDA graph memory profiling is disabled (VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0).
(EngineCore pid=7) INFO [gpu_worker.py:955] Free memory on device (78.84/79.25 GiB) on startup. Desired GPU memory utilization is (0.92, 72.91 GiB). Actual usage is 15.26 GiB for consumed memory (weights + non-torch), 1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory.""",
        [of(weights=15, activation=1.44, non_torch=0.26, cuda_graph=0.23, kv_pool=56.21)],
    ),
    "0.32, the estimate of the graphs is lost, and rounding leaves less than nothing": (
        """(EngineCore pid=7) INFO [gpu_worker.py:692] Available KV cache memory: 56.21 GiB
(EngineCore pid=7) INFO [gpu_worker.py:481] CUDA graph memory profiling is enabled (default since v0.21.0).
(EngineCore pid=7) INFO [gpu_worker.py:955] Free memory on device (78.84/79.25 GiB) on startup. Desired GPU memory utilization is (0.92, 72.90 GiB). Actual usage is 15.26 GiB for consumed memory (weights + non-torch), 1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory.""",
        [of(activation=1.44, cuda_graph=0.23, kv_pool=56.21)],
    ),
    "0.32, DEBUG names no non-torch": (
        """(Worker pid=7) DEBUG [gpu_worker.py:1] Memory profiling takes 1.70 seconds. Total non KV cache memory: 16.70GiB; torch peak memory increase: 1.19GiB; total consumed (from mem_get_info): 15.51GiB; weights memory: 15.0GiB.""",
        [of(weights=15, activation=1.19, non_torch=0.51)],
    ),
    "0.33, a pool that the user set": (
        "(Worker pid=7) INFO [gpu_worker.py:1] Initial free memory 78.84 GiB, reserved 20.5 GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped memory profiling.",
        [of(kv_pool=20.5)],
    ),
    "0.33, another device's word": (
        "(EngineCore pid=7) INFO [kv.py:1] XPU + host KV cache size: 1,024 tokens, Maximum concurrency for 512 tokens per request: 2.00x",
        [of(tokens=1024)],
    ),
    "CPU, as much as is left": (
        "(Worker pid=7) INFO [cpu_worker.py:260] Auto set (10.5/23.54) GiB for KV cache on node 0, with 12.0 GiB requested memory for the worker. 1.5 GiB memory was consumed by non-kv usages.",
        [of(kv_pool=10.5)],
    ),
    "what only sounds like a figure": (
        """(EngineCore pid=7) INFO [default_loader.py:501] Loading weights took 24.84 seconds
(EngineCore pid=7) INFO [weight_utils.py:1108] Filesystem type for checkpoints: EXT4. Checkpoint size: 17.69 GiB. Available RAM: 51.99 GiB.
(EngineCore pid=7) INFO [kv.py:1] To serve at least one request with the model's max seq len (32768), (3.00 GiB KV cache is needed, which is larger than the available KV cache memory (0.25 GiB).""",
        [],
    ),
}


@pytest.mark.parametrize("name", VLLM)
def test_each_wording_of_vllm_is_understood(name: str) -> None:
    text, expected = VLLM[name]
    assert [near(each) for each in ranks("vllm", text)] == [near(each) for each in expected]


@pytest.mark.parametrize(
    "name", ["0.10.2, the parts at INFO, the pool to the byte", *(n for n in VLLM if "in the" in n)]
)
def test_the_parts_that_vllm_tells_add_up_to_its_budget(name: str) -> None:
    text, _ = VLLM[name]
    (rank,) = ranks("vllm", text)
    budget = float(text.partition("utilization is (0.9")[2].partition(", ")[2].partition(" GiB")[0])
    parts = {term: size for term, size in rank.terms.items() if term != "cuda_graphs" or "is enabled" in text}
    assert sum(parts.values()) == pytest.approx(budget * GIB, abs=3 * GIB / 100)


SGLANG = {
    "0.4.2, weights by the free memory": (
        """[2025-01-30 10:00:00 TP0] Load weight begin. avail mem=78.50 GB
[2025-01-30 10:00:09 TP0] Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem=63.40 GB
[2025-01-30 10:00:10 TP0] KV Cache is allocated. K size: 27.02 GB, V size: 27.02 GB.""",
        [of(weights=15.1, kv_pool=54.04)],
    ),
    "0.4.4, figures the other way round": (
        "[2025-03-25 16:37:06 TP0] Capture cuda graph end. Time elapsed: 5.92 s. avail mem=37.06 GB. mem usage=1.44 GB.",
        [of(cuda_graph=1.44)],
    ),
    "0.5.5, two phases of graphs": (
        """[2026-04-27 02:36:09] Capture cuda graph end. Time elapsed: 3.74 s. mem usage=0.60 GB. avail mem=23.54 GB.
[2026-04-27 02:36:27] Capture piecewise CUDA graph end. Time elapsed: 17.62 s. mem usage=2.32 GB. avail mem=21.22 GB.
[2026-04-27 02:36:28] max_total_num_tokens=992896, chunked_prefill_size=16384, ...""",
        [of(cuda_graph=2.92, tokens=992_896)],
    ),
    "0.5.14, new words": (
        """[2026-07-21 13:35:33] Init torch distributed ends. elapsed=0.35 s, mem usage=0.31 GB
[2026-07-21 13:35:33] KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 1131687, K size: 60.44 GB, V size: 60.44 GB
[2026-07-21 13:35:33] Capture target decode CUDA graph end. bs=[1, 2], elapsed=4.83 s, mem usage=0.24 GB, avail mem=7.28 GB.""",
        [of(non_torch=0.31, cuda_graph=0.24, kv_pool=120.88, tokens=1_131_687)],
    ),
    "states beside attention": (
        """[2026-09-09 11:57:18] Mamba Cache is allocated. max_mamba_cache_size: 48, conv_state size: 0.09GB, ssm_state size: 6.46GB
[2026-09-09 11:57:18] KV Cache is allocated. #tokens: 2618868, K size: 19.98 GB, V size: 19.98 GB""",
        [of(kv_pool=46.51, tokens=2_618_868)],
    ),
    "states of a drafting model too": (
        "[t] Mamba Cache is allocated. max_mamba_cache_size: 48, conv_state size: 0.09GB, ssm_state size: 6.46GB intermediate_ssm_state_cache size: 1.00GB intermediate_conv_window_cache size: 0.50GB",
        [of(kv_pool=8.05)],
    ),
    "a draft model's weights and pool": (
        """[2026-01-01 10:00:00 TP0] Load weight end. elapsed=3.0 s, type=LlamaForCausalLM, avail mem=60.00 GB, mem usage=15.00 GB.
[2026-01-01 10:00:01 TP0] KV Cache is allocated. #tokens: 1000, K size: 1.00 GB, V size: 1.00 GB
[2026-01-01 10:00:02 TP0] Load weight end. elapsed=1.0 s, type=LlamaForCausalLMEagle3, avail mem=57.50 GB, mem usage=0.50 GB.
[2026-01-01 10:00:03 TP0] KV Cache is allocated. #tokens: 1000, K size: 0.10 GB, V size: 0.10 GB
[2026-01-01 10:00:04 TP0] max_total_num_tokens=1000, chunked_prefill_size=8192""",
        [of(weights=15.5, kv_pool=2.2, tokens=1000)],
    ),
    "pools of two windows, told apart and together": (
        """[t] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 171008, K size: 9.00 GB, V size: 9.00 GB
[t] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 213761, K size: 9.34 GB, V size: 9.35 GB
[t] SWAKVPool mem usage: 36.69 GB, swa size: 171008, full size: 213761""",
        [of(kv_pool=36.69, tokens=213_761)],
    ),
    "ranks in their order": (
        """[2025-11-10 19:59:08 PP1 TP0] Load weight end. type=X, avail mem=1.00 GB, mem usage=3.00 GB.
[2025-11-10 19:59:08 PP0 TP1] Load weight end. type=X, avail mem=1.00 GB, mem usage=2.00 GB.
[2025-11-10 19:59:08 PP0 TP0] Load weight end. type=X, avail mem=1.00 GB, mem usage=1.00 GB.
[2025-11-10 19:59:09 PP0 TP0] max_total_num_tokens=4096, chunked_prefill_size=8192
[2025-11-10 19:59:09 PP1 TP0] max_total_num_tokens=4032, chunked_prefill_size=8192""",
        [of(weights=1, tokens=4032), of(weights=2, tokens=4032), of(weights=3, tokens=4032)],
    ),
    "serving": ("[t] Decode batch, #running-req: 1, #token: 90, token usage: 0.00, cuda graph: True", []),
}


@pytest.mark.parametrize("name", SGLANG)
def test_each_wording_of_sglang_is_understood(name: str) -> None:
    text, expected = SGLANG[name]
    assert [near(each) for each in ranks("sglang", text)] == [near(each) for each in expected]


TENSORRT_LLM = {
    "a built engine, in MiB": (
        """[TensorRT-LLM][INFO] Loaded engine size: 6214 MiB
[TensorRT-LLM][INFO] [MemUsageChange] Allocated 928.77 MiB for execution context memory.
[TensorRT-LLM][INFO] [MemUsageChange] TensorRT-managed allocation in IExecutionContext creation: CPU +0, GPU +0, now: CPU 0, GPU 6166 (MiB)
[TensorRT-LLM][INFO] [MemUsageChange] Allocated 43.29 MB GPU memory for runtime buffers.
[TensorRT-LLM][INFO] [MemUsageChange] Allocated 10.00 GiB for max tokens in paged KV cache (81920).""",
        [of(weights=6214 / 1024, activation=928.77 / 1024, kv_pool=10, tokens=81_920)],
    ),
    "ranks told by the Python part": (
        """[07/24/2025-08:13:02] [TRT-LLM] [RANK 1] [I] Rank 1 uses 4.30 GB for model weights.
[07/24/2025-08:13:02] [TRT-LLM] [RANK 0] [I] Rank 0 uses 4.23 GB for model weights.
[TensorRT-LLM][INFO] [MemUsageChange] Allocated 5.00 GiB for max tokens in paged KV cache (1024).""",
        [of(weights=4.23, kv_pool=5, tokens=1024), of(weights=4.3, tokens=1024)],
    ),
}


@pytest.mark.parametrize("name", TENSORRT_LLM)
def test_each_wording_of_tensorrt_llm_is_understood(name: str) -> None:
    text, expected = TENSORRT_LLM[name]
    assert [near(each) for each in ranks("tensorrt_llm", text)] == [near(each) for each in expected]


PREFIXES = {
    "tensor parallel": ("(Worker_TP1 pid=12) ", "(Worker_TP0 pid=13) "),
    "tensor and pipeline": ("(Worker_PP1_TP0 pid=12) ", "(Worker_PP0_TP3 pid=13) "),
    "experts": ("(Worker_TP1_EP1 pid=12) ", "(Worker_TP0_EP0 pid=99) "),
    "context parallel is not data parallel": ("(Worker_TP1_DCP0 pid=12) ", "(Worker_TP0_DCP1 pid=13) "),
    "data parallel": ("(EngineCore_DP1 pid=12) ", "(EngineCore_DP0 pid=13) "),
    "0.9": ("(VllmWorker rank=1 pid=12) ", "(VllmWorker rank=0 pid=13) "),
    "V0, the driver is the first": ("(VllmWorkerProcess pid=12) ", ""),
    "by process where nothing else is told": ("(Worker pid=13) ", "(Worker pid=12) "),
    "Ray": (
        "(RayWorkerProc pid=12, ip=10.0.0.2) (Worker_TP1 pid=12) ",
        "(RayWorkerProc pid=12, ip=10.0.0.1) (Worker_TP0 pid=12) ",
    ),
    "in colours": ("\x1b[1;36m(Worker_TP1 pid=12)\x1b[0;0m ", "\x1b[36m(Worker_TP0 pid=13)\x1b[0m "),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_ranks_are_told_apart_by_their_prefix_and_put_in_order(name: str) -> None:
    second, first = PREFIXES[name]
    text = f"""{second}INFO [a.py:1] Model loading took 2.0 GiB memory and 1.0 seconds
{first}INFO [a.py:1] Model loading took 1.0 GiB memory and 1.0 seconds
{first}INFO [a.py:1] Available KV cache memory: 3.0 GiB
{second}INFO [a.py:1] Available KV cache memory: 4.0 GiB"""
    assert ranks("vllm", text) == (of(weights=1, kv_pool=3), of(weights=2, kv_pool=4))


def test_a_process_that_gets_its_name_later_stays_one_rank() -> None:
    text = """(Worker pid=12) INFO [a.py:1] Model loading took 2.0 GiB memory and 1.0 seconds
(Worker_TP1 pid=12) INFO [a.py:1] Available KV cache memory: 4.0 GiB
(Worker_TP0 pid=13) INFO [a.py:1] Available KV cache memory: 5.0 GiB"""
    assert ranks("vllm", text) == (of(kv_pool=5), of(weights=2, kv_pool=4))


def test_the_engine_core_tells_tokens_for_its_workers_and_is_no_rank_itself() -> None:
    text = """(Worker_TP0 pid=2) INFO [a.py:1] Available KV cache memory: 5.0 GiB
(Worker_TP1 pid=3) INFO [a.py:1] Available KV cache memory: 5.0 GiB
(EngineCore_DP0 pid=1) INFO [a.py:1] GPU KV cache size: 1,000 tokens"""
    assert ranks("vllm", text) == (of(kv_pool=5, tokens=1000),) * 2


def test_lines_of_an_engine_that_is_not_known_tell_nothing() -> None:
    assert ranks("llama.cpp", VLLM["0.8, V0"][0]) == ()


FRAGMENTS = st.sampled_from(
    [word for dialect in DIALECTS.values() for word in dialect.words]
    + [line for table in (VLLM, SGLANG, TENSORRT_LLM) for text, _ in table.values() for line in text.splitlines()]
    + ["9" * 400, "-", ".", ",,,", "1.2.3", "٣", "²", "\x1b[", "(", "pid=", "took ", "inf", "nan", "1e999", "x" * 5000]
)


@given(
    st.sampled_from([*DIALECTS, "other"]), st.lists(st.lists(FRAGMENTS | st.text(max_size=8), max_size=6), max_size=6)
)
def test_no_line_makes_a_reader_raise_and_no_figure_is_negative(backend: str, lines: list[list[str]]) -> None:
    reader = figure_reader(backend)
    for line in lines:
        reader.read("".join(line))
    assert all(value >= 0 for rank in reader.ranks for _, value in rank.items())


TABLES = {"vllm": VLLM, "sglang": SGLANG, "tensorrt_llm": TENSORRT_LLM}
LINES = {
    backend: st.sampled_from([line for text, _ in table.values() for line in text.splitlines()])
    for backend, table in TABLES.items()
}


@given(st.sampled_from(list(DIALECTS)), st.data())
@settings(max_examples=400)
def test_no_choice_of_lines_and_no_cut_makes_a_reader_raise(backend: str, data: st.DataObject) -> None:
    lines = data.draw(st.lists(LINES[backend], max_size=8))
    cuts = [(data.draw(st.integers(0, len(line))), data.draw(st.integers(0, 30))) for line in lines[:2]]
    cut = [line[:start] + line[start + length :] for line, (start, length) in zip(lines, cuts, strict=False)]
    for text in ("\n".join(lines), "\n".join(cut), "".join(cut)):
        assert all(value >= 0 for rank in ranks(backend, text) for _, value in rank.items())


@pytest.mark.parametrize("backend", TABLES)
def test_a_start_that_lacks_any_of_its_lines_makes_no_reader_raise(backend: str) -> None:
    """A line may be missing: at another log level, of another version, or lost."""
    for text, _ in TABLES[backend].values():
        lines = text.splitlines()
        for kept in product((True, False), repeat=len(lines)):
            found = ranks(backend, "\n".join(compress(lines, kept)))
            assert all(value >= 0 for rank in found for _, value in rank.items())


def test_endless_sources_and_lines_are_bounded() -> None:
    reader = figure_reader("vllm")
    for pid in range(10_000):
        reader.read(f"(Worker pid={pid}) Model loading took 1.0 GiB memory and 1.0 seconds")
    assert len(reader.ranks) < 5000
    assert ranks("sglang", "[t] " + "Load weight end." * 5000 + " mem usage=1.00 GB.") == ()


def test_a_line_of_no_interest_costs_less_than_looking_for_its_phase_does() -> None:
    line = '(APIServer pid=28974) INFO:     127.0.0.1:50000 - "POST /v1/chat/completions HTTP/1.1" 200 OK'
    reader = figure_reader("vllm")
    ours = min(timeit.repeat(lambda: reader.read(line), number=2000, repeat=7))
    others = min(timeit.repeat(lambda: phase_of(line), number=2000, repeat=7))
    assert ours < others
