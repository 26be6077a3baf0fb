"""Get the colon cancer images, from the archive or the folder that you have.

The same as ``python -m atslib.data get colon_cancer``, for who has a clone and looks for it here.
"""

import sys

from atslib.data.getting import get_colon_cancer as main

if __name__ == "__main__":
    sys.exit(main())
