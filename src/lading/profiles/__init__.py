"""Ways to run a model: generated, measured against a machine, chosen. Pure."""
