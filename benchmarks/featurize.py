"""Featurizing end to end, against nothing but the forward pass of the same models on data in memory.

    python -m tissuary.benchmarks.featurize [--backbone lunit-dino-s16 ...] [--views 20x ...] [--grid-um 112]
                                            [--batch N] [--device cpu] [--precision auto] [--slides 1]

The slide is a real section of about 9,270 x 9,910 px as a JPEG-tiled pyramid at 0.5 um/px. End to end is everything
from opening the slide to the published files: scale, thumbnail, tissue, reading, resampling, embedding (the density
control included), checks, writing, the picture. Building the models is not part of it. Forward only is the bare
network on normalised tensors on the device, same batch, precision and threads. Weights are random: speed is the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..featurize.one_slide import FeaturizeRun
from ..featurize.options import DENSITY, FeaturizeOptions
from ..featurize.patches.readers import Readers
from ..featurize.pipeline import run_slides
from ..featurize.setup import build_encoders, plan_of
from ..featurize.sources.load import load_cohort
from .section_slide import write_section_slide

if TYPE_CHECKING:
    from ..featurize.backbones.encoder import Encoder
    from ..featurize.patches.readers import StageReport


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["lunit-dino-s16"])
    parser.add_argument("--views", nargs="+", default=["20x"])
    parser.add_argument("--grid-um", type=float, default=112.0)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--slides", type=int, default=1)
    parser.add_argument("--times", type=int, default=1, help="the section so many times over, in both directions")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--readers", type=int, default=2)
    given = parser.parse_args()
    options = FeaturizeOptions(
        views=tuple(given.views),
        patches="grid",
        grid_um=(given.grid_um,),
        backbones=tuple(given.backbone),
        weights=dict.fromkeys(given.backbone, "random"),
        device=given.device,
        precision=given.precision,
        batch=given.batch,
        readers=given.readers,
    )
    encoders = build_encoders(options)
    batch = plan_of(options, encoders).batch
    networks = {name: encoder for name, encoder in encoders.items() if name != DENSITY}
    views, ratios = len(given.views), []
    with tempfile.TemporaryDirectory() as folder:
        slides = Path(folder) / "slides"
        slides.mkdir()
        for number in range(given.slides):
            write_section_slide(slides / f"section{number}.tif", times=given.times)
        before = [forward_seconds(encoder, batch) for encoder in networks.values()]
        for repeat in range(given.repeats):  # forward passes before and after, as the machine is busy or not
            seconds, patches, stages = end_to_end(slides, Path(folder) / f"store{repeat}", options, encoders)
            after = [forward_seconds(encoder, batch) for encoder in networks.values()]
            forward = (sum(before) + sum(after)) / 2 * views * patches
            print(f"end to end {patches / seconds:9.2f} patches/s   forward only {patches / forward:9.2f}")
            ratios.append(forward / seconds)
            before = after
    precisions = ", ".join(encoder.record.precision for encoder in networks.values())
    print(
        f"{patches} patches x {views} views x {len(networks)} backbones, batch {batch}, "
        f"{torch.get_num_threads()} threads, {precisions}; stages of the last run:"
    )
    for stage in stages.stages:
        print(f"  {stage.name:9s} {stage.seconds:8.2f} s  {stage.rate:9.0f} {stage.unit}/s")
    print(f"  {stages.bottleneck}")
    ratio = float(np.median(ratios))
    print(
        f"featurize ratio={ratio:.3f} goal={0.90 if any(e.device.type == 'cuda' for e in networks.values()) else 0.97}"
    )
    print(f"featurize_over_forwards ratio={1 / ratio:.3f} goal=1.05")


def end_to_end(
    slides: Path, store: Path, options: FeaturizeOptions, encoders: dict[str, Encoder]
) -> tuple[float, int, StageReport]:
    """Seconds, patches, and where the time went, from the opening of the first slide to the last file."""
    cohort = load_cohort(slides)
    with Readers(options.readers) as readers:
        run = FeaturizeRun(store, options, encoders, plan_of(options, encoders), readers)
        started = time.perf_counter()
        done, failed = run_slides(cohort.samples, run, progress=lambda *_: None)
        seconds = time.perf_counter() - started
        assert not failed, failed
        return seconds, sum(one.patches for one in done), readers.stages.report(readers=options.readers)


def forward_seconds(encoder: Encoder, batch: int, *, least_seconds: float = 8.0) -> float:
    """Seconds per patch of the bare network on normalised data in memory, over at least `least_seconds`."""
    patches = torch.randint(0, 256, (batch, 3, encoder.record.input_px, encoder.record.input_px), dtype=torch.uint8)
    prepared = encoder.prepare(patches)
    with torch.inference_mode():
        for _ in range(2):
            encoder.embedding(prepared)
        _wait(encoder)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < least_seconds:
            encoder.embedding(prepared)
            _wait(encoder)
            count += batch
        return (time.perf_counter() - started) / count


def _wait(encoder: Encoder) -> None:
    if encoder.device.type == "cuda":
        torch.cuda.synchronize(encoder.device)


if __name__ == "__main__":
    main()
