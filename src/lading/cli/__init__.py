"""The shell: commands, wiring, and the only place that prints."""
