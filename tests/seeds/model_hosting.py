"""Seed 004, Model Hosting: another model in an image, a directory, TensorRT-LLM's engines."""

from tests.seeds.example import FREE, SPECIFIC, Example


def _named(variables: str) -> str:
    return f"""
docker run -it --rm \\
  --gpus '"device=4,5,6,7"' \\
  --shm-size=16GB \\
  -v "$LOCAL_CACHE:/opt/nim/.cache" \\
  {variables} \\
  -u root \\
  $IMG_NAME
"""


EXAMPLES = [
    Example(
        "Host Another NIM supported model",
        """
docker run \\
  -v $(pwd)/model_manifest_mistral7b.yaml:/etc/nim/config/model_manifest.yaml \\
  -e NIM_MANIFEST_PATH=/etc/nim/config/model_manifest.yaml \\
  -e NIM_SERVED_MODEL_NAME=mistralai/mistral-7b-instruct-v0.3 \\
  -e NIM_MODEL_NAME=mistralai/mistral-7b-instruct-v0.3 \\
  -e NGC_API_KEY \\
  $IMG_NAME
""",  # COPY and ENV of its Dockerfile; its base image's start-server.sh is the same entry point
        "ngc",
        SPECIFIC,
        name="mistralai/mistral-7b-instruct-v0.3",
    ),
    Example("Host a HuggingFace model", _named('-e NIM_MODEL_NAME="/opt/nim/.cache/PATH_TO_HF_WEIGHT"'), "path", FREE),
    Example(
        "Host a JIT compiled TensorRT-LLM engine",
        _named('-e NIM_MODEL_NAME="/opt/nim/.cache/PATH_TO_TRTLLM_ENGINE"'),
        "path",
        FREE,
        backend="tensorrt_llm",
        engine="PATH_TO_TRTLLM_ENGINE/trtllm_engine",
    ),
    Example(
        "Host a JIT compiled TensorRT-LLM engine, nim-optimize",
        """
MODEL_CHECKPOINT="Llama-3.2-1B-Instruct"
OUTPUT_MODEL="OPT-llama32-1b"
nim-optimize --model_dir ${MODEL_CHECKPOINT} \\
 --build_config opt_llama32_1b.yaml \\
 --output_engine_dir ${OUTPUT_MODEL}
""",
        "path",
        FREE,
        backend="tensorrt_llm",
    ),
    Example(
        "Host a Finetuned Model",
        _named(
            '-e NIM_FT_MODEL="/opt/nim/.cache/PATH_TO_MODEL_WEIGHT" \\\n  -e NIM_CUSTOM_MODEL_NAME="JIT_TRT_ENGINE"'
        ),
        "path",
        FREE,
        backend="tensorrt_llm",
        engine="local_cache/JIT_TRT_ENGINE/trtllm_engine",
    ),
]
