"""Names for the array types that travel between the rooms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Strings = NDArray[np.str_]
Pixels = NDArray[np.uint8]
