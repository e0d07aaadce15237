"""Checkpoints that share a published config with another: what their own config says otherwise, told by their names.

Quantised copies are named after the scheme that made them (``-FP8-dynamic``, ``.w8a8``, ``.w4a16``); the few that
differ in something else are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.checkpoints.parts import Config

_IGNORED = ["lm_head", "re:.*lm_head", "re:vision_tower.*", "re:multi_modal_projector.*"]
_MISTRAL_SMALL = {
    "quantization_config": None,
    "text_config": {"model_type": "mistral", "max_position_embeddings": 131_072, "rope_theta": 1e9},
}
_FBGEMM_LAYERS = 126
_OTHERWISE: dict[str, dict[str, Any]] = {
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": _MISTRAL_SMALL,
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": _MISTRAL_SMALL,
    "RedHatAI/Mistral-Small-3.1-24B-Instruct-2503-quantized.w8a8": _MISTRAL_SMALL,
    "Qwen/Qwen2.5-7B-Instruct": {"max_position_embeddings": 32_768},
    "Qwen/Qwen2.5-72B-Instruct": {"max_position_embeddings": 32_768},
    "RedHatAI/Qwen2.5-7B-Instruct-fp8-dynamic": {"max_position_embeddings": 32_768},
    "RedHatAI/Qwen2.5-7B-Instruct-quantized.w8a8": {"max_position_embeddings": 32_768},
    "meta-llama/Meta-Llama-3-8B": {"max_position_embeddings": 8192, "rope_scaling": None},
    "meta-llama/Meta-Llama-3.1-405B-Instruct-FP8": {
        "quantization_config": {  # the published list goes on over all layers
            "quant_method": "fbgemm_fp8",
            "modules_to_not_convert": [
                *(f"model.layers.{number}.self_attn" for number in range(_FBGEMM_LAYERS)),
                *(f"model.layers.{number}.mlp" for number in (0, _FBGEMM_LAYERS - 1)),
            ],
        }
    },
}


def config_of(model: str, config: Config) -> dict[str, Any]:
    """The config of the checkpoint ``model``, from that of the model it was made of."""
    changes = _OTHERWISE.get(model, {})
    changed = {**config, **changes}
    if "text_config" in config and "text_config" in changes:
        changed["text_config"] = {**config["text_config"], **changes["text_config"]}
    if quantization := _scheme(model.lower()):
        changed["quantization_config"] = quantization
    return {key: value for key, value in changed.items() if value is not None}


def _scheme(model: str) -> Mapping[str, Any] | None:
    if model.endswith("-fp8-dynamic"):
        return _group({"type": "float", "num_bits": 8, "strategy": "channel"}, inputs={"num_bits": 8, "dynamic": True})
    if model.endswith(".w8a8"):
        return _group({"type": "int", "num_bits": 8, "strategy": "channel"}, inputs={"num_bits": 8, "dynamic": True})
    if model.endswith(".w4a16"):
        return {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
    return None


def _group(weights: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
        "ignore": _IGNORED,
    }
