"""A summary in plain sentences: the verdict, what must be read first, how the numbers came about, and what is missing."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mpoxcv.evaluation.groups import PRIMARY
from mpoxcv.evaluation.summary import Summary
from mpoxcv.report.figures import SYNTHETIC_NOTE
from mpoxcv.report.tables import NOT_REPORTED, number


def verdict(summary: Summary) -> list[str]:
    """Return the result in plain sentences: each group's, then what the comparisons allow to say."""
    sentences = []
    for group in summary.groups:
        content = group.content
        value, low, high = content["pooled"][PRIMARY]
        chance = 1 / len(content["classes"])
        learnt = "".join(
            f", {name} has {number(values[PRIMARY][0])}"
            for name, values in content["baselines"].items()
            if values[PRIMARY][1] < values[PRIMARY][2]  # the majority vote has no interval
        )
        said = (
            f"{group.name}: balanced accuracy {value:.3f} (95 % interval over patients {low:.3f} to {high:.3f}) on "
            f"{content['pictures']} test pictures of {content['patients']} patients, {len(content['folds'])} fold(s), "
            f"{len(content['seeds'])} seed(s); chance and the majority vote have {chance:.3f}{learnt}."
        )
        if content["protocol"] == "pooled":
            said += " This number says nothing: the network was trained on its test pictures."
        elif content["permuted_labels"]:
            at = (
                "as it must be"
                if content["permutation_control"]
                else "WHICH MEANS A LEAK, OR LUCK: repeat it with seed=1,2,3"
            )
            inside = "holds" if content["permutation_control"] else "does not hold"
            said += f" Its labels were permuted: the interval {inside} chance, {at}."
        elif low <= chance:
            said += " It cannot be told from chance."
        sentences.append(said)
    return sentences + [comparison["sentence"] for comparison in summary.content["comparisons"]]


def warnings_of(summary: Summary) -> list[str]:
    """Return what must be read before the numbers."""
    found = []
    if any(g.content["synthetic"] for g in summary.groups):
        found.append(f"{SYNTHETIC_NOTE}. No number here says anything of patients.")
    for problem in summary.content["problems"]:
        options = " ".join(f"{k}={v}" for k, v in problem["options"].items())
        found.append(f"Fold {problem['fold']} {problem['status']} ({options}): {problem['cause']}")
    for group in summary.groups:
        if any(
            (run["audit"] or {}).get("choice") == "allow" and run["audit"]["leaks"]
            for run in group.content["runs"]
        ):
            found.append(
                f"{group.name}: trained on pictures that leak from Valid or Test (data.leaks=allow)."
            )
        if group.content["protocol"] == "pooled":
            found.append(
                f"{group.name} LEAKS: all folds were pooled, so that its test pictures were trained on."
            )
    protocols = {g.content["protocol"] for g in summary.groups}
    if len(protocols) > 1:
        found.append(
            "The groups come from different protocols: their numbers stand side by side and are not compared."
        )
    compared = {(c["one"], c["other"]) for c in summary.content["comparisons"]}
    for one, other in itertools.combinations(summary.groups, 2):
        if (
            one.content["protocol"] == other.content["protocol"]
            and (one.name, other.name) not in compared
        ):
            found.append(
                f"{one.name} and {other.name} differ in data, folds or classes, and are not compared."
            )
    return found


def notes_of(summary: Summary) -> list[str]:
    """Return what stands below the table of results: the baselines, the spread, and Wilson's interval."""
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
            low, high = wilson
            notes.append(
                f"{content['name']}: Wilson's interval of the accuracy {low:.3f} to {high:.3f}, as if independent."
            )
    return notes


def protocol_of(summary: Summary) -> list[str]:
    """Return how the numbers came about: what was tested on what, and what was chosen where."""
    said = ["Balanced accuracy was named as primary beforehand."]
    for content in (group.content for group in summary.groups):
        said += [sentence for sentence in [_selection(content)] if sentence not in said]
        coverage = content["coverage"]
        lines = [
            f"Data: {content['data']}. {content['citation'] or f'Source and licence: {NOT_REPORTED}.'}"
        ]
        lines.append(
            f"Left out: {', '.join(content['excluded'])}."
            if content["excluded"]
            else "No picture was left out."
        )
        if content["protocol"] != "pooled" and coverage["total"]:
            once = coverage["tested"] == coverage["total"] and not coverage["tested_twice"]
            lines.append(
                f"The test sets of {len(content['folds'])} fold(s) {'' if once else 'do not '}tile the data: "
                f"{coverage['tested']} of {coverage['total']} pictures are tested, {coverage['tested_twice']} of them in "
                "several folds (they count once, as a mean)."
            )
        if audited := _independence(content):
            lines.append(audited)
        said += [line for line in lines if line not in said]
    return said


def _selection(content: Mapping[str, Any]) -> str:
    """Return which checkpoint was tested."""
    metric, end = content["monitor"]
    return (
        f"The checkpoint with the {end} {metric} is tested once."
        if metric
        else "The last epoch's weights are tested."
    )


def _independence(content: Mapping[str, Any]) -> str:
    """Return what the search for leaks found, over all runs of a group; nothing where a run has none."""
    audits = [run["audit"] for run in content["runs"]]
    if not all(audits):
        return ""
    counts: Counter[str] = Counter()
    for one in audits:
        counts.update(one["leaks"])
    dropped, choice = sum(one["dropped"] for one in audits), audits[0]["choice"]
    said = (
        "Independence of the splits: patients, names, equal pixels and likeness were compared between Train and Valid or "
        "Test of each run's fold (strong crops and several changes at once escape the likeness)"
    )
    if not counts:
        return f"{said}; no leak was found."
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    end = (
        "THEY WERE TRAINED ON (data.leaks=allow)"
        if choice == "allow"
        else f"{dropped} training pictures were dropped"
    )
    return f"{said}; found, in training pictures summed over the runs: {kinds}. {end}."


def gaps_of(summary: Summary) -> list[str]:
    """Return what a reviewer looks for and this report does not hold."""
    gaps = [
        "How many configurations were tried before this one: only who ran them knows.",
        "Independence of the splits: near-duplicates between Train, Valid and Test were not looked for.",
        "Negative control: see a run with data.permute_labels=true.",
        "Subgroups: skin tone, age and sex are not in the metadata.",
        "External validation: none. Not for clinical use.",
        "The intervals leave out the variance of training (Bates, Hastie and Tibshirani 2023): they are too narrow.",
    ]
    if all(_independence(g.content) for g in summary.groups):
        gaps = [gap for gap in gaps if not gap.startswith("Independence")]
    if any(g.content["permuted_labels"] for g in summary.groups):
        gaps = [gap for gap in gaps if not gap.startswith("Negative control")]
    if any(len(g.content["seeds"]) < 3 for g in summary.groups):
        gaps.append(
            "Seeds: fewer than three, so that luck in training cannot be told from the folds' spread."
        )
    for group in summary.groups:
        coverage, question = group.content["coverage"], group.content["mpox"]
        if question and question["unchosen"]:
            runs = ", ".join(question["unchosen"])
            gaps.append(
                f"{group.name}: no threshold could be chosen on Valid, so that 0.5 was taken, in {runs}."
            )
        if coverage["never_tested"]:
            gaps.append(
                f"{group.name}: {coverage['never_tested']} of {coverage['total']} pictures are in no test set."
            )
    return gaps
