"""Verified bytes on disk, and what is known about them."""
