import subprocess
import sys
from random import Random

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpoxcv.datasets.folds import assign_folds, require_safe_names, suspicions
from mpoxcv.datasets.published import CLASS_COUNTS
from mpoxcv.errors import UserError
from mpoxcv.pictures.patients import NamePattern, join_twins, parse_names

CUSTOM = r"(?P<original>(?P<patient>.+)_\d+)(?P<copy>_aug\d+)?"
V1 = r"(?P<original>(?P<patient>N?M\d+)_\d+)(?P<copy>_(?:aug)?\d+)?"


def pictures(patients: dict[str, list[int]]) -> pd.DataFrame:
    """A table from {class: [pictures of each patient]}."""
    rows = [
        (f"{name}/{name}{p}_{i}.jpg", name, f"{name}{p}")
        for name, counts in patients.items()
        for p, count in enumerate(counts)
        for i in range(count)
    ]
    return pd.DataFrame(rows, columns=["image", "class", "patient"])


def named(*paths: str, pattern: str = CUSTOM) -> pd.DataFrame:
    """The flat index of these paths."""
    path = pd.Series(paths)
    table = pd.DataFrame({"path": path, "image": path, "class": path.str.partition("/")[0]})
    return pd.concat([table, parse_names(table, NamePattern(pattern))], axis=1)


def check(table: pd.DataFrame, folds: pd.DataFrame, n_folds: int) -> None:
    assert list(folds) == ["image", "fold", "split"]
    assert len(folds) == n_folds * len(table)
    assert not folds.duplicated(["image", "fold"]).any()
    assert sorted(folds["image"][folds["split"] == "test"]) == sorted(
        table["image"]
    )  # the tests tile the data
    full = folds.merge(table, on="image")
    assert full.groupby(["fold", "patient"])["split"].nunique().max() == 1
    classes = full.groupby(["fold", "split"])["class"].nunique()
    assert len(classes) == 3 * n_folds
    assert classes.eq(table["class"].nunique()).all()


patient_counts = st.lists(st.integers(1, 4), min_size=5, max_size=9)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(patient_counts, min_size=1, max_size=4),
    st.integers(0, 99),
    st.integers(3, 5),
    st.randoms(),
)
@example([[1] * 5] * 4, 0, 5, Random(0))
def test_no_patient_crosses_splits_and_tests_tile_the_data(counts, seed, n_folds, random):
    table = pictures({"ABCD"[i]: patients for i, patients in enumerate(counts)})
    folds = assign_folds(table, n_folds, seed)
    check(table, folds, n_folds)
    order = random.sample(range(len(table)), len(table))
    pd.testing.assert_frame_equal(assign_folds(table.iloc[order], n_folds, seed), folds)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 12)), min_size=20, max_size=50),
    st.integers(0, 99),
)
def test_patients_with_several_classes_never_cross_either(rows, seed):
    table = pd.DataFrame([(f"{c}/{i}", c, str(p)) for i, (c, p) in enumerate(rows)])
    table.columns = ["image", "class", "patient"]
    try:
        check(table, assign_folds(table, 5, seed), 5)
    except UserError as error:
        assert "at least 5 patients" in str(error)


