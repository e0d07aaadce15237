"""Make a checkpoint of TensorRT-LLM of a Hugging Face directory. Started by the interpreter that has TensorRT-LLM.

::

    python convert_checkpoint.py --model_dir DIR --output_dir DIR [--dtype D] [--tp_size N] [--pp_size N]
        [--use_weight_only] [--weight_only_precision int8|int4]

What ``convert_checkpoint.py`` of TensorRT-LLM's examples does for one kind of model, for every kind that
``AutoModelForCausalLM`` of ``tensorrt_llm/models/automodel.py`` knows: each rank's part is loaded and saved in turn.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

_ALGORITHMS = {"int8": "W8A16", "int4": "W4A16"}


def main(argv: list[str]) -> int:
    """Write the checkpoint; ends with a traceback for a model that TensorRT-LLM does not convert."""
    asked = _parser().parse_args(argv)
    started = time.monotonic()
    model = importlib.import_module("tensorrt_llm.models.automodel").AutoModelForCausalLM
    mapping = importlib.import_module("tensorrt_llm.mapping").Mapping
    quantization = _quantization(asked.weight_only_precision) if asked.use_weight_only else None
    Path(asked.output_dir).mkdir(parents=True, exist_ok=True)
    ranks = asked.tp_size * asked.pp_size
    for rank in range(ranks):
        say(f"rank {rank} of {ranks}: loading")
        where = mapping(world_size=ranks, rank=rank, tp_size=asked.tp_size, pp_size=asked.pp_size)
        part = model.from_hugging_face(asked.model_dir, asked.dtype, mapping=where, quant_config=quantization)
        say(f"rank {rank} of {ranks}: saving")
        part.save_checkpoint(asked.output_dir, save_config=rank == 0)
        del part  # before the next is loaded: together they may not fit
    say(f"checkpoint converted in {time.monotonic() - started:.0f} s")
    return 0


def say(text: str) -> None:
    """Print a line now, for whoever follows it."""
    print(text, flush=True)  # noqa: T201  # its output is what is followed


def _quantization(precision: str) -> Any:
    config = importlib.import_module("tensorrt_llm.models.modeling_utils").QuantConfig
    algorithms = importlib.import_module("tensorrt_llm.quantization").QuantAlgo
    return config(quant_algo=getattr(algorithms, _ALGORITHMS[precision]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tp_size", type=int, default=1)
    parser.add_argument("--pp_size", type=int, default=1)
    parser.add_argument("--use_weight_only", action="store_true")
    parser.add_argument("--weight_only_precision", choices=tuple(_ALGORITHMS), default="int8")
    return parser


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose modules would be taken for others of their names
    sys.exit(main(sys.argv[1:]))
