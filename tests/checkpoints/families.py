"""Which family a config is of, and what its checkpoint holds before quantisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.checkpoints import hybrids, latent, others, towers
from tests.checkpoints.decoder import decoder
from tests.checkpoints.defaults import filled, language_part
from tests.checkpoints.parts import Config, Part, Use, plain, prefixed, vector


def parts_of(config: Config) -> list[Part]:
    """The unquantised tensors of the model that ``config`` describes; KeyError for a family that is not known."""
    text = language_part(config)
    text.setdefault("quantization_config", config.get("quantization_config"))
    family = _FAMILIES.get(str(config["model_type"]))
    return family(filled(config), text) if family else decoder(text, **_names(config))


def _names(config: Config) -> dict[str, str]:
    """A bare model's files know no ``model.`` and no head."""
    is_bare = str((config.get("architectures") or ["ForCausalLM"])[0]).endswith("Model")
    return {"prefix": "", "head_name": ""} if is_bare else {}


def _vision(config: Config) -> dict[str, Any]:
    return filled(config["vision_config"])


def _llava(config: Config, text: Config) -> list[Part]:
    vision, hidden = _vision(config), text["hidden_size"]
    parts = towers.clip(vision)
    parts += plain("multi_modal_projector.linear_1", hidden, vision["hidden_size"], bias=True)
    parts += plain("multi_modal_projector.linear_2", hidden, hidden, bias=True)
    if config["model_type"] == "llava_next":
        parts += vector("image_newline", hidden)
    return parts + prefixed("language_model.", decoder(text))


def _gemma3(config: Config, text: Config) -> list[Part]:
    vision, hidden = _vision(config), text["hidden_size"]
    return [
        *towers.siglip(vision),
        *vector("multi_modal_projector.mm_input_projection_weight", vision["hidden_size"], hidden),
        *plain("multi_modal_projector.mm_soft_emb_norm", vision["hidden_size"]),
        *prefixed("language_model.", decoder(text)),
    ]


def _mistral3(config: Config, text: Config) -> list[Part]:
    tower = towers.pixtral(_vision(config), text["hidden_size"], config.get("spatial_merge_size", 2))
    return tower + prefixed("language_model.", decoder(text))


def _llama4(config: Config, text: Config) -> list[Part]:
    tower = towers.llama4_vision(_vision(config), text["hidden_size"])
    return tower + prefixed("language_model.", decoder(text))


def _qwen2_vl(config: Config, text: Config) -> list[Part]:
    tower = towers.qwen2_vision if config["model_type"] == "qwen2_vl" else towers.qwen2_5_vision
    return decoder(text) + tower(_vision(config))


def _qwen3_vl(config: Config, text: Config) -> list[Part]:
    return decoder(text, "model.language_model.") + towers.qwen3_vision(_vision(config))


def _qwen35(config: Config, text: Config) -> list[Part]:
    parts = hybrids.gated_delta(text, "model.language_model.") + towers.qwen3_vision(_vision(config))
    return split_stacks(parts) if config.get("quantization_config") else parts


def split_stacks(parts: list[Part]) -> list[Part]:
    """Stacked experts as quantisers store them: each expert's matrices apart, gate and up as well."""
    return [part for whole in parts for part in (_split(whole) if whole.use is Use.STACK else [whole])]


def _split(whole: Part) -> list[Part]:
    count, out_size, in_size = whole.shape
    block, _, matrix = whole.name.rpartition(".")
    names = ("gate_proj", "up_proj") if matrix == "gate_up_proj" else ("down_proj",)
    return [
        replace(whole, name=f"{block}.{number}.{name}.weight", shape=(out_size // len(names), in_size), use=Use.LINEAR)
        for number in range(count)
        for name in names
    ]


def _gemma4(config: Config, text: Config) -> list[Part]:
    return hybrids.gemma4(text) + towers.gemma4_vision(_vision(config), text["hidden_size"])


def _mllama(config: Config, text: Config) -> list[Part]:
    return towers.mllama_vision(_vision(config), text["hidden_size"]) + others.mllama(text)


def _alone(build: Callable[[Config], list[Part]]) -> Callable[[Config, Config], list[Part]]:
    return lambda _config, text: build(text)


_FAMILIES: dict[str, Callable[[Config, Config], list[Part]]] = {
    "bert": _alone(others.bert),
    "deepseek_ref": _alone(latent.deepseek_v4),
    "deepseek_v2": _alone(latent.latent_decoder),
    "deepseek_v3": _alone(latent.latent_decoder),
    "deepseek_v32": _alone(latent.latent_decoder),
    "deepseek_v4": _alone(latent.deepseek_v4),
    "falcon": _alone(others.falcon),
    "falcon_mamba": _alone(others.mamba),
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "gpt2": _alone(others.gpt2),
    "gpt_neox": _alone(others.gpt_neox),
    "llama4": _llama4,
    "llava": _llava,
    "llava_next": _llava,
    "mamba": _alone(others.mamba),
    "minicpm3": _alone(latent.latent_decoder),
    "mistral3": _mistral3,
    "mllama": _mllama,
    "nemotron-nas": _alone(hybrids.nemotron_nas),
    "nemotron_h": _alone(hybrids.nemotron_h),
    "opt": _alone(others.opt),
    "phi": _alone(others.phi),
    "qwen2_5_vl": _qwen2_vl,
    "qwen2_vl": _qwen2_vl,
    "qwen3_5": _qwen35,
    "qwen3_5_moe": _qwen35,
    "qwen3_next": _alone(hybrids.gated_delta),
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
}
