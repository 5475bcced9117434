"""`python -m alignflow`, the same as the command `alignflow`."""

import sys

from alignflow.command_line import main

if __name__ == "__main__":
    sys.exit(main())
