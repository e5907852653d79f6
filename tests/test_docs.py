"""What the documents name exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_test_that_holds_a_promise_exists():
    rows = [line for line in (ROOT / "docs/robustness.md").read_text().splitlines() if line.startswith("| ")]
    missing, names = [], 0
    for row in rows:
        file = ""
        for name in re.findall(r"`((?:tests/\w+\.py)?(?:::\w+)?)`", row.split(" | ")[-1]):
            file, _, test = name.partition("::") if name.startswith("tests/") else (file, "", name.removeprefix("::"))
            source = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
            names += 1
            if not source or (test and f"def {test}(" not in source):
                missing.append(name)
    assert missing == [] and names > 200
