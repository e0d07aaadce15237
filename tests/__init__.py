"""Tests mirror ``src/lading`` file by file; ``simulators/`` are working stand-ins, ``assets/`` one file per case."""
