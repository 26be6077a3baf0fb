"""Get the whole of MNIST.

The same as ``python -m atslib.data get mnist``, for who has a clone and looks for it here.
"""

import sys

from atslib.data.getting import get_mnist as main

if __name__ == "__main__":
    sys.exit(main())
