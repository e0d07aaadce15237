"""Settings: which files are fetched, how, and when their source is asked."""

from __future__ import annotations

from lading.settings_readers import REFRESHES, boolean, count, rate, refresh, size
from lading.settings_rows.row import BOOLEAN, Setting
from lading.units import MIB

DOWNLOADS: tuple[Setting, ...] = (
    Setting(
        "include",
        ("LADING_INCLUDE",),
        str,
        "",
        "Files to fetch although a rule leaves them out (`*.gguf`, `original/*`).",
        "globs for paths or names, joined by commas",
    ),
    Setting(
        "exclude",
        ("LADING_EXCLUDE",),
        str,
        "",
        "Files to leave out besides those that rules leave out; `LADING_INCLUDE` wins.",
        "globs for paths or names, joined by commas",
    ),
    Setting(
        "connections",
        ("LADING_CONNECTIONS",),
        count,
        None,
        "Most connections of a download at a time. Unset: as many as make it faster, up to 8.",
        "a number, 1 or more",
    ),
    Setting(
        "part_bytes",
        ("LADING_PART_SIZE",),
        size,
        8 * MIB,
        "Bytes that one request of a download asks for.",
        "a size: 8MiB, 16M",
    ),
    Setting(
        "max_bandwidth",
        ("LADING_MAX_BANDWIDTH",),
        rate,
        None,
        "Most bytes per second of a download. Unset: as many as come.",
        "a size per second: 100MB, 1.5GiB, 12500k",
    ),
    Setting(
        "prefetch",
        ("LADING_PREFETCH",),
        boolean,
        True,
        "Read the weights into the page cache while the engine starts, up to half of the free memory.",
        BOOLEAN,
    ),
    Setting(
        "refresh",
        ("LADING_REFRESH",),
        refresh,
        "never",
        "When the source is asked for a model that the cache has complete: `check` tells what changed and serves what is here, `always` takes what the source has.",
        ", ".join(REFRESHES),
    ),
    Setting(
        "disable_download",
        ("NIM_DISABLE_MODEL_DOWNLOAD",),
        boolean,
        False,
        "Serve only what is in the cache; while another process fetches the model, wait for it.",
        BOOLEAN,
    ),
    Setting(
        "offline",
        ("LADING_OFFLINE", "HF_HUB_OFFLINE"),
        boolean,
        False,
        "Forbid every connection to a source; serve from the cache.",
        BOOLEAN,
    ),
)
