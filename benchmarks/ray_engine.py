"""What Ray costs: the same slides on the same cores under the same plan, in this process and by an actor of Ray.

    python -m tissuary.benchmarks.ray_engine [--slides 7] [--grid-um 112] [--threads 2] [--repeats 3]
                                             [--backbone lunit-dino-s16] [--batch 16]

Seven slides of a real section, gridded at 112 um, give 2,247 patches; ViT-S/16 then takes minutes a run. Each
engine runs twice: into an empty store, and again when nothing is left to do. The second is its start (processes,
imports, the network, a look at each slide); the difference is the work. Both stores must be equal in every dataset.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..featurize.options import LOCAL, RAY, FeaturizeOptions
from ..featurize.pipeline import featurize
from ..featurize.workers.ray_ import import_ray
from .kill import differences
from .section_slide import write_section_slide


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=7)
    parser.add_argument("--grid-um", type=float, default=112.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone", default="lunit-dino-s16")
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    options = FeaturizeOptions(
        views=("20x",),
        patches="grid",
        grid_um=(given.grid_um,),
        backbones=(given.backbone,),
        weights={given.backbone: "random"},
        device="cpu",
        batch=given.batch,
        threads=given.threads,
        readers=2,
    )
    torch.set_num_threads(given.threads)
    import_ray().init("local", num_cpus=given.threads, include_dashboard=False, log_to_driver=False)
    work: dict[str, list[float]] = {LOCAL: [], RAY: []}
    whole: dict[str, list[float]] = {LOCAL: [], RAY: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slides").mkdir()
        for number in range(given.slides):
            write_section_slide(folder / "slides" / f"section{number}.tif")
        for repeat in range(given.repeats):
            stores = {engine: folder / f"{engine}{repeat}" for engine in work}
            for engine, store in stores.items():
                seconds, start, patches = timed(folder / "slides", store, replace(options, engine=engine))
                work[engine].append(seconds - start)
                whole[engine].append(seconds)
                rate = patches / (seconds - start)
                print(f"{engine:5s} {seconds:7.1f} s, start {start:5.1f} s; {patches} patches, {rate:6.2f}/s between")
            different = differences(stores[LOCAL], stores[RAY])
            print(f"different: {different or 'nothing'}")
            if different:
                sys.exit(1)
    for label, seconds_of in (("ray_engine", work), ("ray_engine_with_start", whole)):
        ratio = float(np.median(np.array(seconds_of[LOCAL]) / np.array(seconds_of[RAY])))
        print(f"{label} ratio={ratio:.3f} goal=0.95")


def timed(slides: Path, store: Path, options: FeaturizeOptions) -> tuple[float, float, int]:
    """Seconds of a run, of a second one that finds everything done, and the patches of both."""
    first = featurize(slides, store, options=options)
    again = featurize(slides, store, options=options)
    assert not first.failed, first.failed
    assert not any(slide.written for slide in again.done)
    return first.seconds, again.seconds, sum(slide.patches for slide in first.done)


if __name__ == "__main__":
    main()
