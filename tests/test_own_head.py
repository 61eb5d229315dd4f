"""The head of docs/own_head.md, as it is printed there."""

import re
from pathlib import Path

import numpy as np

from tissuary.heads.protocols.inner import within_slide_pearson
from tissuary.tests.head_tables import made_up, unseen

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_head.md"


def test_the_documented_head_trains_predicts_and_is_short():
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)[1]
    own = [
        line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from", "head", "dev"))
    ]
    assert len(own) <= 30
    train, (test, bare) = made_up("ABC", each=1, spots=60), unseen(made_up(), spots=120)
    found = {"train": train, "test": bare}
    exec(compile(code, str(PAGE), "exec"), found)
    assert np.nanmean(within_slide_pearson(found["deviation"], test.targets, test.slide)) > 0.8
    assert found["head"].chosen_["selection"] == "patients"
