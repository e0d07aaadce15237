"""Profiles that a manifest lists: their engine, their GPU, which of them is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lading.errors import UsageError
from lading.hardware.inventory import Gpu, Inventory
from lading.model.listed import ListedFile, ListedProfile
from lading.profiles.fit import Engine, Fit, Verdict, Wish, fit
from lading.profiles.listed import engine_of, is_made_for, listed_profile, listed_profiles
from lading.profiles.naming import named
from lading.profiles.select import select
from lading.units import GIB
from lading.uri import ModelUri
from tests.profiles.situations import GPU_VLLM, H100, L40S, LLAMA_8B, laptop, server

FILES = (ListedFile("config.json", ModelUri.parse("hf://org/model:main?file=config.json")),)


def listed(number: int = 1, /, **tags: str) -> ListedProfile:
    said = {"llm_engine": "vllm", "precision": "bf16", "tp": "1", "pp": "1", "feat_lora": "false", **tags}
    return ListedProfile(f"{number:064x}", {key: value for key, value in said.items() if value}, FILES)


def gpu(name: str, pci_id: str = "") -> Gpu:
    return Gpu(0, name, 80 * GIB, 80 * GIB, (9, 0), pci_id)


ENGINES = {
    "llm_engine": ({"llm_engine": "sglang", "backend": "vllm"}, "sglang"),
    "model_type": ({"llm_engine": "", "model_type": "TensorRT"}, "tensorrt_llm"),
    "backend": ({"llm_engine": "", "backend": "triton"}, "tensorrt_llm"),
    "none": ({"llm_engine": ""}, ""),
}


@pytest.mark.parametrize(("tags", "engine"), ENGINES.values(), ids=ENGINES)
def test_the_engine_is_looked_for_as_the_operator_does(tags: dict[str, str], engine: str) -> None:
    assert engine_of(listed(**tags)) == engine


def test_id_and_tags_are_the_manifest_s_and_the_name_says_what_they_do() -> None:
    profile = listed_profile(
        listed(7, gpu="H100 NVL", profile="throughput", precision="FP8", tp="4", pp="2", feat_lora="true")
    )
    assert profile.id == f"{7:064x}"
    assert profile.name == "vllm-h100_nvl-fp8-tp4-pp2-throughput-feat_lora"
    assert (profile.tp, profile.pp, profile.lora, profile.tags["precision"]) == (4, 2, True, "FP8")


def test_without_tags_it_is_what_the_weights_are() -> None:
    assert listed_profile(listed(precision="", tp="", pp="", feat_lora=""), "nvfp4").name == "vllm-nvfp4-tp1-pp1"


MADE_FOR = {
    "any": ({}, [gpu(L40S)], True),
    "this model of GPU": ({"gpu": "H100"}, [gpu(H100)], True),
    "in other spelling": ({"gpu": "A100_SXM4_80GB"}, [gpu("NVIDIA A100-SXM4-80GB")], True),
    "another": ({"gpu": "L40"}, [gpu(L40S)], False),
    "the device wins over the name": ({"gpu": "H100", "gpu_device": "2330:10de"}, [gpu("NVIDIA H100", "26b9:10de")], False),
    "the device without its vendor": ({"gpu_device": "2330"}, [gpu(H100, "2330:10DE")], True),
    "one of several": ({"gpu_device": "2321:10de,2330:10de"}, [gpu(H100, "2330:10de")], True),
    "a device that is not known": ({"gpu": "H100", "gpu_device": "2330:10de"}, [gpu(H100)], True),
    "two kinds": ({"gpu": "H100"}, [gpu(H100), gpu(L40S)], False),
    "no GPU": ({"gpu": "H100"}, [], False),
    "no GPU, for any": ({}, [], True),
}  # fmt: skip


@pytest.mark.parametrize(("tags", "gpus", "is_made"), MADE_FOR.values(), ids=MADE_FOR)
def test_for_which_gpus(tags: dict[str, str], gpus: list[Gpu], is_made: bool) -> None:
    assert is_made_for(listed_profile(listed(**tags)), gpus) is is_made


def names(*profiles: ListedProfile, tp: int | None = None, lora: bool = False) -> list[str]:
    return [each.name for each in listed_profiles(profiles, LLAMA_8B, asked=(tp, None), lora=lora)]


def test_what_was_asked_for_is_added_unless_it_is_listed() -> None:
    assert names(listed(1), listed(2, tp="2")) == ["vllm-bf16-tp1-pp1", "vllm-bf16-tp2-pp1"]
    assert names(listed(1), listed(2, tp="2"), tp=2) == ["vllm-bf16-tp1-pp1", "vllm-bf16-tp2-pp1"]
    assert names(listed(1), listed(2, tp="2"), tp=4) == ["vllm-bf16-tp1-pp1", "vllm-bf16-tp2-pp1", "vllm-bf16-tp4-pp1"]
    assert names(listed(1), lora=True) == ["vllm-bf16-tp1-pp1", "vllm-bf16-tp1-pp1-feat_lora"]
    assert names(listed(1, llm_engine="tensorrt_llm"), tp=4) == ["tensorrt_llm-bf16-tp1-pp1"]


def fits(inventory: Inventory, *profiles: ListedProfile, engine: Engine = GPU_VLLM) -> list[Fit]:
    found = listed_profiles(profiles, LLAMA_8B)
    return [fit(each, LLAMA_8B, inventory, [engine], Wish()) for each in found]


def test_a_profile_for_another_gpu_is_incompatible_with_the_reason() -> None:
    (found,) = fits(server(), listed(gpu="L40S"))
    assert found.verdict is Verdict.INCOMPATIBLE
    assert found.reason == "the manifest lists it for L40S, this machine has NVIDIA H100 80GB HBM3"
    (nowhere,) = fits(laptop(), listed(gpu="L40S"), engine=replace(GPU_VLLM, device=laptop().device))
    assert nowhere.reason == "the manifest lists it for L40S, this machine has no GPU"


def chosen(*profiles: ListedProfile, profile: str | None = None) -> str:
    return select(fits(server(count=2), *profiles), Wish(profile=profile), gpus=2).chosen.profile.id


def test_of_several_that_run_the_one_for_this_gpu_is_taken_then_the_precision_and_the_tuning() -> None:
    general, tuned = listed(1), listed(2, gpu="H100")
    fp8, nvfp4 = listed(3, precision="fp8"), listed(4, precision="nvfp4")
    latency, throughput = listed(5, profile="latency"), listed(6, profile="throughput")
    assert chosen(general, tuned) == tuned.id
    assert chosen(general, nvfp4, fp8) == fp8.id
    assert chosen(throughput, latency) == latency.id
    assert chosen(listed(7, tp="2", precision="fp8"), general) == general.id, "the fewest GPUs come first"


def test_one_that_is_named_is_taken_and_not_one_that_is_alike() -> None:
    latency, throughput = listed(5, profile="latency"), listed(6, profile="throughput")
    assert chosen(latency, throughput, profile=throughput.id) == throughput.id
    assert chosen(latency, throughput, profile="vllm-bf16-tp1-pp1-throughput") == throughput.id
    same = fits(server(), listed(1), listed(2))
    with pytest.raises(UsageError, match="several profiles match"):
        named(same, "vllm-bf16-tp1-pp1")
    assert named(same, listed(2).id).profile.id == listed(2).id
