"""Get the annotated part of the Swedish Traffic Signs.

The same as ``python -m atslib.data get swedish_traffic_signs``, for who has a clone and looks for it here.
"""

import sys

from atslib.data.getting import get_swedish_traffic_signs as main

if __name__ == "__main__":
    sys.exit(main())
