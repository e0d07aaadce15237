"""What an install would do, as a value that can be printed and tested. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lading.backends.recipes import Obstacle, Recipe, Step
from lading.errors import EngineInstallFailed, NotEnoughDisk
from lading.units import format_bytes


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """What an install of ``recipe`` would do at ``path``. ``str`` is the text for a person.

    ``reason`` says why this recipe was chosen, ``obstacle`` what keeps it from being installed. Every wheel is counted
    as still to be downloaded: what pip has in its cache is not looked at.
    """

    recipe: Recipe
    reason: str
    path: Path
    is_complete: bool
    present_bytes: int
    free_bytes: int
    obstacle: Obstacle | None

    @property
    def name(self) -> str:
        """The engine."""
        return self.recipe.name

    @property
    def version(self) -> str:
        """Its version."""
        return self.recipe.version

    @property
    def steps(self) -> tuple[Step, ...]:
        """What pip is asked for, in order."""
        return self.recipe.steps

    @property
    def download_bytes(self) -> int:
        """All that is fetched when nothing is cached."""
        return sum(step.download_bytes for step in self.steps)

    @property
    def disk_bytes(self) -> int:
        """What the finished environment occupies."""
        return sum(step.disk_bytes for step in self.steps)

    @property
    def needed_bytes(self) -> int:
        """Free disk that the install asks for: all that is still missing, downloaded and unpacked."""
        return 0 if self.is_complete else max(0, self.disk_bytes + self.download_bytes - self.present_bytes)

    def require_feasible(self) -> None:
        """Raise EngineInstallFailed for an obstacle, NotEnoughDisk when the disk is too small."""
        if self.obstacle:
            raise EngineInstallFailed(self.obstacle.reason, remedy=self.obstacle.remedy)
        if self.free_bytes < self.needed_bytes:
            needed, free = format_bytes(self.needed_bytes), format_bytes(self.free_bytes)
            raise NotEnoughDisk(
                f"{self.name} {self.version} needs {needed} of free disk while it is installed, {self.path} has {free}",
                remedy="free some space, or set LADING_DATA_PATH to a directory on a larger disk",
            )

    def __str__(self) -> str:
        title = f"{self.name} {self.version} from {self.recipe.origin}"
        if self.is_complete:
            return f"{title} is installed at {self.path}: nothing to do\n"
        lines = [f"{title} ({self.reason})", f"  into       {self.path}"]
        lines += [f"  step {number}     {step_text(step)}" for number, step in enumerate(self.steps, 1)]
        lines.append(f"  together   {_sizes(self.download_bytes, self.disk_bytes)}")
        if self.present_bytes:
            lines.append(f"  present    {format_bytes(self.present_bytes)} from an earlier try")
        lines.append(f"  free disk  {format_bytes(self.free_bytes)}, {format_bytes(self.needed_bytes)} needed")
        if self.obstacle:
            lines.append(f"  cannot be installed: {self.obstacle.reason}; {self.obstacle.remedy}")
        return "\n".join(lines) + "\n"


def step_text(step: Step) -> str:
    """A step with its sizes."""
    return f"{step.title}: {_sizes(step.download_bytes, step.disk_bytes)}"


def _sizes(download_bytes: int, disk_bytes: int) -> str:
    return f"{format_bytes(download_bytes)} to download, {format_bytes(disk_bytes)} on disk"
