"""Which of several engines is used."""

from __future__ import annotations

import pytest

from lading.backends.interface import Installation
from lading.cli.engine_choice import SpokenEngine, of_one_family, require_asked
from lading.errors import EngineNotInstalled, UsageError
from lading.hardware.inventory import Device
from lading.settings import Settings


def installed(family: str, device: Device = Device.CUDA, version: str = "1.0") -> Installation:
    return Installation(family, version, device, ("/x",), {}, frozenset(), "PATH")


VLLM, VLLM_CPU = installed("vllm"), installed("vllm", Device.CPU, "0.9")
SGLANG, TRT = installed("sglang"), installed("tensorrt_llm")


@pytest.mark.parametrize(
    ("found", "asked", "device", "chosen"),
    [
        ([], None, Device.CPU, []),
        ([], "sglang", Device.CPU, []),
        ([VLLM, VLLM_CPU], None, Device.CPU, [VLLM, VLLM_CPU]),
        ([VLLM, SGLANG, TRT], None, Device.CUDA, [VLLM]),
        ([VLLM_CPU, SGLANG, TRT], None, Device.CUDA, [SGLANG]),
        ([VLLM_CPU, SGLANG], None, Device.CPU, [VLLM_CPU]),
        ([SGLANG, TRT], None, Device.CPU, [SGLANG]),
        ([VLLM, SGLANG, TRT], "tensorrt_llm", Device.CUDA, [TRT]),
        ([VLLM, TRT], "sglang", Device.CUDA, []),
    ],
)
def test_the_first_that_suits_the_machine_or_the_one_asked_for(found, asked, device, chosen):
    assert list(of_one_family(found, asked, lambda: device)) == chosen


def test_the_device_is_not_asked_for_without_a_choice():
    def device() -> Device:
        raise AssertionError

    assert of_one_family([VLLM, VLLM_CPU], None, device) == (VLLM, VLLM_CPU)
    assert of_one_family([VLLM, SGLANG], "sglang", device) == (SGLANG,)


def test_flags_are_those_of_the_engine_used_and_of_vllm_where_there_is_none():
    assert SpokenEngine.of([SGLANG, SGLANG]).backend.name == "sglang"
    assert SpokenEngine.of([VLLM_CPU, VLLM]).version == "0.9"
    assert (SpokenEngine.of([]).backend.name, SpokenEngine.of([]).version) == ("vllm", "")


@pytest.mark.parametrize(
    ("found", "words"),
    [([], ["found here: no engine"]), ([VLLM, SGLANG], ["found here: vllm 1.0, sglang 1.0", "to vllm or sglang"])],
)
def test_an_engine_that_is_not_there_is_said_with_those_that_are(found, words):
    with pytest.raises(EngineNotInstalled) as caught:
        require_asked(found, "tensorrt_llm")
    assert all(word in f"{caught.value.message}\n{caught.value.remedy}" for word in words)
    require_asked(found, None)
    require_asked([TRT], "tensorrt_llm")


@pytest.mark.parametrize(
    ("text", "name"), [("vLLM", "vllm"), (" trtllm ", "tensorrt_llm"), ("TensorRT-LLM", "tensorrt_llm")]
)
def test_an_engine_is_named_as_people_write_it(text, name):
    assert Settings.from_env({"LADING_BACKEND": text}).backend == name


def test_an_engine_that_nobody_knows_is_refused():
    with pytest.raises(UsageError, match="LADING_BACKEND='ollama'"):
        Settings.from_env({"LADING_BACKEND": "ollama"})
