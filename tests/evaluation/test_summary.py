import json
import os

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from mpoxcv.errors import UserError
from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.process import whoami
from mpoxcv.evaluation.runs import tells_apart
from mpoxcv.evaluation.summary import summarise
from mpoxcv.report.curves import curve, reliability
from mpoxcv.report.figures import confusion_figure
from mpoxcv.report.report import print_summary, write_report
from mpoxcv.report.statements import notes_of, warnings_of
from mpoxcv.storage.files import write_json

CLASSES = ["Chickenpox", "Healthy", "Monkeypox"]
PICTURES = [f"{name}/P{i}_{j}.jpg" for name in CLASSES for i in range(20) for j in range(2)]


def write_run(root, fold, seed=0, skill=1.0, overrides=(), status="finished", tests=None, **data):
    """Write what a run leaves: it tests a fifth of the patients, or the pictures in ``tests``."""
    folder = root / f"fold={fold},seed={seed}{''.join(overrides).replace('/', '_')}"
    (folder / ".hydra").mkdir(parents=True)
    config = {
        "fold": fold,
        "seed": seed,
        "name": "lenet",
        "positive_class": "Monkeypox",
        "extra": list(overrides),
    }
    (folder / ".hydra/config.yaml").write_text(
        yaml.safe_dump(config | {"data": {"root": "nowhere"}})
    )
    (folder / ".hydra/overrides.yaml").write_text(
        yaml.safe_dump([f"fold={fold}", f"seed={seed}", *overrides])
    )
    described = {
        "name": "msld_v2",
        "synthetic": False,
        "protocol": "published",
        "permuted_labels": False,
        "fold": fold,
    }
    described |= {"fingerprint": f"print{fold}", "counts": counts()}
    described |= {"originals": {"train": 198, "val": 42, "test": 36}} | data
    provenance = {
        "status": status,
        "data": described,
        "command": "python scripts/train.py",
        "packages": {},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    if status != "finished":
        return folder
    rng = np.random.default_rng([fold if isinstance(fold, int) else 9, seed, round(skill * 10)])
    test = tests or [
        p
        for p in PICTURES
        if int(p.split("/P")[1].split("_")[0]) % 5 == (fold - 1 if isinstance(fold, int) else 0)
    ]
    val = [p for p in PICTURES if p not in test][::7]
    parts = []
    for split, pictures in (("val", val), ("test", test)):
        labels = [p.split("/")[0] for p in pictures]
        logits = (
            rng.normal(size=(len(pictures), 3))
            + skill * np.eye(3)[[CLASSES.index(x) for x in labels]]
        )
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        table = pd.DataFrame(
            {
                "image": pictures,
                "patient": [x.rpartition("_")[0] for x in pictures],
                "data": "msld_v2",
            }
        )
        table = table.assign(
            fold=fold, split=split, label=labels, prediction=[CLASSES[i] for i in p.argmax(1)]
        )
        parts.append(
            pd.concat([table, pd.DataFrame(p, columns=[f"p_{c}" for c in CLASSES])], axis=1)
        )
    table = pd.concat(parts)
    table.to_csv(folder / "predictions.csv", index=False)
    one = parts[1]
    metrics = {
        "accuracy": (one.label == one.prediction).mean(),
        "f1_macro": f1_score(one.label, one.prediction, average="macro"),
    }
    metrics["balanced_accuracy"] = balanced_accuracy_score(one.label, one.prediction)
    (folder / "metrics.json").write_text(json.dumps({f"test/{k}": v for k, v in metrics.items()}))
    baseline = table.assign(prediction="Healthy", p_Chickenpox=0.3, p_Healthy=0.4, p_Monkeypox=0.3)
    baseline.assign(model="majority class").to_csv(folder / "baselines.csv", index=False)
    return folder


def counts():
    sizes = {"train": 66, "val": 14, "test": 12}
    return {
        s: {c: {"pictures": n, "copies": 0, "patients": n} for c in CLASSES}
        for s, n in sizes.items()
    }


@pytest.mark.parametrize(
    ("option", "another"),
    [("callbacks.early_stopping.patience", True), ("callbacks.figures", False), ("callbacks.figures.folder", False),
     ("data.root", False), ("data.batch_size", True), ("debug", False), ("optimizer", True)],
)  # fmt: skip
def test_which_options_make_another_experiment(option, another):
    assert tells_apart(option) is another


def read(folder):
    return pd.read_csv(folder / "predictions.csv").query("split == 'test'")


def test_five_folds_are_pooled_and_averaged(tmp_path):
    folders = [write_run(tmp_path, fold) for fold in range(1, 6)]
    content = summarise([tmp_path]).content
    (group,) = content["groups"]
    rows = pd.concat(map(read, folders))
    assert content["complete"] and content["problems"] == [] and len(rows) == 120
    p = rows[[f"p_{c}" for c in CLASSES]]
    labels = rows.label.map(CLASSES.index)
    expected = {
        "accuracy": accuracy_score(rows.label, rows.prediction),
        "balanced_accuracy": balanced_accuracy_score(rows.label, rows.prediction),
        "f1_macro": f1_score(rows.label, rows.prediction, average="macro"),
        # scores of different networks are not ranked against each other
        "auroc_macro": np.mean(
            [
                roc_auc_score(labels[own], p[own], multi_class="ovr", average="macro")
                for own in (rows["fold"] == fold for fold in range(1, 6))
            ]
        ),
    }
    for name, value in expected.items():
        found, low, high = group["pooled"][name]
        assert found == pytest.approx(value, abs=1e-9) and low < value < high
    by_fold = [accuracy_score(read(f).label, read(f).prediction) for f in folders]
    assert group["mean_sd"]["accuracy"] == pytest.approx(
        [np.mean(by_fold), np.std(by_fold, ddof=1), 5]
    )
    assert group["baselines"]["majority class"]["balanced_accuracy"][0] == pytest.approx(1 / 3)
    assert np.array(group["confusion"]).sum() == 120
    assert group["coverage"] == {
        "total": 276,
        "tested": 120,
        "tested_twice": 0,
        "never_tested": 156,
        "by_seed": {"0": 120},
    }


def test_a_picture_in_two_test_sets_counts_once(tmp_path):
    write_run(tmp_path, 1, tests=PICTURES[:40] + PICTURES[60:100])
    write_run(tmp_path, 2, tests=PICTURES[20:60] + PICTURES[100:])
    content = summarise([tmp_path], folds=2).content
    (group,) = content["groups"]
    assert np.array(group["confusion"]).sum() == pytest.approx(len(PICTURES))
    assert group["coverage"]["tested_twice"] == 20


def test_the_average_of_all_networks_that_never_saw_a_picture(tmp_path):
    folders = [write_run(tmp_path, fold, seed=seed) for fold in range(1, 6) for seed in (1, 2)]
    rows = pd.concat(map(read, folders))
    averaged = rows.groupby("image").agg({"label": "first", **{f"p_{c}": "mean" for c in CLASSES}})
    predicted = averaged[[f"p_{c}" for c in CLASSES]].to_numpy().argmax(1)
    (group,) = summarise([tmp_path]).content["groups"]
    value, low, high = group["ensemble"]["pooled"]["balanced_accuracy"]
    expected = balanced_accuracy_score(averaged["label"].map(CLASSES.index), predicted)
    assert (
        group["ensemble"]["networks"] == [2, 2]
        and value == pytest.approx(expected)
        and low < value < high
    )
    write_report(summarise([tmp_path]), tmp_path / "out")
    assert "average of its 2 networks" in (tmp_path / "out/tables/results.csv").read_text()


def test_the_report_says_when_no_picture_was_left_out(tmp_path):
    write_run(tmp_path, 1)
    assert "No picture was left out." in report_of(tmp_path)


def report_of(folder):
    write_report(summarise([folder], folds=1), folder / "out")
    return (folder / "out/report.md").read_text()


@pytest.mark.parametrize(
    ("pid", "said"), [(2**22 + 1, "is gone"), (1, "is at work"), (None, "was interrupted")]
)
def test_an_unfinished_run_tells_whether_its_process_lives(tmp_path, pid, said):
    write_run(tmp_path, 1)
    folder = write_run(tmp_path, 2, status="fitting")
    (folder / "job.json").write_text(
        json.dumps({"status": "started", **whoami(), "pid": pid or os.getpid()})
    )
    (problem,) = summarise([tmp_path], folds=2).content["problems"]
    assert problem["status"] == "interrupted" and said in problem["cause"]


def test_missing_failed_and_interrupted_folds_are_named(tmp_path):
    write_run(tmp_path, 1)
    failed = write_run(tmp_path, 2, status="failed")
    (failed / "job.json").write_text(json.dumps({"status": "failed", "cause": "no such picture"}))
    write_run(tmp_path, 3, status="fitting")
    content = summarise([tmp_path]).content
    found = {p["fold"]: (p["status"], p["cause"]) for p in content["problems"]}
    assert not content["complete"] and set(found) == {2, 3, 4, 5}
    assert (
        found[2] == ("failed", "no such picture")
        and found[3][0] == "interrupted"
        and found[5][0] == "never began"
    )
    write_report(summarise([tmp_path]), tmp_path / "out")
    for name in ("report.html", "report.md", "summary.json"):
        assert "no such picture" in (tmp_path / "out" / name).read_text()


def test_folds_that_nobody_asked_for_are_a_note_and_no_warning(tmp_path, capsys):
    for model in ("a", "b"):
        write_run(tmp_path / "runs", 1, overrides=[f"model={model}"])
    write_run(tmp_path / "runs", 2, status="failed", overrides=["model=a"])
    summary = summarise([tmp_path / "runs"])
    [warning] = [w for w in warnings_of(summary) if "are not compared" not in w]
    assert warning.startswith("Fold 2 failed (fold=2 seed=0 model=a)")
    notes = {
        "Without a run, and so without a number: fold 3, 4, 5 (seed=0 model=a).",
        "Without a run, and so without a number: fold 2, 3, 4, 5 (seed=0 model=b).",
    }
    assert notes <= set(notes_of(summary))
    print_summary(summary, tmp_path)
    assert notes <= set(capsys.readouterr().out.splitlines())
    # asked for by a command, it is one
    jobs = [{"fold": str(fold), "model": "b"} for fold in (1, 2)]
    asked = list(warnings_of(summarise([tmp_path / "runs"], jobs)))
    assert any(warning.startswith("Fold 2 never began (fold=2 model=b)") for warning in asked)


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (("mine", "lenet"), ["mine", "optimizer=sgd"]),
        (("mine", "mine"), ["optimizer=adam", "optimizer=sgd"]),
        (("mine", "yours"), ["mine", "yours"]),
    ],
)
def test_a_group_has_the_name_that_it_was_given(names, titles, tmp_path):
    """The model's, the default, is none: it would hide what else differs."""
    for name, optimizer in zip(names, ("adam", "sgd"), strict=True):
        folder = write_run(tmp_path, 1, overrides=[f"optimizer={optimizer}", f"name={name}"])
        config = folder / ".hydra/config.yaml"
        stored = yaml.safe_load(config.read_text()) | {"name": name, "extra": optimizer}
        config.write_text(yaml.safe_dump(stored | {"model": {"name": "lenet"}}))
    groups = summarise([tmp_path]).content["groups"]
    assert [group["name"] for group in groups] == titles