def test_shares_and_balance_on_the_counts_of_msld():
    table = pictures(
        {name: [n // p + (i < n % p) for i in range(p)] for name, (n, p) in CLASS_COUNTS.items()}
    )
    assert len(table) == 755
    for seed in (0, 42):
        full = assign_folds(table, 5, seed).merge(table, on="image")
        sizes = full.groupby(["fold", "split"]).size().unstack() / len(table)
        assert sizes["train"].between(0.69, 0.71).all()
        assert sizes["val"].between(0.09, 0.11).all()
        assert sizes["test"].between(0.19, 0.21).all()
        shares = full.groupby(["fold", "split"])["class"].value_counts(normalize=True).unstack()
        whole = table["class"].value_counts(normalize=True)
        assert (shares - whole).abs().to_numpy().max() < 0.015


def test_the_seed_changes_the_folds():
    table = pictures({"A": [1, 2] * 10, "B": [1] * 20})
    first, second = (assign_folds(table, 5, seed)["split"].tolist() for seed in (1, 2))
    assert first != second


def test_the_least_number_of_patients():
    check(
        table := pictures({"A": [3] * 30, "B": [9, 1, 1, 1, 1], "C": [1] * 5}),
        assign_folds(table),
        5,
    )
    with pytest.raises(UserError, match=r"B: 4 patient\(s\)(?s:.)*at least 5 patients") as error:
        assign_folds(pictures({"A": [3] * 30, "B": [5, 5, 5, 5]}))
    assert "A:" not in str(error.value)
    with pytest.raises(UserError, match="n_folds=2"):
        assign_folds(table, 2)


def test_importing_it_brings_no_torch():
    code = "import mpoxcv.datasets.folds, sys; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_patients_who_share_pictures_become_one():
    table = pictures({"A": [2, 2, 2, 1]})  # A0 A0 A1 A1 A2 A2 A3
    contents = pd.Series(list("abbccde"))
    assert join_twins(table, contents).tolist() == ["A0"] * 6 + ["A3"]
    (told,) = suspicions(table, contents)
    assert told.startswith("2 picture(s) lie there under several patients. Those who share one")
    assert "A/A0_1.jpg and A/A1_0.jpg" in told
    assert join_twins(table, pd.Series(list("abcdefg"))).equals(table["patient"])


@pytest.mark.parametrize(
    ("paths", "pattern", "message"),
    [
        (
            ["A/M43_02.jpg", "A/M43_02_aug07.jpg"],
            CUSTOM,
            "copies of other pictures(?s:.)*A/M43_02_aug07.jpg",
        ),
        (
            ["A/M43_02.jpg", "A/M43_02_108.jpg"],
            V1,
            "copies of other pictures(?s:.)*A/M43_02_108.jpg",
        ),
        (
            ["A/M43_02.jpg", "A/M43_02_108.jpg"],
            CUSTOM,
            "copies of other pictures(?s:.)*A/M43_02_108.jpg",
        ),
        (
            ["A/CHP_01_01.jpg", "A/CHP_01_01_10_1.jpg"],
            CUSTOM,
            "copies of other pictures(?s:.)*CHP_01_01_10_1",
        ),
        (["A/a_1.jpg", "A/a_1.png"], CUSTOM, "same names(?s:.)*A/a_1.jpg\n  A/a_1.png"),
        (
            ["A/a_1.jpg"],
            r"(?P<original>(?P<patient>.+)_\d+)",
            r"a_1_aug01: no copy .*end with \(\?P<copy>",
        ),
        (["A/a1.jpg"], r"(?P<original>(?P<patient>[a-z]+).+)", "a1_aug01: no copy"),
    ],
)
def test_names_that_would_leak_are_refused(paths, pattern, message):
    with pytest.raises(UserError, match=message):
        require_safe_names(named(*paths, pattern=pattern), NamePattern(pattern))


def test_the_same_name_in_two_classes_is_fine():
    require_safe_names(named("A/a_1.jpg", "B/a_1.jpg"), NamePattern(CUSTOM))


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        (
            [f"M{p}_{i}_{c}" for p in range(9) for i in (1, 2) for c in (107, 108)],
            "M0_1 and M0_2 count as two",
        ),
        ([f"M{p}_{i}" for p in range(9) for i in (1, 2)], None),  # patients M0 …
        ([f"MKP_{p}_{i}" for p in range(9) for i in (1, 2)], None),
        (
            [f"site{s}_{p}_{i}" for s in (1, 2) for p in range(30) for i in (1, 2)],
            "60 of 60 patients have names as if of 2 persons",
        ),
        # PAD-UFES-20: one person in fifty has two lesions
        (
            [f"PAT_{p}_{10 * p + i}_{i}" for p in range(50) for i in range(2 if p == 7 else 1)]
            + ["PAT_1_10_2"],
            "2 of 51 patients have names as if of 1 persons. PAT_7_70 and PAT_7_71 count as two",
        ),
        ([f"p{p}_1" for p in range(9)], "Each picture"),
    ],
)
def test_suspicious_names_are_told(stems, message):
    table = named(*(f"A/{stem}.jpg" for stem in stems))
    found = suspicions(table, table["path"])
    assert bool(found) == (message is not None)
    assert message is None or message in found[0]


def test_a_picture_under_two_labels_is_counted_and_named():
    rows = [("A/x_1.jpg", "A/x", "A"), ("B/y_1.jpg", "B/y", "B"), ("A/z_1.jpg", "A/z", "A")]
    table = pd.DataFrame(rows, columns=["image", "patient", "class"])
    _, told = suspicions(table, pd.Series([0, 0, 1]))[:2]
    assert told.startswith("1 picture(s) lie in several classes. One label is right")
    assert "A/x_1.jpg and B/y_1.jpg" in told and "z_1" not in told
