"""Bundles: models of a cache in one archive, carried to where no network is; ``docs/spec/bundle.md`` is the format."""
