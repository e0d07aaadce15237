"""The engine families: one port (``interface.py``), one file per member, one mapping (``members.py``)."""
