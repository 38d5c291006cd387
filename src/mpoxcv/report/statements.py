"""A summary in plain sentences: the verdict, the warnings, the protocol, and what is missing."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mpoxcv.evaluation.groups import PRIMARY
from mpoxcv.evaluation.summary import Summary
from mpoxcv.report.figures import SYNTHETIC_NOTE
from mpoxcv.report.tables import NOT_REPORTED, number


def verdict(summary: Summary) -> list[str]:
    """Return each group's result as a sentence, then what the comparisons allow to say."""
    results = [_result(group) for group in summary.content["groups"]]
    return results + [comparison["sentence"] for comparison in summary.content["comparisons"]]


def _result(content: Mapping[str, Any]) -> str:
    value, low, high = content["pooled"][PRIMARY]
    chance = 1 / len(content["classes"])
    # The majority vote has no interval.
    values = {name: metrics[PRIMARY] for name, metrics in content["baselines"].items()}
    told = [
        f", {name} has {number(v)}" for name, (v, least, most) in values.items() if least < most
    ]
    sentence = (
        f"{content['name']}: balanced accuracy {value:.3f} (95 % interval over patients {low:.3f} to {high:.3f}) on "
        f"{content['pictures']} test pictures of {content['patients']} patients, {len(content['folds'])} fold(s), "
        f"{len(content['seeds'])} seed(s); chance and the majority vote have {chance:.3f}{''.join(told)}."
    )
    if content["protocol"] == "pooled":
        return f"{sentence} This number says nothing: the network was trained on its test pictures."
    if content["permuted_labels"]:
        meaning = "does not hold chance, WHICH MEANS A LEAK, OR LUCK: repeat it with seed=1,2,3"
        if content["permutation_control"]:
            meaning = "holds chance, as it must be"
        return f"{sentence} Its labels were permuted: the interval {meaning}."
    return f"{sentence} It cannot be told from chance." if low <= chance else sentence


def warnings_of(summary: Summary) -> Iterator[str]:
    """Yield what must be read before the numbers."""
    groups = summary.content["groups"]
    if any(group["synthetic"] for group in groups):
        yield f"{SYNTHETIC_NOTE}. No number here says anything of patients."
    for problem in summary.content["problems"]:
        if problem["asked"]:
            options = " ".join(f"{name}={value}" for name, value in problem["options"].items())
            yield "Fold {fold} {status} ({}): {cause}".format(options, **problem)
    for group in groups:
        name = group["name"]
        audits = [run["audit"] or {} for run in group["runs"]]
        if any(audit.get("choice") == "allow" and audit["leaks"] for audit in audits):
            yield f"{name}: trained on pictures that leak from Valid or Test (data.leaks=allow)."
        if group["protocol"] == "pooled":
            yield f"{name} LEAKS: all folds were pooled, so that its test pictures were trained on."

    if len({group["protocol"] for group in groups}) > 1:
        yield "The groups come from different protocols, and are not compared."
    compared = [(pair["one"], pair["other"]) for pair in summary.content["comparisons"]]
    for first, second in itertools.combinations(groups, 2):
        names = first["name"], second["name"]
        if first["protocol"] == second["protocol"] and names not in compared:
            yield f"{' and '.join(names)} differ in data, folds or classes, and are not compared."


def missing_folds(summary: Summary) -> Iterator[str]:
    """Yield which folds have no run that nobody asked for: a fact, and no warning."""
    folds: dict[str, list[str]] = {}
    for problem in (problem for problem in summary.content["problems"] if not problem["asked"]):
        others = [f"{k}={v}" for k, v in problem["options"].items() if k not in ("fold", "seed")]
        options = " ".join([f"seed={problem['seed']}", *others])
        folds.setdefault(options, []).append(str(problem["fold"]))
    for options, missing in folds.items():
        yield f"Without a run, and so without a number: fold {', '.join(missing)} ({options})."


