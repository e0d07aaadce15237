"""A stand-in for ``trtllm-build`` of 1.2: the flags of ``tensorrt_llm/commands/build.py``, its lines, what it writes.

``STAND_IN`` (JSON) makes it misbehave: ``build_seconds`` (with a line every tenth of one), ``crash`` (text to end with),
``ranks`` (engines to write, fewer than the checkpoint has), ``pid_file``, ``ignore_term``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.simulators.vllm_program import begin, fail_if_told

STAMP = "[11/21/2026-10:00:00] [TRT-LLM] [I]"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="trtllm-build")
    for name in ("checkpoint_dir", "output_dir"):
        found.add_argument(f"--{name}", required=True)
    sizes = {"max_batch_size": 2048, "max_input_len": 1024, "max_seq_len": None, "max_beam_width": 1}
    sizes |= {"max_num_tokens": 8192, "opt_num_tokens": None, "max_encoder_input_len": 1024, "workers": 1}
    sizes |= {"max_prompt_embedding_table_size": 0, "tokens_per_block": 32}
    for name, default in sizes.items():
        found.add_argument(f"--{name}", type=int, default=default)
    types, on_off = ("auto", "float16", "bfloat16", "float32", "disable"), ("enable", "disable")
    words: dict[str, tuple[str, ...]] = {
        "kv_cache_type": ("continuous", "paged", "disabled"),
        "logits_dtype": ("float16", "float32"),
        "profiling_verbosity": ("layer_names_only", "detailed", "none"),
        "gemm_plugin": (*types, "fp8"),
        "gpt_attention_plugin": types,
        "nccl_plugin": types,
    }
    toggles = ("context_fmha", "use_paged_context_fmha", "use_fp8_context_fmha", "remove_input_padding")
    words |= dict.fromkeys((*toggles, "reduce_fusion", "user_buffer", "multiple_profiles"), on_off)
    for name, choices in words.items():
        found.add_argument(f"--{name}", choices=choices)
    for name in ("gather_context_logits", "gather_generation_logits", "strip_plan", "weight_sparsity",
                 "weight_streaming", "fast_build", "monitor_memory"):  # fmt: skip
        found.add_argument(f"--{name}", action="store_true")
    return found


def main(arguments: list[str]) -> None:
    """``trtllm-build --checkpoint_dir DIR --output_dir DIR …``."""
    asked = vars(parser().parse_args(arguments))
    settings = begin()
    checkpoint, output = Path(asked.pop("checkpoint_dir")), Path(asked.pop("output_dir"))
    model = json.loads((checkpoint / "config.json").read_text())
    ranks = model["mapping"]["world_size"]
    output.mkdir(parents=True, exist_ok=True)
    print(f"{STAMP} Compute capability: (9, 0)", flush=True)
    for rank in range(settings.get("ranks", ranks)):
        weights = (checkpoint / f"rank{rank}.safetensors").read_bytes()
        (output / f"rank{rank}.engine").write_bytes(b"engine of " + weights)
        for number in range(int(settings.get("build_seconds", 0) * 10)):
            print(f"{STAMP} Build TensorRT engine rank {rank}: step {number}", flush=True)
            time.sleep(0.1)
        print(f"{STAMP} Total time of building Unnamed Network 0: 00:00:01", flush=True)
    fail_if_told(settings)
    asked["max_seq_len"] = asked["max_seq_len"] or model["max_position_embeddings"]
    config = {"version": "1.2.1", "pretrained_config": model, "build_config": asked}
    (output / "config.json").write_text(json.dumps(config))
    print(f"{STAMP} Total time of building all engines: 00:00:01", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
