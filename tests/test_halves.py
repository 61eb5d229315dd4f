"""Half precision by torch and by table: numpy's bits, for every value there is."""

import subprocess
import sys

import numpy as np
import pytest

from tissuary.store.files.precision import to_half, to_single

EVERY_HALF = np.arange(2**16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("writeable", [True, False])  # torch takes writable arrays only; others go by table
def test_every_half_widens_exactly(writeable):
    stored, out = EVERY_HALF.reshape(256, 256).copy(), np.empty((256, 256), np.float32)
    stored.flags.writeable = writeable
    to_single(stored, out)
    np.testing.assert_array_equal(out, EVERY_HALF.reshape(256, 256).astype(np.float32))


def test_singles_pass_through():
    values, out = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.empty((5, 3), np.float32)
    to_single(values, out)
    np.testing.assert_array_equal(out, values)


@pytest.mark.parametrize("writeable", [True, False])
def test_narrowing_rounds_as_numpy_does(writeable):
    half = EVERY_HALF[np.isfinite(EVERY_HALF)].astype(np.float64)
    half.sort()
    between = ((half[1:] + half[:-1]) / 2).astype(np.float32)  # ties, exact in single precision
    values = np.concatenate([between, np.nextafter(between, np.inf), np.nextafter(between, -np.inf)])
    values = np.concatenate([values, np.array([65519.996, 65520.0, 1e30, -1e30, 0.0, -0.0], np.float32)])
    with np.errstate(over="ignore"):
        expected = values.astype("<f2")
    values.flags.writeable = writeable
    np.testing.assert_array_equal(to_half(values).view(np.uint16), expected.view(np.uint16))


def test_torch_is_not_loaded_for_it():
    code = (
        "import sys, numpy as np; from tissuary.store.files.precision import to_half, to_single;"
        "h = to_half(np.ones((2, 2), np.float32)); o = np.empty((2, 2), np.float32); to_single(h, o);"
        "assert o.sum() == 4 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
