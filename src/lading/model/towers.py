"""What lies before a language model: towers for images and sound, as far as an encoder's budget needs them.

An engine computes the inputs of one batch at once, and how many tokens they become bounds that batch. Where the config
fixes an image's size, so is the number of its tokens; where images keep their own, it is the most that the usual
preprocessor lets through, and :attr:`VisionFacts.is_bounded` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lading.model.config import listed, table, whole, whole_number

MOST_IMAGE_TOKENS = 16_384  # Qwen-VL's preprocessor: 12 845 056 pixels of 28 x 28 a token

_VISION = (
    "vision_config",
    "visual",
    "vit_config",
    "vision_tower_config",
    "vpm_config",
    "vision_tower",
    "img_processor",
)
_AUDIO = ("audio_config", "speech_config", "audio_encoder_config", "encoder_config", "audio_processor")
_FIXED_TOKENS = (
    "mm_tokens_per_image", "image_seq_length", "num_image_tokens", "num_img_tokens", "vision_soft_tokens_per_image",
    "default_output_length",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VisionFacts:
    """A tower for images. Sizes are 0 where the config does not tell.

    ``image_tokens`` are the most that one image becomes for the language model, out of ``patches`` that the tower
    computes. The tower's linear layers are split over the ranks unless the engine is told to compute whole images on
    each (``--mm-encoder-tp-mode data``).
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    patch_size: int
    image_size: int
    patches: int
    image_tokens: int
    is_bounded: bool


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """A tower, or an encoder, for sound. ``clip_tokens`` are the most that one clip becomes; 0 where it is not told."""

    layers: int
    hidden_size: int
    heads: int
    clip_tokens: int


def vision_of(config: Mapping[str, Any]) -> VisionFacts | None:
    """The tower for images that the config describes, or None."""
    vision = _part(config, _VISION)
    if not vision:
        return None
    patch, image = _first(vision, "patch_size"), _first(vision, "image_size")
    patches = (image // patch) ** 2 if image and patch else 0
    tokens = whole(vision, *_FIXED_TOKENS) or whole(config, *_FIXED_TOKENS)
    is_bounded = not tokens and not patches
    merge = whole(vision, "spatial_merge_size") or whole(config, "spatial_merge_size") or _shuffle(config, vision)
    if not tokens:
        tokens = -(-patches // merge**2) if patches else MOST_IMAGE_TOKENS
    tiles = _tiles(config, vision)
    return VisionFacts(
        layers=whole(vision, "num_hidden_layers", "depth", "layers", "num_layers", "n_layers"),
        hidden_size=whole(vision, "hidden_size", "embed_dim", "width", "d_model"),
        intermediate_size=whole(vision, "intermediate_size", "mlp_dim"),
        heads=whole(vision, "num_attention_heads", "num_heads", "heads"),
        patch_size=patch,
        image_size=image,
        patches=(patches or tokens * merge**2) * tiles,
        image_tokens=tokens * tiles,
        is_bounded=is_bounded,
    )


def audio_of(config: Mapping[str, Any]) -> AudioFacts | None:
    """The tower for sound that the config describes, or None."""
    audio = _part(config, _AUDIO)
    if not audio and whole(config, "num_mel_bins"):
        audio = config
    if not audio:
        return None
    return AudioFacts(
        layers=whole(audio, "encoder_layers", "num_hidden_layers", "num_layers", "conf_num_hidden_layers"),
        hidden_size=whole(audio, "d_model", "hidden_size", "attention_dim"),
        heads=whole(audio, "encoder_attention_heads", "num_attention_heads", "attention_heads"),
        clip_tokens=whole(audio, "max_source_positions", "n_window", "max_position_embeddings"),
    )


def tower_layers(config: Mapping[str, Any]) -> int:
    """How many layers of the tower for images are built: up to the deepest that is read; 0 for all."""
    count = whole(_part(config, _VISION), "num_hidden_layers")
    named = config.get("vision_feature_layer", config.get("select_layer"))
    read = [each for each in listed(named) or [named] if type(each) is int]
    deepest = max((each if each >= 0 else count + each + 1 for each in read), default=0)
    return deepest if 0 < deepest < count else 0


def _part(config: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    for holder in (config, table(config.get("thinker_config"))):
        for name in names:
            if found := table(holder.get(name)):
                return found
    return {}


def _first(vision: Mapping[str, Any], key: str) -> int:
    """A size that may be written for both sides."""
    value = vision.get(key)
    sides = listed(value)
    return whole_number(sides[0]) if sides else whole_number(value)


def _shuffle(config: Mapping[str, Any], vision: Mapping[str, Any]) -> int:
    """By how much pixels are shuffled together: InternVL and Llama 4 write the inverse."""
    for holder in (config, vision):
        for key in ("downsample_ratio", "pixel_shuffle_ratio"):
            ratio = holder.get(key)
            if isinstance(ratio, float) and 0.05 < ratio < 1:
                return round(1 / ratio)
        if factor := whole(holder, "scale_factor", "pixel_shuffle_factor"):
            return min(factor, 16)
    return 1


def _tiles(config: Mapping[str, Any], vision: Mapping[str, Any]) -> int:
    """Into how many tiles, at most, an image is cut; with a small copy of the whole where it is cut at all."""
    if cut := whole(config, "max_dynamic_patch"):
        return min(cut, 64) + 1
    if tiles := whole(vision, "max_num_tiles"):
        return min(tiles, 64)
    grids = listed(config.get("image_grid_pinpoints"))
    sizes = [listed(each) for each in grids]
    side = _first(vision, "image_size")
    cut = max((whole_number(x[0]) * whole_number(x[1]) // side**2 for x in sizes if len(x) == 2 and side), default=0)
    return min(cut, 64) + 1 if cut else 1
