"""Programs for working on Lading; none of them is needed to run it."""
