"""Seed 001, Model Download."""

from tests.seeds.example import EITHER, FREE, SPECIFIC, Example

_KEY = 'export NGC_API_KEY="nvapi-xxxxxxxxxxxxxxxxxxxxxx"'
_PROFILE = 'export NIM_MODEL_PROFILE="${YOUR_NIM_MODEL_PROFILE}"'
_LOGIN = 'export GOOGLE_APPLICATION_CREDENTIALS="/path/to/sa.json"'
_IN_CONTAINER = """-v /path/to/sa.json:/credentials/sa.json:ro \\
-e GOOGLE_APPLICATION_CREDENTIALS=/credentials/sa.json"""
_AWS_KEYS = """
export AWS_ACCESS_KEY_ID="${YOUR_AWS_ACCESS_KEY}"
export AWS_SECRET_ACCESS_KEY="${YOUR_AWS_SECRET_KEY}\""""


def _download(exports: str, options: str) -> str:
    """The form that the downloads of one profile have."""
    return f"""
{exports}
docker run --rm --gpus all \\
-v $(pwd)/model-cache:/opt/nim/.cache \\
{options} \\
-e NIM_MODEL_PROFILE \\
${{NIM_LLM_IMAGE}} download-to-cache --profile $NIM_MODEL_PROFILE
"""


_STORE = """
docker run --rm --gpus all \\
-v $(pwd)/model-cache:/opt/nim/.cache \\
-v $(pwd)/model-store:/opt/nim/model-store \\
-e NGC_API_KEY \\
-e NIM_MODEL_PROFILE \\
${NIM_LLM_IMAGE} create-model-store \\
--model-cache-path /opt/nim/.cache \\
--model-store /opt/nim/model-store \\
--profile $NIM_MODEL_PROFILE
"""
_MIRROR_GCS = """
docker run --rm --gpus all \\
-v $(pwd)/model-cache:/opt/nim/.cache \\
-v /path/to/sa.json:/credentials/sa.json:ro \\
-e NGC_API_KEY \\
-e GOOGLE_APPLICATION_CREDENTIALS=/credentials/sa.json \\
${NIM_LLM_IMAGE} mirror gcs \\
--manifest model_manifest.yaml \\
--bucket my-models-bucket
"""

