"""What a script with boto3 does: ``PYTHON boto3_copy.py ENDPOINT BUCKET PREFIX DIRECTORY``, one file after another.

Runs in the peers' environment and imports nothing of ours. boto3 reads each file through its own ten threads.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main(endpoint: str, bucket: str, prefix: str, directory: str) -> None:
    """Every object below the prefix, with boto3 as it comes."""
    boto3: Any = import_module("boto3")
    client = boto3.client("s3", endpoint_url=endpoint)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for found in page["Contents"]:
            client.download_file(bucket, found["Key"], str(Path(directory) / Path(found["Key"]).name))


if __name__ == "__main__":
    main(*sys.argv[1:])
