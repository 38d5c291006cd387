"""What the makers and users of MSLD v2.0 publish of its counts: the one place that holds them.

Sources: pictures and patients by class from the data set's README (mHealthBuet,
Mpox-Skin-Lesion-Dataset-v2); the rest from the outputs of public notebooks that ran on the official
folds (navidnayyem, A_Deep_Learning_Approach_for_Monkeypox_…). Train is 755 - val - test, which is
also augmented / 14 in every fold. Each fold splits all 755 pictures; the five test splits hold 364
together and do not tile them.
"""

# class: pictures, patients
CLASS_COUNTS: dict[str, tuple[int, int]] = {
    "Chickenpox": (75, 62), "Cowpox": (66, 41), "Healthy": (114, 105),
    "HFMD": (161, 144), "Measles": (55, 46), "Monkeypox": (284, 143),
}  # fmt: skip

# fold: split: pictures
SPLIT_COUNTS: dict[int, dict[str, int]] = {
    1: {"train": 537, "val": 144, "test": 74, "augmented": 7518},
    2: {"train": 509, "val": 164, "test": 82, "augmented": 7126},
    3: {"train": 538, "val": 153, "test": 64, "augmented": 7532},
    4: {"train": 524, "val": 150, "test": 81, "augmented": 7336},
    5: {"train": 538, "val": 154, "test": 63, "augmented": 7532},
}

# fold: class: pictures of the test split
TEST_CLASS_COUNTS: dict[int, dict[str, int]] = {
    1: {"Chickenpox": 9, "Cowpox": 7, "Healthy": 9, "HFMD": 16, "Measles": 6, "Monkeypox": 27},
    2: {"Chickenpox": 11, "Cowpox": 4, "Healthy": 11, "HFMD": 20, "Measles": 5, "Monkeypox": 31},
    3: {"Chickenpox": 6, "Cowpox": 4, "Healthy": 11, "HFMD": 16, "Measles": 5, "Monkeypox": 22},
    4: {"Chickenpox": 9, "Cowpox": 13, "Healthy": 9, "HFMD": 15, "Measles": 8, "Monkeypox": 27},
    5: {"Chickenpox": 7, "Cowpox": 7, "Healthy": 10, "HFMD": 15, "Measles": 6, "Monkeypox": 18},
}
