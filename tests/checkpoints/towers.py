"""Vision towers and what joins them to the language model."""

from __future__ import annotations

from tests.checkpoints.parts import Config, Part, buffer, plain, vector


def _biased(prefix: str, sizes: dict[str, tuple[int, int]], *, bias: bool = True) -> list[Part]:
    return [part for name, size in sizes.items() for part in plain(f"{prefix}.{name}", *size, bias=bias)]


def qwen2_vision(config: Config, prefix: str = "visual.") -> list[Part]:
    """Qwen2-VL's; ``hidden_size`` is the language model's there."""
    width, out = config["embed_dim"], config["hidden_size"]
    inner, merged = int(width * config["mlp_ratio"]), width * config["spatial_merge_size"] ** 2
    parts = _patches(config, prefix, width, bias=False)
    for number in range(config["depth"]):
        block = f"{prefix}blocks.{number}"
        parts += _biased(block, {"attn.qkv": (3 * width, width), "attn.proj": (width, width)})
        parts += _biased(block, {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)})
        parts += plain(f"{block}.norm1", width, bias=True) + plain(f"{block}.norm2", width, bias=True)
    parts += plain(f"{prefix}merger.ln_q", width, bias=True)
    return parts + _biased(f"{prefix}merger", {"mlp.0": (merged, merged), "mlp.2": (out, merged)})


def qwen2_5_vision(config: Config, prefix: str = "visual.") -> list[Part]:
    """Qwen2.5-VL's: gated, norms without bias."""
    width, out, inner = config["hidden_size"], config["out_hidden_size"], config["intermediate_size"]
    merged = width * config["spatial_merge_size"] ** 2
    parts = _patches(config, prefix, width, bias=False)
    for number in range(config["depth"]):
        block = f"{prefix}blocks.{number}"
        parts += _biased(block, {"attn.qkv": (3 * width, width), "attn.proj": (width, width)})
        parts += _biased(block, {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width)})
        parts += _biased(block, {"mlp.down_proj": (width, inner)})
        parts += plain(f"{block}.norm1", width) + plain(f"{block}.norm2", width)
    parts += plain(f"{prefix}merger.ln_q", width)
    return parts + _biased(f"{prefix}merger", {"mlp.0": (merged, merged), "mlp.2": (out, merged)})


def qwen3_vision(config: Config, prefix: str = "model.visual.") -> list[Part]:
    """Qwen3-VL's and Qwen3.5's: a merger for each deep layer beside the last one."""
    width, out, inner = config["hidden_size"], config["out_hidden_size"], config["intermediate_size"]
    merged = width * config["spatial_merge_size"] ** 2
    merger = {"linear_fc1": (merged, merged), "linear_fc2": (out, merged)}
    parts = _patches(config, prefix, width, bias=True)
    parts += plain(f"{prefix}pos_embed", config["num_position_embeddings"], width)
    for number in range(config["depth"]):
        block = f"{prefix}blocks.{number}"
        parts += _biased(block, {"attn.qkv": (3 * width, width), "attn.proj": (width, width)})
        parts += _biased(block, {"mlp.linear_fc1": (inner, width), "mlp.linear_fc2": (width, inner)})
        parts += plain(f"{block}.norm1", width, bias=True) + plain(f"{block}.norm2", width, bias=True)
    parts += _biased(f"{prefix}merger", merger) + plain(f"{prefix}merger.norm", width, bias=True)
    for number in range(len(config.get("deepstack_visual_indexes") or ())):
        deep = f"{prefix}deepstack_merger_list.{number}"
        parts += _biased(deep, merger) + plain(f"{deep}.norm", merged, bias=True)
    return parts


def _patches(config: Config, prefix: str, width: int, *, bias: bool) -> list[Part]:
    size = config["patch_size"]
    channels = config.get("in_channels") or config.get("in_chans") or 3
    return plain(f"{prefix}patch_embed.proj", width, channels, config["temporal_patch_size"], size, size, bias=bias)


