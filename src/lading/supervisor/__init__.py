"""Keeping one engine process: its states, its life, its death."""
