"""The model as a Hugging Face directory: written, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tools.demo_model.llama import Llama, Shape
from tools.demo_model.tokens import BOS, CHAT_TEMPLATE, END, PAD, SPECIALS

TOOLS = Path(__file__).resolve().parents[1]
DEFAULT_OUT = TOOLS.parent / "src" / "lading" / "demo" / "model"


def model_config(shape: Shape) -> dict[str, object]:
    """``config.json``; rope and dtype stand in the old and the new spelling, since readers of both are about."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": SPECIALS.index(BOS),
        "dtype": "bfloat16",
        "eos_token_id": SPECIALS.index(END),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "pad_token_id": SPECIALS.index(PAD),
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def generation_config() -> dict[str, object]:
    """``generation_config.json``: cool sampling, for the model knows facts, not style."""
    return {
        "bos_token_id": SPECIALS.index(BOS),
        "do_sample": True,
        "eos_token_id": [SPECIALS.index(END)],
        "pad_token_id": SPECIALS.index(PAD),
        "temperature": 0.2,
        "top_p": 0.9,
    }


def tokenizer_config(shape: Shape) -> dict[str, object]:
    """``tokenizer_config.json``, chat template included."""
    return {
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": shape.max_position_embeddings,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def write_json(path: Path, value: object) -> None:
    """`value` as sorted, indented JSON with a final line end."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_model(out: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """All files of the model but its card, into `out`, which is made if missing."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", model_config(model.shape))
    write_json(out / "generation_config.json", generation_config())
    write_json(out / "tokenizer_config.json", tokenizer_config(model.shape))
    write_json(out / "special_tokens_map.json", {"bos_token": BOS, "eos_token": END, "pad_token": PAD})
    write_json(out / "tokenizer.json", json.loads(tokenizer.to_str()))
    weights = {name: weight.to(torch.bfloat16).contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def load_model(directory: Path) -> tuple[Llama, Tokenizer]:
    """The model and tokenizer that `write_model` wrote."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    model = Llama(Shape(**{name: config[name] for name in Shape.__dataclass_fields__}))
    model.load_state_dict({name: weight.float() for name, weight in load_file(directory / "model.safetensors").items()})
    return model.eval(), Tokenizer.from_file(str(directory / "tokenizer.json"))
