"""Seed 000, Model-Free NIM."""

from tests.seeds.example import Example

EXAMPLES = [
    Example(
        "NIM_MODEL_PATH Environment Variable",
        """
docker run --gpus=all \\
-e NIM_MODEL_PATH=hf://meta-llama/Llama-3.1-8B-Instruct \\
-e HF_TOKEN=<yourtoken> \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        name="meta-llama/Llama-3.1-8B-Instruct",
    ),
    Example(
        "Backend CLI Positional Argument",
        """
docker run --gpus=all \\
-e HF_TOKEN=<yourtoken> \\
-p 8000:8000 \\
${NIM_LLM_IMAGE} \\
hf://meta-llama/Llama-3.1-8B-Instruct
""",
        name="meta-llama/Llama-3.1-8B-Instruct",
    ),
    Example(
        "NIM_MODEL_PROFILE Environment Variable",
        """
docker run --gpus=all \\
-e NIM_MODEL_PATH=hf://meta-llama/Llama-3.1-8B-Instruct \\
-e NIM_MODEL_PROFILE=vllm-bf16-tp2-pp1 \\
-e HF_TOKEN=<yourtoken> \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        engine="--tensor-parallel-size 2",
    ),
    Example(
        "NIM_MODEL_PROFILE Environment Variable, on an SGLang image",
        """
docker run --gpus=all \\
-e NIM_MODEL_PATH=hf://meta-llama/Llama-3.1-8B-Instruct \\
-e NIM_MODEL_PROFILE=sglang-bf16-tp2-pp1 \\
-e HF_TOKEN=<yourtoken> \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        backend="sglang",
        engine="--tp-size 2",
    ),
    Example(
        "Backend CLI Arguments (passthrough)",
        """
docker run --gpus=all \\
-e HF_TOKEN=<yourtoken> \\
-p 8000:8000 \\
${NIM_LLM_IMAGE} \\
hf://meta-llama/Llama-3.1-8B-Instruct \\
--tensor-parallel-size 2
""",
        engine="--tensor-parallel-size 2",
    ),
    Example(
        "Listing Profiles",
        """
docker run --gpus=all \\
-e NIM_MODEL_PATH=hf://meta-llama/Llama-3.1-8B-Instruct \\
-e HF_TOKEN=<yourtoken> \\
${NIM_LLM_IMAGE} \\
list-model-profiles
""",
    ),
    Example(
        "Hugging Face Model with TP=2, list",
        """
export MODEL=hf://meta-llama/Llama-3.2-1B
docker run --gpus=all \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
-e HF_TOKEN \\
-e NIM_MODEL_PATH=$MODEL \\
${NIM_LLM_IMAGE} \\
list-model-profiles
""",
    ),
    Example(
        "Hugging Face Model with TP=2, by NIM_MODEL_PROFILE",
        """
export MODEL=hf://meta-llama/Llama-3.2-1B
docker run --gpus=all \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
-e HF_TOKEN \\
-e NIM_MODEL_PROFILE=vllm-tp1-pp1-0bdd169fb413e457cef3feda64108b085f73d16b6252a860e5e9ee85f533de73 \\
-e NIM_MODEL_PATH=$MODEL \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        engine="--tensor-parallel-size 1",
        name="meta-llama/Llama-3.2-1B",
    ),
    Example(
        "Hugging Face Model with TP=2, by a flag",
        """
export MODEL=hf://meta-llama/Llama-3.2-1B
docker run --gpus=all \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
-e HF_TOKEN \\
-p 8000:8000 \\
${NIM_LLM_IMAGE} \\
$MODEL --tensor-parallel-size 2
""",
        engine="--tensor-parallel-size 2",
    ),
    Example(
        "Model Hosted in S3 Using Default Profile",
        """
export MODEL=s3://my-bucket/my-org/my-fine-tuned-model
docker run --gpus=all \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
-e NIM_MODEL_PATH=$MODEL \\
-e AWS_ACCESS_KEY_ID=<key> \\
-e AWS_SECRET_ACCESS_KEY=<secret> \\
-e AWS_REGION=us-east-1 \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        "s3",
    ),
    Example(
        "Local Model with TP=8 Profile Specified",
        """
export MODEL=/mnt/models/my-120b-model
docker run --gpus=all \\
-v "$LOCAL_NIM_CACHE:/opt/nim/.cache" \\
-v /mnt/models:/mnt/models \\
-e NIM_MODEL_PROFILE=<tp8_profile> \\
-e NIM_MODEL_PATH=$MODEL \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        "path",
        engine="--tensor-parallel-size 8",
    ),
]
