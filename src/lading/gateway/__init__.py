"""The gateway: one asyncio listener that answers from the first second and splices the engine's bytes (design D2).

Reading order: :mod:`~lading.gateway.status` (what is known), :mod:`~lading.gateway.management` (what we answer
ourselves), :mod:`~lading.gateway.heads` and :mod:`~lading.gateway.bodies` (where a request begins and ends),
:mod:`~lading.gateway.replies` (where a reply ends), :mod:`~lading.gateway.splice` (one request through the engine),
:mod:`~lading.gateway.connection` (one client), :mod:`~lading.gateway.server` (the listener).
"""
