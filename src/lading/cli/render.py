"""Values as text for people, and as JSON for programs. Pure: each function returns text that ends with a newline."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lading.hardware.inventory import Gpu, Inventory
from lading.units import format_bytes

if TYPE_CHECKING:
    from lading.backends.environment import EngineEnvironment, InstallPlan
    from lading.backends.interface import Installation
    from lading.service import ServicePlan

_SECRET_FLAGS = ("--api-key",)
_MASK = "***"


def render_inventory(inventory: Inventory) -> str:
    """A machine for people: each GPU with its memory, then those that an engine does not get, and why."""
    lines = [_gpu_line(gpu) for gpu in inventory.gpus] or ["no GPUs"]
    lines += inventory.remarks
    if inventory.ram_bytes:
        ram, free = format_bytes(inventory.ram_bytes), format_bytes(inventory.ram_available_bytes)
        lines.append(f"RAM  {ram} granted, {free} available, {inventory.cpu_count} cores")
    if inventory.driver_version:
        cuda = f", CUDA {inventory.cuda_version}" if inventory.cuda_version else ""
        lines.append(f"driver  {inventory.driver_version}{cuda}")
    return "\n".join(lines) + "\n"


def _gpu_line(gpu: Gpu) -> str:
    parts = [
        f"{gpu.index}  {gpu.name}  {format_bytes(gpu.total_bytes)}, {format_bytes(gpu.free_bytes)} free",
        f"compute capability {gpu.compute_capability[0]}.{gpu.compute_capability[1]}",
        *(["NVLink"] if gpu.is_linked else []),
        *(["shares the machine's RAM"] if gpu.is_unified else []),
        *([gpu.uuid] if gpu.uuid else []),
    ]
    return "  ".join(parts)


def render_inventory_json(inventory: Inventory) -> str:
    """A machine for programs; ``--gpus`` reads it."""
    return json.dumps(inventory.to_json(), indent=2) + "\n"


def render_service_plan(plan: ServicePlan, environ: Mapping[str, str]) -> str:
    """What ``serve --dry-run`` prints: the model, the profile and why, the bytes, each engine argument's origin."""
    listing, chosen = plan.listing, plan.selection.chosen
    endpoint = plan.backend.endpoint(plan.installation, Path("/run/lading"))
    command = plan.command(plan.directory, endpoint, environ)
    rows = [
        ("model", str(listing.pinned)),
        ("served as", ", ".join(plan.request.served_names)),
        ("architecture", f"{listing.facts.architecture}, {listing.facts.precision}"),
        ("profile", f"{chosen.profile.name} ({chosen.profile.id})"),
        ("because", plan.selection.reason),
        *((("idle", plan.selection.idle),) if plan.selection.idle else ()),
        *((("but", chosen.warning),) if chosen.warning else ()),
        *(("not chosen", f"{each.profile.name}: {why}") for each, why in plan.selection.others),
        *((f"  {term.name}", f"{format_bytes(term.size_bytes)}  {term.how}") for term in chosen.estimate.terms),
        ("engine", f"{plan.installation.backend} {plan.installation.version} on the {plan.installation.device}"),
        ("cache", str(plan.cache.path) if plan.cache else "not used"),
        ("transfer", _transfer(plan)),
        ("gateway", plan.request.access.url(plan.request.access.port)),
        ("engine at", str(endpoint)),
        ("command", shlex.join(command.head)),
    ]
    lines = [f"{name:<18}{value}" for name, value in rows]
    lines += [f"  {shlex.join(_masked(each.tokens)):<46}  # {each.origin}" for each in command.arguments]
    return "\n".join(lines) + "\n"


def _transfer(plan: ServicePlan) -> str:
    if plan.transfer is None:
        return f"nothing: {len(plan.listing.manifest.files)} files are linked from where they lie"
    skipped = f"; {len(plan.listing.skipped)} files not needed" if plan.listing.skipped else ""
    return (
        f"{format_bytes(plan.transfer.fetch_bytes)} to fetch, "
        f"{format_bytes(plan.transfer.present_bytes)} of {format_bytes(plan.transfer.total_bytes)} are here{skipped}"
    )


def _masked(tokens: Iterable[str]) -> list[str]:
    """The tokens with the values of secret flags hidden."""
    shown: list[str] = []
    hide = False
    for token in tokens:
        name, equals, _ = token.partition("=")
        is_secret = name.replace("_", "-") in _SECRET_FLAGS
        shown.append(
            f"{name}={_MASK}" if is_secret and equals else _MASK if hide and not token.startswith("-") else token
        )
        hide = (is_secret and not equals) or (hide and not token.startswith("-"))
    return shown


def render_engines(environments: Sequence[EngineEnvironment], installations: Sequence[Installation]) -> str:
    """The engines found: what each is, what it computes on, where it came from."""
    if not installations and not environments:
        return "no engine found; `lading engine install` installs the CPU engine\n"
    lines = [
        f"{each.backend} {each.version}  {each.device}  {len(each.architectures)} architectures  "
        f"from {each.origin}  {shlex.join(each.argv)}"
        for each in installations
    ]
    for each in environments:
        lines.append(f"environment {each.path}  {format_bytes(each.size_bytes)}")
        lines += [each.notice] if each.notice else []
    return "\n".join(lines) + "\n"


def render_settings() -> str:
    """The settings table as Markdown; ``docs/reference/settings.md`` holds the same."""
    from lading.settings_table import SETTINGS

    lines = ["| variable | accepts | default | meaning |", "|---|---|---|---|"]
    for setting in SETTINGS:
        names = ", ".join(f"`{name}`" for name in setting.names)
        default = "" if setting.default in (None, "") else f"`{setting.default}`"
        lines.append(f"| {names} | {setting.accepts} | {default} | {setting.help} |")
    return "\n".join(lines) + "\n"


def render_install_plan(plan: InstallPlan) -> str:
    """What ``engine install --dry-run`` prints."""
    return str(plan)
