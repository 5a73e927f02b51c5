"""python -m cmpd: the same as the command cmpd."""

import sys

from cmpd.cli.cmpd import main

if __name__ == "__main__":
    sys.exit(main())
