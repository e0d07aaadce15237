"""The table of settings: one row for each, in the order in which documents show them."""

from __future__ import annotations

from lading.settings_rows.downloads import DOWNLOADS
from lading.settings_rows.engines import ENGINES
from lading.settings_rows.row import ALL_ADDRESSES, DEFAULT_CACHE_PATH, DEFAULT_MANIFEST_PATHS, Setting
from lading.settings_rows.serving import SERVING
from lading.settings_rows.sources import SOURCES

__all__ = ["ALL_ADDRESSES", "DEFAULT_CACHE_PATH", "DEFAULT_MANIFEST_PATHS", "SETTINGS", "Setting"]

SETTINGS: tuple[Setting, ...] = (*SERVING, *ENGINES, *DOWNLOADS, *SOURCES)
