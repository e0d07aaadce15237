"""Commands that say which profiles of a model fit which machine: each reads what was asked and calls one use case."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lading.backends.interface import Installation
from lading.backends.members import BACKENDS
from lading.cli.commands import (
    Session,
    arguments_of,
    family_here,
    found_installations,
    globs_of,
    refresh_of,
    rereading,
    surroundings_of,
)
from lading.cli.engine_choice import DEFAULT_FAMILY, SpokenEngine, of_one_family, require_asked
from lading.cli.engine_flags import parse_engine
from lading.cli.named import model_named, what_is_served
from lading.events import Note
from lading.hardware.inventory import Device

if TYPE_CHECKING:
    from pathlib import Path

    from lading.candidates import Candidates, Named
    from lading.profiles.fit import Reread
    from lading.resolve import Machine


@dataclass(frozen=True, slots=True)
class Enquiry:
    """What was asked of an estimate.

    ``gpus`` describes another machine, ``engine`` names an engine that need not be here, ``engine_tokens`` are its
    flags, of which ``unread_flags`` are not counted; None and none: this machine, its engines, their defaults.
    """

    model: str | None
    manifest: Path | None = None
    as_json: bool = False
    refresh: bool = False
    explain: bool = False
    gpus: str | None = None
    engine: str | None = None
    engine_tokens: tuple[str, ...] = ()
    unread_flags: tuple[str, ...] = ()


def list_model_profiles(enquiry: Enquiry, session: Session) -> int:
    """``lading list-model-profiles [MODEL]``."""
    from lading.cli.render_profiles import render_explanation, render_listing, render_listing_json

    found, machine = _considered(what_is_served(enquiry.model, session.settings, enquiry.manifest), enquiry, session)
    for warning in dict.fromkeys(each.warning for each in found.fits if each.warning):
        session.report(Note(warning, "WARNING"))
    render = render_listing_json if enquiry.as_json else render_listing
    sys.stdout.write(render(found, machine.inventory))
    if enquiry.explain and not enquiry.as_json:
        sys.stdout.write(f"\n{render_explanation(found)}")
    return 0


def plan(enquiry: Enquiry, session: Session) -> int:
    """``lading plan [MODEL]``: which GPUs of the catalogue could serve it."""
    from lading.cli.render_plan import render_plan, render_plan_json
    from lading.hardware.catalogue import catalogue
    from lading.planning import plan_machines
    from lading.resolve import Subject, profiles_of

    family = enquiry.engine or family_here(session.settings, session.environ, lambda: Device.CUDA)
    enquiry = replace(enquiry, engine=family)
    model = model_named(enquiry.model, session.settings)
    found, machine = _considered(model, enquiry, session)
    listing = found.listings[model]
    wish = listing.asked.of_model
    profiles = profiles_of(machine, listing.facts, Subject(listing.pinned), wish)
    engines = machine.engines(listing.facts.architecture)
    offers = plan_machines(listing.facts, profiles, engines, wish, catalogue())
    sys.stdout.write((render_plan_json if enquiry.as_json else render_plan)(listing, offers))
    return 0


def _considered(what: Named, enquiry: Enquiry, session: Session) -> tuple[Candidates, Machine]:
    from lading.candidates import Scope, consider
    from lading.recall import Consultation

    machine = _machine(enquiry, session)
    if enquiry.unread_flags:
        session.report(Note(f"not counted: {' '.join(enquiry.unread_flags)}"))
    refresh = refresh_of(session.settings, demanded=enquiry.refresh)
    reread = _reading(enquiry, machine, session)
    found = consider(
        what,
        reread(()),
        machine=machine,
        world=surroundings_of(session),
        how=Consultation(refresh, session.report, globs_of(session.settings), reread),
        scope=Scope(unseen=True),
    )
    return found, machine


def _reading(enquiry: Enquiry, machine: Machine, session: Session) -> Reread:
    """Reads what settings and command line ask of the machine's engine; flags in the settings are the served one's."""
    engine = SpokenEngine.of(machine.installations)
    return rereading(arguments_of(session.settings, enquiry.engine_tokens, engine), engine, session)


def _machine(enquiry: Enquiry, session: Session) -> Machine:
    """This machine with its engines; or the machine described, or this one, with the engine that is named.

    Then an engine counts as if it were the build for the machine; unnamed, those found here do; where there is none,
    one of any version is assumed.
    """
    from lading.hardware.catalogue import described
    from lading.hardware.probe import probe
    from lading.resolve import Machine

    inventory = probe(session.environ) if enquiry.gpus is None else described(enquiry.gpus)
    here = found_installations(session)
    asked = session.settings.backend
    if enquiry.engine is None:
        found = of_one_family(here, asked, lambda: inventory.device)
        if enquiry.gpus is None:
            require_asked(here, asked)
            return Machine(inventory, found)
        name, version = asked or DEFAULT_FAMILY, ""
    else:
        name, version = parse_engine(enquiry.engine)
        found = tuple(each for each in here if each.backend == name and version in ("", each.version))
    counted = tuple(replace(each, device=inventory.device) for each in found)
    return Machine(inventory, counted or (_assumed(name, version, inventory.device),))


def _assumed(name: str, version: str, device: Device) -> Installation:
    runs = BACKENDS[name].known_architectures(version)
    return Installation(name, version or "of any version known", device, (), {}, runs, "assumed")
