"""Lading serves any model, from anywhere, on whatever hardware it finds.

The package is six layers whose imports point down only; ``docs/architecture/00-overview.md`` draws them and
``tests/test_layers.py`` holds them. Importing any module does nothing but define names.
"""

__version__ = "0.1.0"
