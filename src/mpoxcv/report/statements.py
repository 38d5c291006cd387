"""A summary in plain sentences: the verdict, the warnings, the protocol, and what is missing."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mpoxcv.evaluation.groups import PRIMARY
from mpoxcv.evaluation.summary import Summary
from mpoxcv.report.figures import SYNTHETIC_NOTE
from mpoxcv.report.tables import NOT_REPORTED, number


def verdict(summary: Summary) -> list[str]:
    """Return each group's result as a sentence, then what the comparisons allow to say."""
    sentences = [_result(group.content) for group in summary.groups]
    return sentences + [comparison["sentence"] for comparison in summary.content["comparisons"]]


def _result(content: Mapping[str, Any]) -> str:
    value, low, high = content["pooled"][PRIMARY]
    chance = 1 / len(content["classes"])
    # The majority vote has no interval.
    baselines = "".join(
        f", {name} has {number(values[PRIMARY][0])}"
        for name, values in content["baselines"].items()
        if values[PRIMARY][1] < values[PRIMARY][2]
    )
    sentence = (
        f"{content['name']}: balanced accuracy {value:.3f} (95 % interval over patients {low:.3f} to {high:.3f}) on "
        f"{content['pictures']} test pictures of {content['patients']} patients, {len(content['folds'])} fold(s), "
        f"{len(content['seeds'])} seed(s); chance and the majority vote have {chance:.3f}{baselines}."
    )
    if content["protocol"] == "pooled":
        return f"{sentence} This number says nothing: the network was trained on its test pictures."
    if content["permuted_labels"]:
        holds, meaning = "does not hold", "WHICH MEANS A LEAK, OR LUCK: repeat it with seed=1,2,3"
        if content["permutation_control"]:
            holds, meaning = "holds", "as it must be"
        return f"{sentence} Its labels were permuted: the interval {holds} chance, {meaning}."
    return f"{sentence} It cannot be told from chance." if low <= chance else sentence


def warnings_of(summary: Summary) -> list[str]:
    """Return what must be read before the numbers."""
    warnings = []
    if any(group.content["synthetic"] for group in summary.groups):
        warnings.append(f"{SYNTHETIC_NOTE}. No number here says anything of patients.")
    for problem in summary.content["problems"]:
        options = " ".join(f"{name}={value}" for name, value in problem["options"].items())
        warnings.append("Fold {fold} {status} ({}): {cause}".format(options, **problem))
    for group in summary.groups:
        audits = [run["audit"] or {} for run in group.content["runs"]]
        if any(audit.get("choice") == "allow" and audit["leaks"] for audit in audits):
            leaks = "trained on pictures that leak from Valid or Test (data.leaks=allow)"
            warnings.append(f"{group.name}: {leaks}.")
        if group.content["protocol"] == "pooled":
            cause = "all folds were pooled, so that its test pictures were trained on"
            warnings.append(f"{group.name} LEAKS: {cause}.")

    if len({group.content["protocol"] for group in summary.groups}) > 1:
        warnings.append(
            "The groups come from different protocols: their numbers stand side by side and are not compared."
        )
    compared = {(pair["one"], pair["other"]) for pair in summary.content["comparisons"]}
    for first, second in itertools.combinations(summary.groups, 2):
        alike = first.content["protocol"] == second.content["protocol"]
        if alike and (first.name, second.name) not in compared:
            difference = "differ in data, folds or classes, and are not compared"
            warnings.append(f"{first.name} and {second.name} {difference}.")
    return warnings


def notes_of(summary: Summary) -> list[str]:
    """Return what stands below the results: the baselines, the spread, and Wilson's interval."""
    notes = [
        "Baselines: the commonest class of Train; and logistic regression on a histogram of colours, which knows no shapes."
    ]
    for content in (group.content for group in summary.groups):
        if spread := content["variance"]:
            notes.append(
                f"{content['name']}: SD of the balanced accuracy between folds {spread['fold']:.3f}, between seeds "
                f"{spread['seed']:.3f}, and what is left {spread['residual']:.3f} (random effects by the method of moments)."
            )
        if wilson := content["wilson_accuracy"]:
            interval = "Wilson's interval of the accuracy {:.3f} to {:.3f}, as if independent"
            notes.append(f"{content['name']}: {interval.format(*wilson)}.")
    return notes


