"""Which profiles a download means: a pure decision, the same on a machine that could never run the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.download import DownloadRequest, Extent, UnknownProfile, choose_profiles
from lading.errors import LadingError
from lading.profiles.fit import Fit, Wish, fit
from lading.profiles.profile import Profile
from lading.units import GIB
from lading.uri import ModelUri
from tests.profiles.situations import CPU_VLLM, LLAMA_8B, TINY, fits_of, laptop, server

MODEL = ModelUri.parse("hf://a/b")
SERVER = fits_of(LLAMA_8B, server(count=2))
LAPTOP = fits_of(TINY, laptop())
BARE = fits_of(LLAMA_8B, laptop(4 * GIB), engines=())  # neither an engine nor the room
ELSEWHERE = [
    fit(Profile("sglang", "bf16", tp, 1, lora, "hf://a/b:c"), LLAMA_8B, laptop(), [CPU_VLLM], Wish())
    for tp in (1, 2)
    for lora in (False, True)
]
ID = next(each.profile.id for each in SERVER if each.profile.name == "vllm-bf16-tp2-pp1")


def chosen(fits: list[Fit], *names: str, extent: Extent = Extent.SELECTED, **wish: object) -> list[str]:
    request = DownloadRequest(MODEL, replace(Wish(), **wish), names, extent)  # type: ignore[arg-type]
    return [each.name for each in choose_profiles(request, fits, ELSEWHERE).profiles]


@pytest.mark.parametrize(
    ("fits", "names", "wish", "expected"),
    [
        (SERVER, (), {}, ["vllm-bf16-tp1-pp1"]),
        (SERVER, (), {"tp": 2}, ["vllm-bf16-tp2-pp1"]),
        (SERVER, (), {"profile": "vllm-bf16-tp2-pp1"}, ["vllm-bf16-tp2-pp1"]),
        (SERVER, (), {"profile": "vllm-bf16-tp1-pp1", "tp": 2}, ["vllm-bf16-tp2-pp1"]),
        (SERVER, (), {"profile": "sglang-bf16-tp2-pp1"}, ["sglang-bf16-tp2-pp1"]),
        (BARE, (), {"profile": "vllm-bf16-tp2-pp1"}, ["vllm-bf16-tp2-pp1"]),
        (SERVER, ("vllm-bf16-tp1-pp1",), {"profile": "vllm-bf16-tp2-pp1"}, ["vllm-bf16-tp1-pp1"]),
        (SERVER, (ID,), {}, ["vllm-bf16-tp2-pp1"]),
        (SERVER, (f"{ID} (vllm-bf16-tp2-pp1)",), {}, ["vllm-bf16-tp2-pp1"]),
        (SERVER, ("vllm-bf16-tp2-pp1", ID, "vllm-tp1-pp1-lora"), {}, ["vllm-bf16-tp2-pp1", "vllm-bf16-tp1-pp1-feat_lora"]),
        (SERVER, ("default",), {}, ["vllm-bf16-tp1-pp1"]),
        (SERVER, ("sglang-bf16-tp2-pp1",), {}, ["sglang-bf16-tp2-pp1"]),
        (SERVER, (), {"lora": True}, ["vllm-bf16-tp1-pp1-feat_lora"]),
        (LAPTOP, (), {}, ["vllm-bf16-tp1-pp1"]),
        (LAPTOP, ("vllm-bf16-tp4-pp2",), {}, ["vllm-bf16-tp4-pp2"]),
        (BARE, (), {}, ["vllm-bf16-tp1-pp1"]),
        (BARE, (), {"profile": "default"}, ["vllm-bf16-tp1-pp1"]),
        (BARE, ("sglang-bf16-tp1-pp1-feat_lora",), {}, ["sglang-bf16-tp1-pp1-feat_lora"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_the_profiles_that_are_meant(fits, names, wish, expected):
    assert chosen(fits, *names, **wish) == expected


def test_lora_means_the_default_lora_profile_whatever_the_settings_name():
    for fits in (SERVER, BARE):
        assert chosen(fits, extent=Extent.LORA) == ["vllm-bf16-tp1-pp1-feat_lora"]
        assert chosen(fits, extent=Extent.LORA, profile="vllm-bf16-tp2-pp1") == ["vllm-bf16-tp1-pp1-feat_lora"]


def test_all_means_all_of_this_machines_engines():
    assert chosen(SERVER, extent=Extent.ALL) == [each.profile.name for each in SERVER]


@pytest.mark.parametrize("name", ["vllm-int4-tp1-pp1", "f" * 64, "auto", "vllm"])
def test_a_name_that_no_profile_has_is_refused_with_the_nearest(name):
    with pytest.raises(UnknownProfile, match=f"'{name}' does not name one profile") as caught:
        chosen(SERVER, name)
    assert isinstance(caught.value, LadingError)
    assert caught.value.exit_code == 2
    assert "nearest: " in str(caught.value.remedy)


def test_why_is_said():
    request = DownloadRequest(MODEL)
    assert "fits on the fewest devices" in choose_profiles(request, SERVER, ()).reason
    assert "none runs on this machine" in choose_profiles(request, BARE, ()).reason
