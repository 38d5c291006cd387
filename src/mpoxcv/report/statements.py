"""A summary in plain sentences, each computed from the groups that it speaks of."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mpoxcv.evaluation.groups import PRIMARY
from mpoxcv.evaluation.runs import LEAKING
from mpoxcv.evaluation.summary import Summary
from mpoxcv.report.figures import SYNTHETIC_NOTE
from mpoxcv.report.tables import NOT_REPORTED, interval, number

Content = Mapping[str, Any]
# of log T: the search's ends
BOUNDS = 0.011, 99


def of_groups(groups: Sequence[Content], told: Callable[[Content], Iterable[str]]) -> Iterator[str]:
    """Yield what is told of each group: what holds for all once, the rest with their names."""
    whose: dict[str, list[str]] = {}
    for group in groups:
        for sentence in dict.fromkeys(told(group)):
            whose.setdefault(sentence, []).append(group["name"])
    for sentence, names in whose.items():
        yield sentence if len(names) == len(groups) else f"{'; '.join(names)}: {sentence}"


def verdict(summary: Summary) -> list[str]:
    """Return each group's result as a sentence, then what the comparisons allow to say."""
    results = [_result(group) for group in summary.content["groups"]]
    return results + [comparison["sentence"] for comparison in summary.content["comparisons"]]


def _result(content: Content) -> str:
    value, low, high = content["pooled"][PRIMARY]
    folds, seeds = len(content["folds"]), len(content["seeds"])
    by_seed = content["coverage"]["by_seed"]
    tested = f"{content['pictures']} test pictures of {content['patients']} patients"
    if len(set(by_seed.values())) > 1:
        tested += f" (files a seed: {', '.join(f'{n} by {seed}' for seed, n in by_seed.items())})"
    beside = [f"chance has {1 / len(content['classes']):.3f}"]
    beside += [f"{name} {number(v[PRIMARY][0])}" for name, v in content["baselines"].items()]
    sentence = (
        f"{content['name']}: balanced accuracy {value:.3f} on {tested}, {folds} fold(s), {seeds} seed(s); 95 % interval "
        f"{low:.3f} to {high:.3f} for these networks on other patients"
    )
    mean, least, most = content["procedure"][PRIMARY]
    if least < most:
        sentence += (
            f", {least:.3f} to {most:.3f} for networks trained anew (mean over folds {mean:.3f})"
        )
    sentence += f"; {', '.join(beside)}."
    if content["protocol"] == LEAKING:
        return f"{sentence} This number says nothing: the network was trained on its test pictures."
    if content["permuted_labels"]:
        meaning = "does not hold chance, WHICH MEANS A LEAK, OR LUCK: repeat it with seed=1,2,3"
        if content["permutation_control"]:
            meaning = "holds chance, as it must be"
        return f"{sentence} Its labels were permuted: the interval over patients {meaning}."
    p = content["chance"]
    if p >= 0.05:
        sentence += (
            f" It cannot be told from chance (p = {p:.3f}, labels permuted among the patients)."
        )
    return sentence


def warnings_of(summary: Summary) -> Iterator[str]:
    """Yield what must be read before the numbers."""
    groups = summary.content["groups"]
    note = f"{SYNTHETIC_NOTE}. No number here says anything of patients."
    yield from of_groups(groups, lambda group: [note] * group["synthetic"])
    for problem in summary.content["problems"]:
        if problem["asked"]:
            options = " ".join(f"{name}={value}" for name, value in problem["options"].items())
            yield "Fold {fold} {status} ({}): {cause}".format(options, **problem)
    for group in groups:
        name = group["name"]
        if any(audit["choice"] == "allow" and audit["leaks"] for audit in _audits(group)):
            yield f"{name}: trained on pictures that leak from Valid or Test (data.leaks=allow)."
        if group["protocol"] == LEAKING:
            yield f"{name} LEAKS: all folds were put together, so that its test pictures were trained on."

    if len({group["protocol"] for group in groups}) > 1:
        yield "The groups come from different protocols: they have tables of their own, and are not compared."
    compared = [(pair["one"], pair["other"]) for pair in summary.content["comparisons"]]
    for first, second in itertools.combinations(groups, 2):
        names = first["name"], second["name"]
        same = first["protocol"] == second["protocol"] != LEAKING
        if same and names not in compared:
            yield f"{' and '.join(names)} differ in data, folds, patients or classes, and are not compared."


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
    """Yield how to read the results: the intervals, the counting, the baselines, the spread."""
    procedures = [group["procedure"][PRIMARY] for group in summary.content["groups"]]
    if any(low < high for _, low, high in procedures):
        yield (
            "Two 95 % intervals: for these networks on other patients, and for networks trained anew on other pictures. In "
            "simulated cross-validations the first held what training reaches in 89 to 96 %, the second in 96 % and more."
        )
    else:
        yield "The intervals hold the networks as they are: of one fold nothing tells what others, trained anew, would reach."
    yield (
        "A picture counts once: a rate is the mean over the seeds, and where pictures are counted or shown (confusion "
        "matrix, most confused, mistakes) each is called by the average of the networks that had it in Test."
    )
    yield from missing_folds(summary)
    yield from of_groups(summary.content["groups"], _group_notes)