def protocol_of(summary: Summary) -> list[str]:
    """Return how the numbers came about: what was tested on what, and what was chosen where."""
    lines = ["Balanced accuracy was named as primary beforehand."]
    for content in (group.content for group in summary.groups):
        metric, end = content["monitor"]
        lines.append("The last epoch's weights are tested.")
        if metric:
            lines[-1] = f"The checkpoint with the {end} {metric} is tested once."
        origin = content["citation"] or f"Source and licence: {NOT_REPORTED}."
        lines.append(f"Data: {content['data']}. {origin}")
        excluded = ", ".join(content["excluded"])
        lines.append(f"Left out: {excluded}." if excluded else "No picture was left out.")
        coverage = content["coverage"]
        if content["protocol"] != "pooled" and coverage["total"]:
            once = coverage["tested"] == coverage["total"] and not coverage["tested_twice"]
            lines.append(
                f"The test sets of {len(content['folds'])} fold(s) {'' if once else 'do not '}tile the data: "
                f"{coverage['tested']} of {coverage['total']} pictures are tested, {coverage['tested_twice']} of them in "
                "several folds (they count once, as a mean)."
            )
        lines += filter(None, [_independence(content)])
    # What holds for several groups is said once.
    return list(dict.fromkeys(lines))


def _independence(content: Mapping[str, Any]) -> str:
    """Return what the search for leaks found in a group's runs; nothing where a run has none."""
    audits = [run["audit"] for run in content["runs"]]
    if not all(audits):
        return ""
    counts: Counter[str] = Counter()
    for audit in audits:
        counts.update(audit["leaks"])
    searched = (
        "Independence of the splits: patients, names, equal pixels and likeness were compared between Train and Valid or "
        "Test of each run's fold (strong crops and several changes at once escape the likeness)"
    )
    if not counts:
        return f"{searched}; no leak was found."
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    fate = f"{sum(audit['dropped'] for audit in audits)} training pictures were dropped"
    if audits[0]["choice"] == "allow":
        fate = "THEY WERE TRAINED ON (data.leaks=allow)"
    return f"{searched}; found, in training pictures summed over the runs: {kinds}. {fate}."


def gaps_of(summary: Summary) -> list[str]:
    """Return what a reviewer looks for and this report does not hold."""
    contents = [group.content for group in summary.groups]
    gaps = [
        "How many configurations were tried before this one: only who ran them knows.",
        "Independence of the splits: near-duplicates between Train, Valid and Test were not looked for.",
        "Negative control: see a run with data.permute_labels=true.",
        "Subgroups: skin tone, age and sex are not in the metadata.",
        "External validation: none. Not for clinical use.",
        "The intervals leave out the variance of training (Bates, Hastie and Tibshirani 2023): they are too narrow.",
        "Seeds: fewer than three, so that luck in training cannot be told from the folds' spread.",
    ]
    filled = {
        "Independence of the splits": all(map(_independence, contents)),
        "Negative control": any(content["permuted_labels"] for content in contents),
        "Seeds": all(len(content["seeds"]) >= 3 for content in contents),
    }
    gaps = [gap for gap in gaps if not filled.get(gap.partition(":")[0])]

    for content in contents:
        name, coverage, question = content["name"], content["coverage"], content["mpox"]
        if question and question["unchosen"]:
            threshold = "no threshold could be chosen on Valid, so that 0.5 was taken"
            gaps.append(f"{name}: {threshold}, in {', '.join(question['unchosen'])}.")
        if coverage["never_tested"]:
            untested = f"{coverage['never_tested']} of {coverage['total']}"
            gaps.append(f"{name}: {untested} pictures are in no test set.")
    return gaps
