"""An engine's own account of its memory, read from the lines that it prints while it starts.

One file per family beside this one, one line here. See ``docs/calibration.md`` for what each tells.
"""

from __future__ import annotations

from lading.backends.figures_dialect import Dialect, FigureReader, Source
from lading.backends.sglang_figures import SGLANG
from lading.backends.tensorrt_llm_figures import TENSORRT_LLM
from lading.backends.vllm_figures import VLLM
from lading.profiles.measurement import Measurement

DIALECTS: dict[str, Dialect] = {"vllm": VLLM, "sglang": SGLANG, "tensorrt_llm": TENSORRT_LLM}
_SILENT = Dialect(words=(), wordings=(), source_of=lambda _: Source(), measure=lambda _: Measurement())


def figure_reader(backend: str) -> FigureReader:
    """A reader for one start of an engine of the family; it finds nothing in the lines of a family it does not know."""
    return FigureReader(DIALECTS.get(backend, _SILENT))
