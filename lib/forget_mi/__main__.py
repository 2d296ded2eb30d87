"""`python -m forget_mi`: the command line."""

import sys

from forget_mi.cli import main

if __name__ == "__main__":
    sys.exit(main())