def test_expected_runs_are_those_of_the_command(tmp_path):
    write_run(tmp_path, 1, overrides=["model=a"])
    jobs = [{"fold": "1", "model": "a"}, {"fold": "1", "model": "b"}]
    (problem,) = summarise([tmp_path], jobs).content["problems"]
    assert problem["options"] == {"fold": "1", "model": "b"}


def test_models_are_told_apart_and_compared_with_holm(tmp_path):
    for fold in range(1, 6):
        for skill, model in ((3.0, "good"), (0.2, "bad"), (0.25, "worse")):
            write_run(tmp_path, fold, skill=skill, overrides=[f"model={model}"])
    content = summarise([tmp_path]).content
    assert [g["name"] for g in content["groups"]] == ["model=bad", "model=good", "model=worse"]
    models = [c for c in content["comparisons"] if c["family"] == "models"]
    by_pair = {(c["one"], c["other"]): c for c in models}
    assert len(by_pair) == 3
    clear = by_pair["model=bad", "model=good"]
    assert clear["balanced_accuracy"]["high"] < 0 and clear["balanced_accuracy"]["p_holm"] < 0.05
    assert clear["sentence"].startswith("model=good is better")
    assert by_pair["model=bad", "model=worse"]["sentence"].startswith("No difference")
    assert all(
        c["balanced_accuracy"]["p_holm"] >= c["balanced_accuracy"]["p"] for c in by_pair.values()
    )


