"""What is asked of a model's engine: by the user, below that by the model's own files, below that by profiles' tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lading.backends.interface import Argument
from lading.backends.model_arguments import MOST_BYTES, RUNTIME_CONFIG, TAG, model_argument
from lading.errors import MalformedModel
from lading.events import Note, Report
from lading.inspection import ModelReader
from lading.model.listed import ListedProfile
from lading.model.manifest import Manifest
from lading.profiles.fit import Reread, Wish
from lading.profiles.profile import Profile


@dataclass(frozen=True, slots=True)
class Asked:
    """``wish`` is the user's alone; ``own`` are the flags of the model's files, ``tagged`` those of profiles by id."""

    wish: Wish
    reread: Reread | None = None
    own: tuple[Argument, ...] = ()
    tagged: Mapping[str, Argument] = field(default_factory=dict)

    def arguments_of(self, profile: Profile) -> tuple[Argument, ...]:
        """The flags that the model and the profile bring along, least important first."""
        tagged = self.tagged.get(profile.id)
        return (*((tagged,) if tagged else ()), *self.own)

    @property
    def of_model(self) -> Wish:
        """The wish for the model, whichever profile is taken."""
        return self._with(self.own)

    def of_profile(self, profile: Profile) -> Wish:
        """The wish for one profile."""
        return self._with(self.arguments_of(profile))

    def _with(self, arguments: Sequence[Argument]) -> Wish:
        tokens = [token for each in arguments for token in each.tokens]
        if not tokens or self.reread is None:
            return self.wish
        found = self.reread(tokens)
        return replace(found, lora=found.lora or self.wish.lora)


def asked_of(user: Asked, manifest: Manifest, listed: Sequence[ListedProfile], reader: ModelReader, ask: Ask) -> Asked:
    """What the ``user`` asks, with what the model's files (read by ``reader``) and the tags of profiles add.

    Raises MalformedModel for a runtime_config.json that cannot be used.
    """
    entry = manifest.find(RUNTIME_CONFIG)
    if user.reread is None or not (entry or any(TAG in each.tags for each in listed)):
        return user
    own: tuple[Argument, ...] = ()
    if entry:
        if entry.size_bytes > MOST_BYTES:
            raise MalformedModel(f"{RUNTIME_CONFIG} has {entry.size_bytes} bytes, more than flags can be")
        text = reader.trusting_the_source(entry, lambda trusted: trusted.read_whole(entry))
        own = (ask.argument(text, RUNTIME_CONFIG),)
    tagged = {each.id: ask.argument(each.tags[TAG], f"profile tag {TAG}") for each in listed if each.tags.get(TAG)}
    return replace(user, own=own, tagged=tagged)


@dataclass(frozen=True, slots=True)
class Ask:
    """The engine family that flags are for, and who is told of those that are not taken."""

    family: str
    report: Report

    def argument(self, text: str | bytes, origin: str) -> Argument:
        """The flags that the JSON in ``text`` asks for."""
        argument, refused = model_argument(self.family, text, origin)
        if refused:
            names = ", ".join(refused)
            self.report(Note(f"{origin}: not taken from a model, give it as a flag: {names}", "WARNING"))
        return argument