def _group_notes(group: Content) -> Iterator[str]:
    if group["baselines"]:
        yield f"Baselines, learnt from Train's original pictures: {', '.join(group['baselines'])}."
    if spread := group["variance"]:
        yield (
            f"SD of the balanced accuracy between folds {spread['fold']:.3f}, between seeds {spread['seed']:.3f}, and what "
            f"is left {spread['residual']:.3f} (random effects by the method of moments)."
        )
    if group["protocol"] != LEAKING:
        yield from _calibration(group["calibration"])
        for sets in group["sets"]:
            by_class = ", ".join(
                f"{n} {hit:.2f} and {size:.2f}" for n, (hit, size) in sets["classes"].items()
            )
            yield (
                f"Sets of classes that should hold the true one with {sets['level']:.0%} (CV+, each test picture's from the "
                f"other patients): they do in {interval(sets['coverage'])}, with {sets['size'][0]:.2f} classes on average; by "
                f"class, coverage and size: {by_class}."
            )


def _calibration(calibration: Content) -> Iterator[str]:
    """Yield what a temperature does, and whether the probabilities beat the classes' shares."""
    before, loss = calibration["before"]["log_loss"], calibration["shares"]["log_loss"]
    than = "no better than" if before[0] >= loss else "better than"
    yield (
        f"Log loss {interval(before)}: {than} always saying the tested classes' shares ({loss:.3f}); Brier score "
        f"{number(calibration['before']['brier'][0])}, of the shares {number(calibration['shares']['brier'])}."
    )
    temperatures, val = calibration["temperatures"], calibration["val"]
    if not min(val):
        yield "No temperature: Valid has no picture of other patients than Test's."
        return
    change, low, high = calibration["change"]["log_loss"]
    does = (
        "makes it better"
        if high < 0
        else "makes it worse"
        if low > 0
        else "makes no difference that can be shown"
    )
    bound = any(not BOUNDS[0] < t < BOUNDS[1] for t in temperatures)
    yield (
        f"A temperature ({min(temperatures):.2f} to {max(temperatures):.2f}, fitted on {min(val)} to {max(val)} pictures of "
        f"all folds' Valid, without the patients of the fold's Test) {does}: log loss changes by {change:+.3f} "
        f"({low:+.3f} to {high:+.3f}).{' At least one lies at the bounds of the search, 0.01 and 100.' * bound}"
    )


def protocol_of(summary: Summary) -> Iterator[str]:
    """Yield how the numbers came about: what was tested on what, and what was chosen where."""
    yield "Balanced accuracy is primary in every report of this program, whatever the results."
    yield from of_groups(summary.content["groups"], _group_protocol)


