"""What every member does alike: read an owned flag, put our defaults before the user's flags, make the environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from lading.backends.arguments import Flag, last_values, scan, without
from lading.backends.interface import Argument, Launch
from lading.backends.spelling import spell
from lading.errors import UsageError

T = TypeVar("T")
_WITHHELD_PREFIXES = ("NIM_", "LADING_", "NGC_", "AWS_", "AZURE_", "MODELSCOPE_")
_WITHHELD = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def read_value(tokens: Sequence[str], flags: Sequence[Flag], name: str, read: Callable[[str], T]) -> T | None:
    """The first value of the last flag ``name``; None where it is absent. Raises UsageError for what cannot be read."""
    values = last_values(tokens, flags, name)
    if values is None:
        return None
    try:
        return read(values[0])
    except (ValueError, IndexError):
        raise UsageError(f"{name} {' '.join(values)}: the value cannot be read") from None


def joined(
    defaults: Iterable[Argument], launch: Launch, flags: Sequence[Flag], owned: Sequence[str]
) -> tuple[Argument, ...]:
    """Our arguments first and the user's last, so that theirs win.

    One of ours is left out where the user wrote the same flag, one of the user's where Lading owns it.
    """
    user_tokens = tuple(token for argument in launch.user_arguments for token in argument.tokens)
    arguments = [each for each in defaults if not _is_given(user_tokens, flags, owned, each.tokens[0])]
    for argument in launch.user_arguments:
        if kept := without(argument.tokens, flags, owned):
            arguments.append(Argument(kept, argument.origin))
    return tuple(arguments)


def lora_arguments(launch: Launch) -> Iterator[Argument]:
    """The flags for the room that LoRA adapters need; those that this version does not have are left out."""
    room = launch.lora
    for what, limit in (
        ("lora_rank", room and room.rank),
        ("lora_slots", room and room.slots),
        ("lora_host_slots", room and room.host_slots),
    ):
        if limit:
            tokens = spell(launch.fit.profile.backend, launch.installation.version, what, limit.value)
            if tokens:
                yield Argument(tokens, limit.origin)


def tokens_of(arguments: Iterable[Argument]) -> tuple[str, ...]:
    """The arguments as they are written behind one another."""
    return tuple(token for argument in arguments for token in argument.tokens)


def engine_environ(
    launch: Launch, environ: Mapping[str, str], defaults: Mapping[str, str], withheld: Iterable[str] = ()
) -> dict[str, str]:
    """What the engine inherits: no credential of a source, no setting of ours; offline, since it gets a directory.

    ``defaults`` are set where the user set nothing, ``withheld`` never passed on.
    """
    kept = passed_on(environ, withheld)
    installed = launch.installation.environ
    result = {**_OFFLINE, **defaults, **kept, **launch.inventory.engine_environ, **installed}
    if "PYTHONPATH" in installed and kept.get("PYTHONPATH"):
        result["PYTHONPATH"] = f"{installed['PYTHONPATH']}:{kept['PYTHONPATH']}"
    return result


def passed_on(environ: Mapping[str, str], withheld: Iterable[str] = ()) -> dict[str, str]:
    """What a child inherits of ``environ``: no credential of a source, no setting of ours, nothing ``withheld``."""
    dropped = _WITHHELD | set(withheld)
    return {
        name: value
        for name, value in environ.items()
        if name not in dropped and not name.startswith(_WITHHELD_PREFIXES)
    }


def is_debug(environ: Mapping[str, str]) -> bool:
    """Whether the engine shall print all it can; at other levels its lines are filtered, its phases needed."""
    return environ.get("NIM_LOG_LEVEL", "").upper() == "DEBUG"


def _is_given(user_tokens: Sequence[str], flags: Sequence[Flag], owned: Sequence[str], spelling: str) -> bool:
    """Whether the user wrote the flag that ``spelling``, of ours, is one of."""
    flag = scan((spelling,), flags)[0].flag
    return flag is not None and flag.name not in owned and last_values(user_tokens, flags, flag.name) is not None
