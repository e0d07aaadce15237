"""``python -m lading.cli``: the same as ``lading``."""

import sys

from lading.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
