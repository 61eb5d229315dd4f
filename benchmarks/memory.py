"""Peak memory of featurizing a slide, and of one four times as large.

    python -m tissuary.benchmarks.memory [--backbone stain-texture]

Each side is a process of its own; its peak resident memory is what the operating system says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from .section_slide import write_section_slide

_RUN = """
import re, sys
from tissuary.featurize import FeaturizeOptions, featurize
report = featurize(sys.argv[1], sys.argv[2], options=FeaturizeOptions(backbones=(sys.argv[3],)))
assert not report.failed, report.failed
# Not getrusage: its peak is that of the parent process, too, which wrote the slide.
print(sum(slide.patches for slide in report.done), re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="stain-texture")
    options = parser.parse_args()
    peaks = []
    for times in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            path = write_section_slide(Path(folder) / f"section-{times}x{times}.tif", times=times)
            command = [sys.executable, "-c", _RUN, str(path), str(Path(folder) / "store"), options.backbone]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            patches, kib = map(int, found.stdout.split())
            peaks.append(kib / 1024)
            print(f"{times} x {times} sections, {patches} patches x 3 views: peak {peaks[-1]:.0f} MiB")
    print(f"memory ratio={peaks[1] / peaks[0]:.3f} goal=1.1")


if __name__ == "__main__":
    main()
