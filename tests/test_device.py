"""Copies to and from a device, and how many patches it takes at once."""

import numpy as np
import pytest
import torch

from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.registry import get_record
from tissuary.featurize.batch_size import LARGEST, ON_CPU, automatic_batch, fitting_batch
from tissuary.featurize.forward import Uploader

GIB = 2**30


def test_a_cpu_copies_nothing():
    batch = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    uploader = Uploader("cpu")
    moved = uploader.upload(batch)
    assert moved.data_ptr() == batch.ctypes.data
    result = moved.float().mean(dim=(1, 2))
    found = uploader.download(result)()
    assert found.ctypes.data == result.data_ptr()
    np.testing.assert_allclose(found, batch.mean(axis=(1, 2)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_no_batch_is_mixed_up_on_a_gpu():
    uploader = Uploader("cuda")
    weights = torch.ones(512, 512, device="cuda") / 512
    buffer = np.empty((256, 128, 128, 3), np.uint8)
    waiting, found = [], []
    for index in range(30):
        buffer[:] = index  # the same memory for each: an upload must have left it when it returns
        moved = uploader.upload(buffer).float().mean(dim=(1, 2, 3))
        busy = torch.full((512, 512), float(index), device="cuda")
        for _ in range(50):  # a slow forward pass, so that copies would overtake it if they could
            busy = busy @ weights
        waiting.append(uploader.download(moved + busy.mean()))
        if len(waiting) > 1:
            found.append(waiting.pop(0)().copy())
    found.append(waiting.pop()().copy())
    for index, result in enumerate(found):
        np.testing.assert_allclose(result, np.full(256, 2.0 * index), rtol=1e-3)


@pytest.mark.parametrize(
    ("small", "large", "free", "batch"),
    [
        # 1 GiB fixed and 1/8 GiB a patch: 0.6 * 80 = 48 GiB hold 376 patches, 0.6 * 24 = 14.4 GiB hold 107.
        (2 * GIB, 3 * GIB, 80 * GIB, 256),
        (2 * GIB, 3 * GIB, 24 * GIB, 64),
        (2 * GIB, 3 * GIB, 2 * GIB, 1),
        (GIB // 1000, GIB // 1000, 80 * GIB, LARGEST),
    ],
)
def test_the_batch_is_the_largest_power_of_two_that_fits(small, large, free, batch):
    assert fitting_batch(small, large, free=free) == batch


def test_the_batch_on_a_cpu_is_fixed():
    encoders = [build_encoder(get_record(key)) for key in ("haematoxylin", "stain-texture")]
    assert automatic_batch(encoders, device="cpu:0") == ON_CPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_batch_on_a_gpu_fits():
    encoder = build_encoder(get_record("stain-texture"), device="cuda")
    batch = automatic_batch([encoder], device="cuda")
    assert 1 <= batch <= LARGEST
    assert batch & (batch - 1) == 0
    patches = torch.zeros(batch, 3, 224, 224, dtype=torch.uint8, device="cuda")
    assert encoder.encode(patches).shape == (batch, encoder.dim)
