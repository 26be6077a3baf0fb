"""Get the German Traffic Sign Detection Benchmark.

The same as ``python -m atslib.data get gtsdb``, for who has a clone and looks for it here.
"""

import sys

from atslib.data.getting import get_gtsdb as main

if __name__ == "__main__":
    sys.exit(main())