def encoder(config: Config, prefix: str) -> list[Part]:
    """The layers of CLIP and SigLIP."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    parts: list[Part] = []
    for number in range(config["num_hidden_layers"]):
        layer = f"{prefix}encoder.layers.{number}"
        names = ("k_proj", "v_proj", "q_proj", "out_proj")
        parts += _biased(layer, {f"self_attn.{name}": (width, width) for name in names})
        parts += _biased(layer, {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)})
        parts += plain(f"{layer}.layer_norm1", width, bias=True) + plain(f"{layer}.layer_norm2", width, bias=True)
    return parts


def clip(config: Config, prefix: str = "vision_tower.vision_model.") -> list[Part]:
    """CLIP's tower, as LLaVA stores it."""
    width, patch = config["hidden_size"], config["patch_size"]
    positions = (config["image_size"] // patch) ** 2 + 1
    return [
        *vector(f"{prefix}embeddings.class_embedding", width),
        *plain(f"{prefix}embeddings.patch_embedding", width, config["num_channels"], patch, patch),
        *plain(f"{prefix}embeddings.position_embedding", positions, width),
        *encoder(config, prefix),
        *plain(f"{prefix}pre_layrnorm", width, bias=True),
        *plain(f"{prefix}post_layernorm", width, bias=True),
    ]


def siglip(config: Config, prefix: str = "vision_tower.vision_model.") -> list[Part]:
    """SigLIP's tower, as Gemma 3 stores it."""
    width, patch = config["hidden_size"], config["patch_size"]
    return [
        *plain(f"{prefix}embeddings.patch_embedding", width, config["num_channels"], patch, patch, bias=True),
        *plain(f"{prefix}embeddings.position_embedding", (config["image_size"] // patch) ** 2, width),
        *encoder(config, prefix),
        *plain(f"{prefix}post_layernorm", width, bias=True),
    ]


def pixtral(config: Config, hidden: int, merge: int) -> list[Part]:
    """Pixtral's tower and Mistral 3's projector."""
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    parts = plain("vision_tower.patch_conv", width, config["num_channels"], patch, patch)
    parts += plain("vision_tower.ln_pre", width)
    for number in range(config["num_hidden_layers"]):
        layer = f"vision_tower.transformer.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            parts += plain(f"{layer}.attention.{name}", width, width)
        parts += plain(f"{layer}.feed_forward.gate_proj", inner, width)
        parts += plain(f"{layer}.feed_forward.up_proj", inner, width)
        parts += plain(f"{layer}.feed_forward.down_proj", width, inner)
        parts += plain(f"{layer}.attention_norm", width) + plain(f"{layer}.ffn_norm", width)
    return [
        *parts,
        *plain("multi_modal_projector.norm", width),
        *plain("multi_modal_projector.patch_merger.merging_layer", width, width * merge**2),
        *plain("multi_modal_projector.linear_1", hidden, width),
        *plain("multi_modal_projector.linear_2", hidden, hidden),
    ]


def gemma4_vision(config: Config, hidden: int) -> list[Part]:
    """Gemma 4's tower and projection."""
    width, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    prefix = "model.vision_tower."
    parts = buffer(f"{prefix}std_bias", width) + buffer(f"{prefix}std_scale", width)
    parts += vector(f"{prefix}patch_embedder.position_embedding_table", 2, config["position_embedding_size"], width)
    parts += plain(f"{prefix}patch_embedder.input_proj", width, 3 * config["patch_size"] ** 2)
    for number in range(config["num_hidden_layers"]):
        layer = f"{prefix}encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            parts += plain(f"{layer}.self_attn.{name}.linear", width, width)
        parts += plain(f"{layer}.self_attn.q_norm", size) + plain(f"{layer}.self_attn.k_norm", size)
        parts += plain(f"{layer}.mlp.gate_proj.linear", inner, width)
        parts += plain(f"{layer}.mlp.up_proj.linear", inner, width)
        parts += plain(f"{layer}.mlp.down_proj.linear", width, inner)
        for name in ("input", "post_attention"):
            parts += plain(f"{layer}.{name}_layernorm", width)
        for name in ("pre", "post"):
            parts += plain(f"{layer}.{name}_feedforward_layernorm", width)
    return parts + plain("model.embed_vision.embedding_projection", hidden, width)


def mllama_vision(config: Config, hidden: int) -> list[Part]:
    """Llama 3.2 Vision's tower: tiles, local layers, gated global ones."""
    width, patch, tiles = config["hidden_size"], config["patch_size"], config["max_num_tiles"]
    positions, ratios = (config["image_size"] // patch) ** 2 + 1, len(config["supported_aspect_ratios"]) + 1
    prefix = "vision_model."
    table = f"{prefix}gated_positional_embedding"
    parts = vector(f"{prefix}class_embedding", width)
    parts += plain(f"{prefix}patch_embedding", width, config["num_channels"], patch, patch)
    parts += vector(f"{table}.embedding", positions, width) + vector(f"{table}.gate", 1)
    parts += plain(f"{table}.tile_embedding", ratios, tiles * positions * width)
    for name in ("pre", "post"):
        tile = f"{prefix}{name}_tile_positional_embedding"
        parts += vector(f"{tile}.gate", 1) + plain(f"{tile}.embedding", ratios, tiles * width)
        parts += plain(f"{prefix}layernorm_{name}", width, bias=True)
    for number in range(config["num_hidden_layers"]):
        parts += _mllama_layer(config, f"{prefix}transformer.layers.{number}")
    for number in range(config["num_global_layers"]):
        layer = f"{prefix}global_transformer.layers.{number}"
        parts += _mllama_layer(config, layer)
        parts += vector(f"{layer}.gate_attn", 1) + vector(f"{layer}.gate_ffn", 1)
    return parts + plain("multi_modal_projector", hidden, config["vision_output_dim"], bias=True)


def _mllama_layer(config: Config, layer: str) -> list[Part]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    return [
        *[part for name in "qkvo" for part in plain(f"{layer}.self_attn.{name}_proj", width, width)],
        *_biased(layer, {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}),
        *plain(f"{layer}.input_layernorm", width, bias=True),
        *plain(f"{layer}.post_attention_layernorm", width, bias=True),
    ]


def llama4_vision(config: Config, hidden: int) -> list[Part]:
    """Llama 4's tower and projector."""
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    prefix, out = "vision_model.", config["vision_output_dim"]
    shuffled = int(width // config["pixel_shuffle_ratio"] ** 2)
    parts = vector(f"{prefix}class_embedding", width)
    parts += vector(f"{prefix}positional_embedding_vlm", (config["image_size"] // patch) ** 2 + 1, width)
    parts += plain(f"{prefix}patch_embedding.linear", width, config["num_channels"] * patch**2)
    for name in ("pre", "post"):
        parts += plain(f"{prefix}layernorm_{name}", width, bias=True)
    for number in range(config["num_hidden_layers"]):
        layer = f"{prefix}model.layers.{number}"
        parts += _biased(layer, {f"self_attn.{name}_proj": (width, width) for name in "qkvo"})
        parts += _biased(layer, {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)})
        parts += plain(f"{layer}.input_layernorm", width, bias=True)
        parts += plain(f"{layer}.post_attention_layernorm", width, bias=True)
    parts += plain(f"{prefix}vision_adapter.mlp.fc1", config["projector_input_dim"], shuffled)
    parts += plain(f"{prefix}vision_adapter.mlp.fc2", config["projector_output_dim"], config["projector_input_dim"])
    return parts + plain("multi_modal_projector.linear_1", hidden, out)