def _group_protocol(group: Content) -> Iterator[str]:
    metric, end = group["monitor"]
    chosen = f"The weights of the epoch with the {end} {metric} are tested."
    yield chosen if metric else "The last epoch's weights are tested."
    if weights := group["weights"]:
        told = ("source", "licence", "sha256")
        source, licence, sha256 = (weights.get(key) or NOT_REPORTED for key in told)
        trained = {"head": "its head alone was trained", "all": "all of it was trained on"}
        part = trained.get(group["trained"], "its last parts were trained with the head")
        yield f"The network began with {source} (licence {licence}, SHA-256 {sha256}); {part}."
    yield f"Data: {group['data']}. {group['citation'] or f'Source, licence and who labelled: {NOT_REPORTED}.'}"
    makers = {
        "grouped": "made anew by this program, by patient and class",
        LEAKING: "all folds together, which leaks",
    }
    known = group["splits"] or f"as they lie on disk; who made them: {NOT_REPORTED}"
    yield f"Splits: {makers.get(group['protocol'], known)}."

    if excluded := ", ".join(group["excluded"]):
        yield f"Left out by option: {excluded}."
    if dropped := sum(audit["dropped"] for audit in _audits(group)):
        yield f"Left out since they leak: {dropped} training pictures and copies, summed over the runs."
    if not excluded and not dropped:
        yield "No picture was left out."

    coverage = group["coverage"]
    tested, total, twice = coverage["tested"], coverage["total"], coverage["tested_twice"]
    if group["protocol"] != LEAKING and total:
        whole = tested == total and not twice and set(coverage["by_seed"].values()) == {total}
        yield (
            f"The test sets of {len(group['folds'])} fold(s) {'tile' if whole else 'do not tile'} the data: {tested} of "
            f"{total} files are tested, {twice} of them in several folds (they count once, as a mean)."
        )
    if twins := group["files"] - group["pictures"]:
        yield f"{twins} file(s) hold a photograph that another file holds, and count with it; its patients are one."
    if independence := _independence(group):
        yield independence


def _audits(group: Content) -> list[Mapping[str, Any]]:
    return [run["audit"] for run in group["runs"] if run["audit"]]


def _independence(content: Content) -> str:
    """Return what the search for leaks found in a group's runs; nothing where a run has none."""
    audits = _audits(content)
    if len(audits) < len(content["runs"]):
        return ""
    searched = (
        "Independence of the splits: patients, names, equal pixels and likeness were compared between Train and Valid or "
        "Test of each run's fold (small insets and several changes at once may escape the likeness)"
    )
    found, suspected = (
        sum((Counter(audit.get(degree) or {}) for audit in audits), Counter[str]())
        for degree in ("leaks", "suspected")
    )
    said = "no leak was found"
    if found:
        fates = {"allow": "THEY WERE TRAINED ON (data.leaks=allow)", "drop": "they were dropped"}
        chosen = {fates.get(audit["choice"], "?") for audit in audits if audit["leaks"]}
        fate = ", ".join(sorted(chosen))
        said = f"found, in training pictures summed over the runs: {_kinds(found)}; {fate}"
    if suspected:
        said += f"; merely suspected, and trained on: {_kinds(suspected)}"
    return f"{searched}; {said}."


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())


def gaps_of(summary: Summary) -> Iterator[str]:
    """Yield what a reviewer looks for and this report does not hold."""
    groups = summary.content["groups"]
    yield f"How many configurations were tried, and how often the test sets were read before: {NOT_REPORTED}."
    yield from of_groups(groups, _group_gaps)
    if not any(group["permuted_labels"] for group in groups):
        yield f"Negative control: {NOT_REPORTED}; no model here was trained on permuted labels (data.permute_labels=true)."
    yield f"Subgroups (skin tone, age, sex): {NOT_REPORTED}; this program reads no such metadata."
    yield f"External validation: {NOT_REPORTED}. Not for clinical use."


def _group_gaps(group: Content) -> Iterator[str]:
    if not _independence(group):
        yield "Independence of the splits: near-duplicates between Train, Valid and Test were not looked for."
    if len(group["seeds"]) < 3:
        yield "Seeds: fewer than three, so that luck in training cannot be told from the folds' spread."
    if group["mpox"]:
        runs = [row for row in group["mpox"]["thresholds"] if not row["chosen"]]
        if unchosen := ", ".join(f"fold {row['fold']}, seed {row['seed']}" for row in runs):
            yield f"No threshold could be chosen on Valid, and 0.5 was taken, in {unchosen}."
    if never := group["coverage"]["never_tested"]:
        yield f"{never} of {group['coverage']['total']} files are in no test set."
    if few := [name for name, values in group["per_class"].items() if values["few"]]:
        yield f"Of fewer than ten patients, so that their numbers say little: {', '.join(few)}."