def test_groups_are_compared_where_they_tested_the_same_pictures(tmp_path):
    for fold in (1, 2):
        for images, test in (("original", "a"), ("both", "a"), ("augmented", "b")):
            known = {"fingerprint": images, "test_fingerprint": f"{test}{fold}"}
            write_run(tmp_path, fold, overrides=[f"data.train_images={images}"], **known)
    summary = summarise([tmp_path])
    (comparison,) = [c for c in summary.content["comparisons"] if c["family"] == "models"]
    assert {comparison["one"], comparison["other"]} == {
        "data.train_images=both",
        "data.train_images=original",
    }
    assert comparison["test_train_ratio"] == pytest.approx(36 / 198)
    assert sum("are not compared" in warning for warning in warnings_of(summary)) == 2


def test_figures_count_a_picture_once_however_often_it_was_tested(tmp_path):
    for seed in (1, 2, 3):
        for fold in (1, 2):
            write_run(tmp_path, fold, seed, tests=PICTURES[:90])
    (group,) = summarise([tmp_path]).groups
    assert reliability(group.rows)["n"].sum() == pytest.approx(90)
    labels = confusion_figure(group.averaged).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [
        "Chickenpox (40)",
        "Healthy (40)",
        "Monkeypox (10)",
    ]
    area = curve(group.rows, "Healthy", "roc")[2]
    assert area == pytest.approx(group.content["per_class"]["Healthy"]["auroc"][0])


