"""The built-in demo model, shipped as package data.

``model/`` is a Hugging Face model directory that any engine can load: a Llama of about three million parameters that
answers a handful of questions about Lading. ``tools/train_demo_model.py`` makes it from ``tools/demo_corpus.toml``; do
not edit it by hand.
"""

from importlib.resources import files
from pathlib import Path


def demo_model_directory() -> Path:
    """Directory of the demo model, to be given to an engine as it is.

    It is read-only data of the installed package: copy or link it, never write into it.
    """
    return Path(str(files(__name__) / "model"))