def notes_of(summary: Summary) -> Iterator[str]:
    """Yield what stands below the results: the baselines, the missing folds, and the spread."""
    yield "Baselines: the commonest class of Train; and logistic regression on colours, which knows no shapes."
    yield from missing_folds(summary)
    for group in summary.content["groups"]:
        if spread := group["variance"]:
            yield (
                f"{group['name']}: SD of the balanced accuracy between folds {spread['fold']:.3f}, between seeds "
                f"{spread['seed']:.3f}, and what is left {spread['residual']:.3f} (random effects by the method of moments)."
            )


def protocol_of(summary: Summary) -> Iterator[str]:
    """Yield how the numbers came about: what was tested on what, and what was chosen where."""
    yield "Balanced accuracy was named as primary beforehand."
    for group in summary.content["groups"]:
        metric, end = group["monitor"]
        chosen = f"The checkpoint with the {end} {metric} is tested once."
        yield chosen if metric else "The last epoch's weights are tested."
        if weights := group["weights"]:
            told = ("source", "licence", "sha256")
            source, licence, sha256 = (weights.get(key) or NOT_REPORTED for key in told)
            trained = {"head": "its head alone was trained", "all": "all of it was trained on"}
            part = trained.get(group["trained"], "its last parts were trained with the head")
            yield f"The network began with {source} (licence {licence}, SHA-256 {sha256}); {part}."
        yield f"Data: {group['data']}. {group['citation'] or f'Source and licence: {NOT_REPORTED}.'}"
        excluded = ", ".join(group["excluded"])
        yield f"Left out: {excluded}." if excluded else "No picture was left out."

        coverage = group["coverage"]
        tested, total, twice = coverage["tested"], coverage["total"], coverage["tested_twice"]
        if group["protocol"] != "pooled" and total:
            tile = "tile" if tested == total and not twice else "do not tile"
            yield (
                f"The test sets of {len(group['folds'])} fold(s) {tile} the data: {tested} of {total} pictures are tested, "
                f"{twice} of them in several folds (they count once, as a mean)."
            )
        if independence := _independence(group):
            yield independence


def _independence(content: Mapping[str, Any]) -> str:
    """Return what the search for leaks found in a group's runs; nothing where a run has none."""
    audits = [run["audit"] for run in content["runs"]]
    if not all(audits):
        return ""
    searched = (
        "Independence of the splits: patients, names, equal pixels and likeness were compared between Train and Valid or "
        "Test of each run's fold (strong crops and several changes at once escape the likeness)"
    )
    counts = sum((Counter(audit["leaks"]) for audit in audits), Counter[str]())
    if not counts:
        return f"{searched}; no leak was found."
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    fate = f"{sum(audit['dropped'] for audit in audits)} training pictures were dropped"
    if audits[0]["choice"] == "allow":
        fate = "THEY WERE TRAINED ON (data.leaks=allow)"
    return f"{searched}; found, in training pictures summed over the runs: {kinds}. {fate}."


def gaps_of(summary: Summary) -> Iterator[str]:
    """Yield what a reviewer looks for and this report does not hold."""
    groups = summary.content["groups"]
    yield "How many configurations were tried before this one: only who ran them knows."
    if not all(map(_independence, groups)):
        yield "Independence of the splits: near-duplicates between Train, Valid and Test were not looked for."
    if not any(group["permuted_labels"] for group in groups):
        yield "Negative control: see a run with data.permute_labels=true."
    yield "Subgroups: skin tone, age and sex are not in the metadata."
    yield "External validation: none. Not for clinical use."
    yield "The intervals leave out the variance of training (Bates, Hastie and Tibshirani 2023): they are too narrow."
    if not all(len(group["seeds"]) >= 3 for group in groups):
        yield "Seeds: fewer than three, so that luck in training cannot be told from the folds' spread."

    for group in groups:
        name, coverage, question = group["name"], group["coverage"], group["mpox"]
        if question and question["unchosen"]:
            runs = ", ".join(question["unchosen"])
            yield f"{name}: no threshold could be chosen on Valid, and 0.5 was taken, in {runs}."
        if coverage["never_tested"]:
            yield f"{name}: {coverage['never_tested']} of {coverage['total']} pictures are in no test set."
