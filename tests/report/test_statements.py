"""Each sentence of a report, made true and made false by small tables that are made up."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from test_summary import CLASSES, PICTURES, counts, write_run

from mpoxcv.evaluation.comparisons import _sentence
from mpoxcv.evaluation.conformal import held_out_p_values, in_set
from mpoxcv.evaluation.groups import PRIMARY
from mpoxcv.evaluation.predictions import probabilities_of
from mpoxcv.evaluation.summary import summarise as summarise_fully
from mpoxcv.report.report import write_report
from mpoxcv.report.statements import gaps_of, notes_of, protocol_of, verdict, warnings_of
from mpoxcv.report.tables import tables_of

FOLDS = range(1, 6)
CLEAN = {"choice": "stop", "leaks": {}, "dropped": 0}
DROPPED = {"choice": "drop", "leaks": {"same picture": 3}, "dropped": 24}
ALLOWED = DROPPED | {"choice": "allow", "dropped": 0}


def summarise(folders, folds=5):
    return summarise_fully(folders, folds=folds, replicates=300)


def said(summary):
    lines = [*verdict(summary), *warnings_of(summary), *notes_of(summary)]
    return "\n".join([*lines, *protocol_of(summary), *gaps_of(summary)])


def sweep(root, folds=FOLDS, seeds=(0,), **options):
    return [write_run(root, fold, seed, **options) for fold in folds for seed in seeds]


def configure(folder, **options):
    file = folder / ".hydra/config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | options))


def rewrite(folder, change, name="predictions.csv"):
    table = pd.read_csv(folder / name, keep_default_na=False)
    change(table).to_csv(folder / name, index=False)


@pytest.mark.parametrize("excluded", [[], ["*/P1_0.jpg"]])
@pytest.mark.parametrize("audit", [CLEAN, DROPPED], ids=["clean", "dropped"])
def test_what_was_left_out(excluded, audit, tmp_path):
    folder = write_run(tmp_path, 1, audit=audit)
    configure(folder, data={"root": "nowhere", "exclude": excluded})
    text = said(summarise([tmp_path], folds=1))
    assert ("No picture was left out." in text) == (not excluded and audit is CLEAN)
    assert ("Left out by option: */P1_0.jpg." in text) == bool(excluded)
    assert ("24 training pictures and copies" in text) == (audit is DROPPED)


@pytest.mark.parametrize("suspected", [{}, {"same picture": 2, "same patient": 1}])
def test_suspected_leaks_are_told(suspected, tmp_path):
    write_run(tmp_path, 1, audit=CLEAN | {"suspected": suspected})
    text = said(summarise([tmp_path], folds=1))
    told = "no leak was found; merely suspected, and trained on: same picture 2, same patient 1."
    assert (told in text) == bool(suspected) and "no leak was found" in text


def test_what_sets_of_classes_hold_is_told_of_honest_groups(tmp_path):
    sweep(tmp_path / "honest")
    summary = summarise([tmp_path])
    rows = summary.groups[0].rows
    truth = rows["label"].map(CLASSES.index).to_numpy()
    for level in (0.8, 0.9):
        sets = in_set(held_out_p_values(rows), probabilities_of(rows), level)
        hit = sets[np.arange(len(rows)), truth].mean()
        [line] = [s for s in said(summary).split("\n") if f"true one with {level:.0%}" in s]
        assert (
            f"they do in {hit:.3f} (" in line and f"with {sets.sum(1).mean():.2f} classes" in line
        )
    write_run(tmp_path / "leaking", "leaking", skill=9, tests=PICTURES)
    assert "Sets of classes" not in said(summarise([tmp_path / "leaking"]))


def test_the_search_for_leaks_is_told_of_each_group(tmp_path):
    for name, audit in (("clean", CLEAN), ("dropped", DROPPED), ("unknown", None)):
        write_run(tmp_path, 1, overrides=[f"model={name}"], audit=audit)
    summary = summarise([tmp_path], folds=1)
    protocol, gaps = "\n".join(protocol_of(summary)), "\n".join(gaps_of(summary))
    assert "model=clean: Independence of the splits: patients" in protocol
    assert "no leak was found" in protocol.split("model=clean: Independence")[1].split("\n")[0]
    dropped = protocol.split("model=dropped: Independence")[1].split("\n")[0]
    assert "same picture 3; they were dropped." in dropped
    assert "model=unknown: Independence of the splits: near-duplicates" in gaps
    assert "model=unknown: Independence" not in protocol and "model=clean: Indep" not in gaps
    # what holds for all is said once, without names
    for folder in tmp_path.iterdir():
        file = folder / "provenance.json"
        record = json.loads(file.read_text())
        record["data"]["audit"] = CLEAN
        file.write_text(json.dumps(record))
    text = said(summarise([tmp_path], folds=1))
    assert "\nIndependence of the splits: patients" in text and "were not looked for" not in text


@pytest.mark.parametrize(("audit", "warned"), [(CLEAN, False), (ALLOWED, True), (DROPPED, False)])
def test_training_on_leaks_is_a_warning(audit, warned, tmp_path):
    write_run(tmp_path, 1, audit=audit)
    warnings = "\n".join(warnings_of(summarise([tmp_path], folds=1)))
    assert ("trained on pictures that leak" in warnings) == warned


def test_the_majority_vote_has_the_number_that_it_has(tmp_path):
    folders = sweep(tmp_path)
    group = summarise([tmp_path]).content["groups"][0]
    assert "chance has 0.333, majority class 0.333" in said(summarise([tmp_path]))
    # what is commonest in Train is rarest in Test
    for folder, name in zip(folders, [*CLASSES, *CLASSES], strict=False):
        called = {"prediction": name, **{f"p_{c}": 0.4 if c == name else 0.3 for c in CLASSES}}
        rewrite(
            folder,
            lambda table, name=name, called=called: table[
                (table["label"] != name) | (table.index % 2 == 0)
            ].assign(**called),
            "baselines.csv",
        )
        kept = pd.read_csv(folder / "baselines.csv")["image"]
        rewrite(folder, lambda table, kept=kept: table[table["image"].isin(kept)])
    summary = summarise([tmp_path])
    value = summary.content["groups"][0]["baselines"]["majority class"][PRIMARY][0]
    assert value < 0.33 and f"majority class {value:.3f}" in said(summary)
    assert "majority class 0.333" not in said(summary) and group != summary.content["groups"][0]


def test_seeds_that_tested_other_pictures_are_told(tmp_path):
    size = len(PICTURES)
    data = {"originals": {"train": size - 24, "val": 0, "test": 24}}
    sweep(tmp_path, seeds=(0,), **data)
    text = said(summarise([tmp_path]))
    assert f"tile the data: {size} of {size} files" in text and "files a seed" not in text
    write_run(tmp_path, 1, seed=1, **data)
    text = said(summarise([tmp_path]))
    assert "do not tile the data" in text and "(files a seed: 120 by 0, 24 by 1)" in text


def test_a_table_says_data_and_not_protocol(tmp_path):
    sweep(tmp_path, protocol="grouped")
    results = tables_of(summarise([tmp_path]))["results"]
    assert list(results["data"].unique()) == ["msld_v2"] and "protocol" not in results
    assert "made anew by this program" in said(summarise([tmp_path]))


def test_protocols_have_tables_of_their_own(tmp_path):
    sweep(tmp_path, overrides=["protocol=published"])
    sweep(tmp_path, overrides=["protocol=grouped"], protocol="grouped")
    tables = tables_of(summarise([tmp_path]))
    assert "protocol=published" in set(tables["results"]["model"])
    assert "protocol=grouped" in set(tables["results_grouped"]["model"])
    assert "protocol=grouped" not in set(tables["results"]["model"])


def test_the_test_counts_what_was_trained_on(tmp_path):
    """Training pictures that were dropped since they leak are none."""
    kept = counts()
    for cell in kept["train"].values():
        cell["pictures"] = 44
    for name in ("one", "other"):
        sweep(tmp_path, overrides=[f"model={name}"], audit=DROPPED, counts=kept)
    comparison = summarise([tmp_path]).content["comparisons"][0]
    assert comparison["test_train_ratio"] == pytest.approx(36 / 132)


@pytest.mark.parametrize(("skill", "told"), [(0.0, True), (1.0, False)])
def test_what_cannot_be_told_from_chance(skill, told, tmp_path):
    sweep(tmp_path, skill=skill)
    summary = summarise([tmp_path])
    assert (summary.content["groups"][0]["chance"] >= 0.05) == told
    assert ("cannot be told from chance" in said(summary)) == told


def test_a_difference_between_patients_that_training_anew_does_not_bear_out(tmp_path):
    sweep(tmp_path, skill=0.6, overrides=["model=one"])
    sweep(tmp_path, skill=0.6, overrides=["model=same"])
    # better on average, and worse in a fold
    for fold, skill in zip(FOLDS, (0.1, 3.0, 3.0, 0.6, 3.0), strict=True):
        write_run(tmp_path, fold, skill=skill, overrides=["model=wild"])
    pairs = {(c["one"], c["other"]): c for c in summarise([tmp_path]).content["comparisons"]}
    apart, same = pairs["model=one", "model=wild"], pairs["model=one", "model=same"]
    assert apart[PRIMARY]["high"] < 0 and apart[PRIMARY]["p_holm"] > 0.05
    assert "lets networks trained on other pictures differ" in apart["sentence"]
    assert "corrected for" not in apart["sentence"]
    half = apart[PRIMARY]["half"]
    assert f"no mean difference under {half:.2f} can be shown" in apart["sentence"]
    assert "lets networks" not in same["sentence"]
    assert same["sentence"].startswith("No difference")


@pytest.mark.parametrize(
    ("p", "p_holm", "told", "untold"),
    [
        (0.04, 0.35, "corrected for 10 such comparisons it is not", "no mean difference under"),
        (0.20, 0.90, "no mean difference under 0.09", "corrected for"),
        (0.001, 0.01, "b is better of a and b", "No difference"),
    ],
)
def test_why_no_difference_can_be_shown(p, p_holm, told, untold):
    entry = {"difference": -0.1, "low": -0.2, "high": -0.02, "by_fold": [-0.1] * 5, "mean": -0.1}
    entry |= {"half": 0.09, "p": p, "p_holm": p_holm}
    sentence = _sentence({"one": "a", "other": "b", "of": 10, PRIMARY: entry})
    assert told in sentence and untold not in sentence


def test_baselines_are_compared_each_by_itself(tmp_path):
    sweep(tmp_path, skill=2.5)
    summary = summarise([tmp_path])
    (comparison,) = summary.content["comparisons"]
    assert comparison["other"] == "majority class (baseline)"
    assert comparison["sentence"].startswith("lenet is better of lenet and majority class")
    assert comparison["sentence"] in verdict(summary)


def test_a_temperature_that_makes_it_worse_is_told(tmp_path):
    def sharpened(split, power):
        def change(table):
            p = table[[f"p_{c}" for c in CLASSES]].to_numpy()
            p = np.where((table["split"] == split).to_numpy()[:, None], p**power, p)
            return table.assign(
                **dict(zip([f"p_{c}" for c in CLASSES], (p.T / p.sum(1)), strict=True))
            )

        return change

    for split, does in ((None, "no difference"), ("val", "worse"), ("both", "better")):
        folders = sweep(tmp_path / str(split), skill=1.5)
        for folder in folders if split else []:
            for one in ("val", "test") if split == "both" else (split,):
                rewrite(folder, sharpened(one, 5.0))
        text = said(summarise([tmp_path / str(split)]))
        assert ("makes it worse" in text) == (does == "worse"), split
        assert ("makes it better" in text) == (does == "better"), split


def test_probabilities_are_held_against_the_classes_shares(tmp_path):
    sweep(tmp_path / "good", skill=2.0)
    assert "better than always saying" in said(summarise([tmp_path / "good"]))
    for folder in sweep(tmp_path / "bad", skill=0.0):
        sure = {f"p_{c}": (c == "Healthy") * 0.97 + 0.01 for c in CLASSES}
        rewrite(folder, lambda table, sure=sure: table.assign(prediction="Healthy", **sure))
    assert "no better than always saying" in said(summarise([tmp_path / "bad"]))


def test_a_photograph_under_two_names_counts_once(tmp_path):
    def join(table):
        twin = table["image"] == "Healthy/P5_1.jpg"
        pictures = table["image"].where(~twin, "Healthy/P0_0.jpg")
        joined = table["patient"].where(table["patient"] != "Healthy/P5", "Healthy/P0")
        return table.assign(picture=pictures, patient=joined)

    folders = sweep(tmp_path)
    before = summarise([tmp_path])
    assert "another file holds" not in said(before)
    for folder in folders:
        rewrite(folder, join)
    after = summarise([tmp_path])
    (old,), (new,) = (summary.content["groups"] for summary in (before, after))
    assert (old["pictures"], old["patients"]) == (120, 60)
    assert (new["pictures"], new["patients"]) == (119, 59)
    assert new["per_class"]["Healthy"]["support"] == 39 and "1 file(s) hold" in said(after)


def test_seeds_never_count_as_pictures(tmp_path):
    sweep(tmp_path, seeds=(1, 2, 3), skill=0.5)
    summary = summarise([tmp_path])
    (group,) = summary.content["groups"]
    matrix = np.array(group["confusion"])
    assert matrix.dtype.kind == "f" and (matrix == matrix.round()).all() and matrix.sum() == 120
    assert sum(count for _, _, count in group["confused"]) <= 120 - np.trace(matrix)
    called = summary.groups[0].averaged
    assert called["image"].is_unique and (matrix.sum(1) == 40).all()


@pytest.mark.parametrize(("seeds", "few"), [((1, 2), True), ((1, 2, 3), False)])
def test_few_seeds(seeds, few, tmp_path):
    sweep(tmp_path, seeds=seeds)
    assert ("fewer than three" in said(summarise([tmp_path]))) == few


def test_classes_of_few_patients(tmp_path):
    few = [p for p in PICTURES if not p.startswith("Healthy") or int(p.split("/P")[1][:1]) < 3]
    few = [p for p in few if not p.startswith("Healthy") or "_" in p.split("/P")[1][:2]]
    sweep(tmp_path / "all")
    for fold in FOLDS:
        tested = [p for p in few if int(p.split("/P")[1].split("_")[0]) % 5 == fold - 1]
        write_run(tmp_path / "few", fold, tests=tested)
    told = "numbers say little: Healthy."
    assert told not in said(summarise([tmp_path / "all"]))
    summary = summarise([tmp_path / "few"])
    assert told in said(summary)
    recall = summary.content["groups"][0]["per_class"]["Healthy"]["recall"]
    assert np.isnan(recall[1:]).all() and not np.isnan(recall[0])


def test_thresholds_say_whose_they_are(tmp_path):
    folders = sweep(tmp_path, seeds=(1, 2))
    assert "No threshold could be chosen" not in said(summarise([tmp_path]))
    rewrite(folders[2], lambda t: t[(t["split"] == "test") | (t["label"] != "Monkeypox")])
    summary = summarise([tmp_path])
    assert "0.5 was taken, in fold 2, seed 1." in said(summary)
    table = tables_of(summary)["thresholds"]
    assert list(table["fold"].unique()) == list("12345") and len(table) == 10
    row = table[(table["fold"] == "2") & (table["seed"] == "1")].iloc[0]
    assert row["threshold"] == "0.500 (not chosen)" and row.iloc[3].endswith("(0)")


@pytest.mark.parametrize("folds", [1, 5])
def test_networks_trained_anew_need_several_folds(folds, tmp_path):
    sweep(tmp_path, folds=range(1, folds + 1))
    text = said(summarise([tmp_path], folds=folds))
    assert ("for networks trained anew (mean over folds" in text) == (folds > 1)
    assert ("Two 95 % intervals" in text) == (folds > 1)
    assert ("of one fold nothing tells" in text) == (folds == 1)


@pytest.mark.parametrize("monitor", [None, "val/f1_macro"])
def test_which_weights_are_tested(monitor, tmp_path):
    folder = write_run(tmp_path, 1)
    checkpoint = {"monitor": monitor, "mode": "max"}
    configure(folder, callbacks={"checkpoint": checkpoint})
    text = said(summarise([tmp_path], folds=1))
    assert ("The last epoch's weights are tested." in text) == (monitor is None)
    assert ("the epoch with the largest val/f1_macro" in text) == (monitor is not None)


def test_who_labelled_and_who_made_the_splits(tmp_path):
    write_run(tmp_path / "a", 1)
    text = said(summarise([tmp_path / "a"], folds=1))
    assert "who labelled: NOT REPORTED" in text and "who made them: NOT REPORTED" in text
    write_run(tmp_path / "c", 1, splits="make_folds, seed 42")
    text = said(summarise([tmp_path / "c"], folds=1))
    assert "Splits: make_folds, seed 42." in text and "who made them" not in text
    write_run(tmp_path / "b", 1, citation="By hand.", protocol="grouped")
    text = said(summarise([tmp_path / "b"], folds=1))
    assert "By hand." in text and "who labelled" not in text and "who made them" not in text


def test_areas_are_of_one_networks_scores(tmp_path):
    """A network that says the same of all has 0.5, whatever others say of theirs."""
    for number, folder in enumerate(sweep(tmp_path)):
        p = {"p_Chickenpox": 0.1 * number, "p_Healthy": 0.5 - 0.1 * number, "p_Monkeypox": 0.5}

        def change(table, p=p, number=number):
            # the commoner a class, the higher the level
            gone = (table["label"] == "Chickenpox") & (table.index % 6 > number)
            return table[~gone].assign(**p, prediction="Monkeypox")

        rewrite(folder, change)
    summary = summarise([tmp_path])
    (group,) = summary.content["groups"]
    assert group["pooled"]["auroc_macro"][0] == pytest.approx(0.5)
    assert group["per_class"]["Healthy"]["auroc"][0] == pytest.approx(0.5)
    assert group["mean_sd"]["auroc_macro"][0] == pytest.approx(0.5)


def test_the_area_is_one_number_in_tables_and_figures(tmp_path):
    sweep(tmp_path, seeds=(1, 2))
    summary = summarise([tmp_path])
    (group,) = summary.groups
    value = group.content["pooled"]["auroc_macro"][0]
    assert value == pytest.approx(group.by_run["auroc_macro"].mean())
    by_class = [v["auroc"][0] for v in group.content["per_class"].values()]
    assert value == pytest.approx(np.mean(by_class))


def test_every_table_of_the_page_has_a_title(tmp_path):
    sweep(tmp_path)
    write_run(tmp_path, "leaking", skill=9, tests=PICTURES)
    summary = summarise([tmp_path])
    write_report(summary, tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    assert page.count('<table class="sortable">') == len(tables_of(summary))
    assert "LEAKING: tested on what was trained on" in page