def test_the_drawn_calibration_error_is_the_reported_one():
    sure = [[1.0, 0.0], [0.95, 0.05], [0.2, 0.8], [0.6, 0.4]]
    rows = pd.DataFrame(sure, columns=["p_a", "p_b"]).assign(
        label=["b", "a", "b", "b"], prediction=["a", "a", "b", "a"]
    )
    bins = reliability(rows)
    drawn = (bins["n"] * (bins["right"] - bins["confidence"]).abs()).sum() / 4
    assert drawn == pytest.approx(st.scores([1, 0, 1, 1], sure, np.ones((1, 4)))["ece"][0])


def test_classes_may_be_called_by_numbers(tmp_path):
    for file in (write_run(tmp_path, fold) for fold in (1, 2)):
        for table in ("predictions.csv", "baselines.csv"):
            text = (file / table).read_text()
            for number, name in enumerate(CLASSES):
                text = text.replace(name, str(number))
            (file / table).write_text(text)
    (group,) = summarise([tmp_path]).content["groups"]
    assert group["classes"] == ["0", "1", "2"] and set(group["baselines"]) == {"majority class"}


def test_seeds_are_averaged_and_told_apart_from_folds(tmp_path):
    folders = {(f, s): write_run(tmp_path, f, s) for f in range(1, 6) for s in (1, 2)}
    (group,) = summarise([tmp_path]).content["groups"]
    by_seed = [pd.concat(read(folders[f, s]) for f in range(1, 6)) for s in (1, 2)]
    expected = [accuracy_score(rows.label, rows.prediction) for rows in by_seed]
    assert group["pooled"]["accuracy"][0] == pytest.approx(np.mean(expected))
    assert group["seeds"] == [1, 2] and group["mean_sd"]["accuracy"][2] == 5
    assert set(group["variance"]) and group["pictures"] == 120
    assert group["per_class"]["Healthy"]["support"] == pytest.approx(40)


