"""Bundles: real files, real archives, the real tools beside them."""
