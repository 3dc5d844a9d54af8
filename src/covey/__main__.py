"""`python -m covey`."""

import sys

if not sys.flags.safe_path:
    # The current folder, in which no file is meant to stand in for a library.
    del sys.path[0]

from covey.cli import main

sys.exit(main())