EXAMPLES = [
    Example("Downloading from NGC", _download(f"{_KEY}\n{_PROFILE}", "-e NGC_API_KEY"), "ngc", EITHER),
    Example(
        "Downloading Behind a Corporate Proxy",
        f"""
{_KEY}
{_PROFILE}
export HTTPS_PROXY=http://proxy.corp.example.com:8080
docker run --rm --gpus all \\
-e NGC_API_KEY \\
-e NIM_MODEL_PROFILE \\
-e HTTPS_PROXY \\
-p 8000:8000 \\
${{NIM_LLM_IMAGE}} download-to-cache --profile $NIM_MODEL_PROFILE
""",
        "ngc",
        EITHER,
        proxied=True,
    ),
    Example(
        "Downloading from Hugging Face",
        _download(f'export HF_TOKEN="hf_your_token_here"\n{_PROFILE}', "-e HF_TOKEN"),
        "hf",
        EITHER,
    ),
    Example(
        "Downloading from S3",
        _download(
            f"""
export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE
export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
export AWS_REGION=us-east-1
{_PROFILE}""",
            "-e AWS_ACCESS_KEY_ID \\\n-e AWS_SECRET_ACCESS_KEY \\\n-e AWS_REGION",
        ),
        "s3",
        EITHER,
    ),
    Example(
        "Redirecting NGC Downloads to S3",
        f"""
export NIM_REPOSITORY_OVERRIDE="s3://my-models-bucket"{_AWS_KEYS}
docker run --rm -it --gpus all \\
-e NIM_REPOSITORY_OVERRIDE \\
-e AWS_ACCESS_KEY_ID \\
-e AWS_SECRET_ACCESS_KEY \\
-p 8000:8000 \\
${{NIM_LLM_IMAGE}}
""",
        "s3",
        SPECIFIC,
        bucket="my-models-bucket",
    ),
    Example(
        "Mirroring NGC Models to GCS",
        f"{_KEY}\n{_LOGIN}{_MIRROR_GCS}",
        "gs",
        SPECIFIC,
        bucket="my-models-bucket",
    ),
    Example("Downloading from GCS", _download(f"{_LOGIN}\n{_PROFILE}", _IN_CONTAINER), "gs", EITHER),
    Example(
        "Redirecting NGC Downloads to GCS",
        f"""
{_LOGIN}
export NIM_REPOSITORY_OVERRIDE="gs://my-models-bucket"
docker run --rm -it --gpus all \\
-e NIM_REPOSITORY_OVERRIDE \\
-e GOOGLE_APPLICATION_CREDENTIALS=/credentials/sa.json \\
-v /path/to/sa.json:/credentials/sa.json:ro \\
-p 8000:8000 \\
${{NIM_LLM_IMAGE}}
""",
        "gs",
        SPECIFIC,
        bucket="my-models-bucket",
    ),
    Example(
        "Downloading from ModelScope",
        _download(f'export MODELSCOPE_API_TOKEN="your_token_here"\n{_PROFILE}', "-e MODELSCOPE_API_TOKEN"),
        "modelscope",
        EITHER,
    ),
    Example("Preparing a Local Model Store", f"{_KEY}\n{_PROFILE}{_STORE}", "ngc", EITHER),
    Example(
        "Using a Local Model",
        f"""
{_PROFILE}
docker run --rm --gpus all \\
-v /mnt/models:/mnt/models:ro \\
-v $(pwd)/model-cache:/opt/nim/.cache \\
-e NIM_MODEL_PROFILE \\
${{NIM_LLM_IMAGE}} download-to-cache --profile $NIM_MODEL_PROFILE
""",
        "local",
        EITHER,
    ),
    Example(
        "Examples, Basic NGC Download",
        _download(
            'export NGC_API_KEY="${YOUR_NGC_API_KEY}"\nexport NIM_MODEL_PROFILE=${NIM_MODEL_PROFILE}', "-e NGC_API_KEY"
        ),
        "ngc",
        EITHER,
    ),
    Example(
        "Examples, Download Behind Corporate Proxy",
        """
export NGC_API_KEY="${YOUR_NGC_API_KEY}"
export HTTPS_PROXY=http://proxy.corp.example.com:8080
export NO_PROXY=localhost,127.0.0.1
docker run --rm --gpus all \\
-v $(pwd)/model-cache:/opt/nim/.cache \\
-e NGC_API_KEY \\
-e HTTPS_PROXY \\
-e NO_PROXY \\
${NIM_LLM_IMAGE} download-to-cache --all
""",
        "ngc",
        EITHER,
    ),
    Example(
        "Examples, Basic Hugging Face Download",
        _download(
            'export HF_TOKEN="${YOUR_HF_TOKEN}"\nexport NIM_MODEL_PROFILE=${NIM_MODEL_PROFILE}',
            "-e HF_TOKEN",
        ),
        "hf",
        EITHER,
    ),
    Example(
        "Examples, Using Hugging Face Proxy (Olah)",
        """
export HF_ENDPOINT="http://localhost:8090"
export HF_TOKEN="${YOUR_HF_TOKEN}"
docker run --rm --gpus all \\
--network=host \\
-v $(pwd)/model-cache:/opt/nim/.cache \\
-e HF_ENDPOINT \\
-e HF_TOKEN \\
${NIM_LLM_IMAGE}
""",
        "hf",
        EITHER,
    ),
    Example(
        "Examples, Amazon S3: Download with NIM_REPOSITORY_OVERRIDE",
        f"""{_AWS_KEYS}
export AWS_REGION=us-east-1
export NIM_REPOSITORY_OVERRIDE=s3://my-models-bucket
docker run --rm -it --gpus all \\
-e NIM_REPOSITORY_OVERRIDE \\
-e AWS_ACCESS_KEY_ID \\
-e AWS_SECRET_ACCESS_KEY \\
-e AWS_REGION \\
-p 8000:8000 \\
${{NIM_LLM_IMAGE}}
""",
        "s3",
        SPECIFIC,
        bucket="my-models-bucket",
    ),
    Example(
        "Examples, Mirror NGC to S3",
        f"""
export NGC_API_KEY="${{YOUR_NGC_API_KEY}}"{_AWS_KEYS}
export AWS_DEFAULT_REGION=us-east-1
docker run --rm --gpus all \\
-v $(pwd)/model-cache:/opt/nim/.cache \\
-e NGC_API_KEY \\
-e AWS_ACCESS_KEY_ID \\
-e AWS_SECRET_ACCESS_KEY \\
-e AWS_DEFAULT_REGION \\
${{NIM_LLM_IMAGE}} mirror s3 \\
--manifest model_manifest.yaml \\
--bucket my-models-bucket
""",
        "s3",
        SPECIFIC,
        bucket="my-models-bucket",
    ),
    Example(
        "Examples, S3-Compatible Storage (MinIO)",
        """
export AWS_ENDPOINT_URL=http://minio.internal:9000
export AWS_ACCESS_KEY_ID="${YOUR_MINIO_ACCESS_KEY}"
export AWS_SECRET_ACCESS_KEY="${YOUR_MINIO_SECRET_KEY}"
export AWS_REGION=us-east-1
export AWS_S3_USE_PATH_STYLE=true
export NIM_REPOSITORY_OVERRIDE=s3://my-bucket
docker run --rm -it --gpus all \\
-e NIM_REPOSITORY_OVERRIDE \\
-e AWS_ENDPOINT_URL \\
-e AWS_ACCESS_KEY_ID \\
-e AWS_SECRET_ACCESS_KEY \\
-e AWS_REGION \\
-e AWS_S3_USE_PATH_STYLE \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        "s3",
        SPECIFIC,
        bucket="my-bucket",
    ),
    Example(
        "Examples, Google Cloud Storage: Download with NIM_REPOSITORY_OVERRIDE",
        f"""
{_LOGIN}
export NIM_REPOSITORY_OVERRIDE=gs://my-models-bucket
docker run --rm -it --gpus all \\
-e NIM_REPOSITORY_OVERRIDE \\
-e GOOGLE_APPLICATION_CREDENTIALS=/credentials/sa.json \\
-v /path/to/sa.json:/credentials/sa.json:ro \\
-p 8000:8000 \\
${{NIM_LLM_IMAGE}}
""",
        "gs",
        SPECIFIC,
        bucket="my-models-bucket",
    ),
    Example(
        "Examples, Mirror NGC to GCS",
        f'export NGC_API_KEY="${{YOUR_NGC_API_KEY}}"\n{_LOGIN}{_MIRROR_GCS}',
        "gs",
        SPECIFIC,
        bucket="my-models-bucket",
    ),
    Example(
        "Examples, Direct GCS URI in Manifest",
        _download(f"{_LOGIN}\nexport NIM_MODEL_PROFILE=${{NIM_MODEL_PROFILE}}", _IN_CONTAINER),
        "gs",
        EITHER,
    ),
    Example(
        "Examples, Local Storage: Using NIM_MODEL_PATH (No Manifest)",
        """
docker run --rm --gpus all \\
-v /mnt/models/llama-3.1-8b:/opt/nim/model:ro \\
-e NIM_MODEL_PATH=/opt/nim/model \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        "path",
        FREE,
    ),
    Example(
        "Examples, Local Storage: Air-Gapped Deployment",
        """
docker run --rm --gpus all \\
--network none \\
-v /opt/models/llama-3.1-8b:/opt/nim/model:ro \\
-e NIM_MODEL_PATH=/opt/nim/model \\
-p 8000:8000 \\
${NIM_LLM_IMAGE}
""",
        "path",
        FREE,
    ),
    Example(
        "Examples, Create Model Store from NGC",
        f'export NGC_API_KEY="${{YOUR_NGC_API_KEY}}"\nexport NIM_MODEL_PROFILE=${{NIM_MODEL_PROFILE}}{_STORE}',
        "ngc",
        EITHER,
    ),
    Example(
        "Examples, Basic ModelScope Download",
        _download(
            'export MODELSCOPE_API_TOKEN="${YOUR_MODELSCOPE_TOKEN}"\nexport NIM_MODEL_PROFILE=${NIM_MODEL_PROFILE}',
            "-e MODELSCOPE_API_TOKEN",
        ),
        "modelscope",
        EITHER,
    ),
]
