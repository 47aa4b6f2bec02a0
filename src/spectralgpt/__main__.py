"""Run the command line with `python -m spectralgpt`."""

import sys

from spectralgpt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