def test_what_would_count_twice_is_refused(tmp_path):
    write_run(tmp_path / "a", 1)
    write_run(tmp_path / "b", 1)
    with pytest.raises(UserError, match="count twice"):
        summarise([tmp_path])
    folder = write_run(tmp_path / "c", 1)
    table = pd.read_csv(folder / "predictions.csv")
    pd.concat([table, table.tail(1)]).to_csv(folder / "predictions.csv", index=False)
    (problem, *_) = summarise([tmp_path / "a", tmp_path / "c"], folds=1).content["problems"]
    assert "two rows" in problem["cause"]


# the name that it had before
@pytest.mark.parametrize("fold", ["leaking", "pooled"])
def test_what_leaks_says_so_and_never_shares_a_table_or_a_comparison(fold, tmp_path):
    for honest in range(1, 6):
        write_run(tmp_path, honest)
    write_run(tmp_path, fold, skill=9, tests=PICTURES)
    summary = summarise([tmp_path])
    assert summary.content["complete"]
    assert [g["protocol"] for g in summary.content["groups"]] == ["published", "leaking"]
    pairs = {(c["one"], c["other"]) for c in summary.content["comparisons"]}
    assert pairs == {("lenet", "majority class (baseline)")}
    write_report(summary, tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    assert "fold=leaking LEAKS" in text and "fold=pooled" not in text.replace("\\", "")
    for table in ("results", "folds", "per_class", "mpox", "calibration", "data"):
        honest, leaking = (
            (tmp_path / f"out/tables/{table}{suffix}.csv").read_text()
            for suffix in ("", "_leaking")
        )
        assert honest.count("(baseline)") == leaking.count("(baseline)") == (table == "results")
        assert "leaking" not in honest and ("leaking" in leaking or table == "data")


def test_permuted_labels_are_judged(tmp_path):
    for fold in range(1, 6):
        write_run(tmp_path / "chance", fold, skill=0.0, permuted_labels=True)
        write_run(tmp_path / "leak", fold, skill=3.0, permuted_labels=True)
    assert summarise([tmp_path / "chance"]).content["groups"][0]["permutation_control"] is True
    assert summarise([tmp_path / "leak"]).content["groups"][0]["permutation_control"] is False


def test_the_report_is_one_page_with_the_same_tables_for_a_paper(tmp_path):
    for fold in range(1, 6):
        write_run(tmp_path, fold)
    write_report(summarise([tmp_path]), tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    # without the figures: base64 may hold any word
    outside = " ".join(part for part in page.split('"') if not part.startswith("data:"))
    assert (
        'src="http' not in page
        and '<link rel="stylesheet' not in page
        and "http" not in outside.split("<script")[0]
    )
    table = pd.read_csv(tmp_path / "out/tables/results.csv")
    assert list(table["model"]) == ["lenet", "majority class (baseline)"]
    assert "\\toprule" in (tmp_path / "out/tables/results.tex").read_text()
    assert (
        len(pd.read_csv(tmp_path / "out/folds.csv")) == 5
        and len(pd.read_csv(tmp_path / "out/predictions.csv")) == 120
    )
    markdown = (tmp_path / "out/report.md").read_text()
    for cell in table.loc[0, ["balanced accuracy", "macro F1"]]:
        assert cell in page.replace("\u00a0", " ") and cell in markdown


def test_a_run_that_was_made_again_is_read_again(tmp_path):
    folders = [write_run(tmp_path, fold) for fold in range(1, 6)]
    before = summarise([tmp_path]).content
    assert summarise([tmp_path]).content == before
    table = pd.read_csv(folders[0] / "predictions.csv")
    table.assign(prediction="Healthy").to_csv(folders[0] / "predictions.csv", index=False)
    (after,) = summarise([tmp_path]).content["groups"]
    assert (
        after["mpox"] != before["groups"][0]["mpox"]
        or after["confusion"] != before["groups"][0]["confusion"]
    )
    write_json(folders[1] / "provenance.json", {"status": "failed", "error": "broken"})
    assert [problem["fold"] for problem in summarise([tmp_path]).content["problems"]] == [2]
