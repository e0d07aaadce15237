"""Look inside a model without fetching it: its config, quantisation config and safetensors headers, by range."""

from lading.inspection.inspect import inspect
from lading.inspection.reader import ModelReader

__all__ = ["ModelReader", "inspect"]
