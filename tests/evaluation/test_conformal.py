"""Sets of classes that hold the true one as often as they promise."""

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors

from mpoxcv.evaluation.conformal import HeldOut, held_out_coverage, held_out_p_values, in_set
from mpoxcv.evaluation.groups import bootstrap
from mpoxcv.evaluation.novelty import distances, normalised, threshold

CLASSES = ["A", "B", "C"]


def scored(rng, patients: int, prefix: str = "p", clustered: float = 0.8) -> pd.DataFrame:
    """Predictions of patients with one to four pictures, which resemble each other."""
    rows = []
    for number in range(patients):
        label = int(rng.integers(3))
        common = rng.normal(size=3)
        for picture in range(int(rng.integers(1, 5))):
            own = clustered**0.5 * common + (1 - clustered) ** 0.5 * rng.normal(size=3)
            logits = own * 1.2 + 1.5 * (np.arange(3) == label)
            p = np.exp(logits) / np.exp(logits).sum()
            rows.append(
                [
                    f"{prefix}{number}_{picture}",
                    f"{prefix}{number}",
                    CLASSES[label],
                    CLASSES[p.argmax()],
                    *p,
                ]
            )
    columns = ["image", "patient", "label", "prediction", *(f"p_{name}" for name in CLASSES)]
    return pd.DataFrame(rows, columns=columns).assign(split="test", seed=0, weight=1.0)


def test_p_values_count_patients_whose_truth_was_as_unlikely():
    rng = np.random.default_rng(0)
    tables = [scored(rng, 9, "a"), scored(rng, 7, "b")]
    new = np.stack([table[[f"p_{c}" for c in CLASSES]].to_numpy()[:5] for table in tables])
    given = HeldOut(tables).p_values(new)
    for i in range(5):
        for label in range(3):
            total = 1.0
            for table, network in zip(tables, new, strict=True):
                for _, pictures in table.groupby("patient"):
                    truths = [row[f"p_{row['label']}"] for _, row in pictures.iterrows()]
                    total += np.mean([truth <= network[i, label] for truth in truths])
            assert given[i, label] == pytest.approx(total / (16 + 1))


def test_a_patient_tested_by_two_networks_counts_once():
    rng = np.random.default_rng(1)
    table = scored(rng, 10)
    new = rng.dirichlet(np.ones(3), 4)
    once, twice = HeldOut([table]), HeldOut([table, table])
    assert once.patients == twice.patients == 10
    np.testing.assert_allclose(once.p_values(new[None]), twice.p_values(np.stack([new, new])))


def test_the_likeliest_class_is_always_in_the_set():
    p_values, probabilities = np.array([[0.05, 0.01]]), np.array([[0.4, 0.6]])
    assert in_set(p_values, probabilities, 0.9).tolist() == [[False, True]]
    assert in_set(p_values, probabilities, 0.96).tolist() == [[True, True]]


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_held_out_sets_leave_the_patient_out(level):
    rows = scored(np.random.default_rng(2), 30)
    probabilities = rows[[f"p_{c}" for c in CLASSES]].to_numpy()
    expected = []
    for i, row in rows.iterrows():
        others = HeldOut([rows[rows["patient"] != row["patient"]]])
        mine = probabilities[[i]]
        expected.append(in_set(others.p_values(mine[None]), mine, level)[0])
    sets = in_set(held_out_p_values(rows), probabilities, level)
    assert (sets == np.array(expected)).all()


@pytest.mark.slow
@pytest.mark.parametrize("patients", [30, 60, 162])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_sets_hold_the_truth_of_new_patients_as_promised(patients, level):
    """Over samples; a set over the likeliest alone may hold it more often than promised."""
    rng = np.random.default_rng(3)
    held, promised, by_hand = [], [], []
    for _ in range(400):
        known, new = scored(rng, patients), scored(rng, 40, "n")
        probabilities = new[[f"p_{c}" for c in CLASSES]].to_numpy()
        sets = HeldOut([known]).p_values(probabilities[None]) > 1 - level
        truth = new["label"].map(CLASSES.index).to_numpy()
        # a picture of each new patient, as the promise is
        first = ~new["patient"].duplicated().to_numpy()
        held.append(sets[np.arange(len(new)), truth][first].mean())
        (entry,) = [
            e for e in held_out_coverage(known, bootstrap(known, 20)) if e["level"] == level
        ]
        promised.append(entry["coverage"][0])
        by_hand.append(entry["coverage"][1] <= entry["coverage"][0] <= entry["coverage"][2])
    print(
        f"{patients} patients, {level:.0%}: new {np.mean(held):.3f}, stated {np.mean(promised):.3f}"
    )
    assert level - 0.01 < np.mean(held) < level + 2 / patients + 0.01
    assert abs(np.mean(promised) - np.mean(held)) < 0.04 and np.mean(by_hand) > 0.9


def test_the_distance_is_that_to_the_fifth_nearest():
    rng = np.random.default_rng(4)
    known, new = normalised(rng.normal(size=(50, 8))), rng.normal(size=(20, 8))
    search = NearestNeighbors(n_neighbors=5).fit(known)
    np.testing.assert_allclose(
        distances(new, known), search.kneighbors(normalised(new))[0][:, 4], atol=1e-6
    )
    # of fewer, the farthest
    np.testing.assert_allclose(
        distances(new, known[:3]), distances(new, known[[0, 1, 2, 0, 1]]), atol=1e-6
    )


@pytest.mark.parametrize("n", [1, 7, 20, 33])
def test_at_most_a_twentieth_of_valid_is_beyond_the_threshold(n):
    far = np.random.default_rng(n).uniform(size=n)
    beyond = (far > threshold(far)).sum()
    assert beyond <= 0.05 * n < beyond + 1.0001
