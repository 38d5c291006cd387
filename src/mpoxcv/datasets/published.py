"""What is published of MSLD v2.0's counts, as published.yaml holds it."""

from pathlib import Path

import yaml

_COUNTS = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
# class: pictures, patients
CLASS_COUNTS: dict[str, tuple[int, int]] = {k: tuple(v) for k, v in _COUNTS["classes"].items()}
# fold: split: pictures
SPLIT_COUNTS: dict[int, dict[str, int]] = _COUNTS["splits"]
# fold: class: pictures of the test split
TEST_CLASS_COUNTS: dict[int, dict[str, int]] = _COUNTS["tests"]
