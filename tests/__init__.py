"""Tests mirror ``src/lading`` file by file; ``simulators/`` holds working stand-ins, ``assets/`` one small file per case."""
