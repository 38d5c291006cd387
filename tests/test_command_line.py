"""Paths as people type them, and commands as we print them: every one must parse and compose."""

import ast
import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from conftest import (
    CLASSES,
    PATTERN,
    PROJECT,
    assert_composes,
    printed_commands,
    write_picture,
    write_tree,
)  # fmt: skip
from mpoxcv.command_line import LISTS, PATHS, TEXTS, as_typed, setting
from mpoxcv.errors import did_you_mean
from mpoxcv.explain import options_of

NAMES = [
    "pics (1)", "müller", "猴痘", "John's pics", "Skin & Lesion", "a,b", "{x}", "null", "1e3", "[x]", " leading",
    "trailing ", "Colab Notebooks/run/fold=1", "IMG_1, copy.jpg", "a=b", "back\\slash", "at the end\\", 'say "x"',
    "true", "12", "1.5", "a b", "x#y", "50%", "a:b", "$HOME", "a;b", "`x`", "*", "what?", "!x", "^x", "-x", "+x",
    "~x", "x~", "@x", "a|b", "<x>", "choice(a,b)", "'quoted'", '"quoted"', "\\'", "nan", "...", "${x}", "(", "]",
    unicodedata.normalize("NFD", "Röteln"), "a.b_c-d",
]  # fmt: skip
DATA = [f"data.classes=[{','.join(CLASSES)}]", f"data.name_pattern={PATTERN}"]
QUICK = [
    "trainer=cpu", "trainer.max_epochs=1", "logger=none", "callbacks.progress=null", "callbacks.figures=null",
    "callbacks.samples=null", "callbacks.baselines=null",
]  # fmt: skip
PATH_OPTIONS = [
    "output",
    "run",
    "images",
    "hydra.sweep.dir",
    "data.split_file",
    "callbacks.x.dirpath",
]
VERBS = [file.stem for file in sorted((PROJECT / "scripts").glob("*.py"))]
# what stands for a value of the user's own in a message
EXAMPLE = "X"


@pytest.fixture(scope="module")
def one_fold(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("one_fold") / "set", folds=1, pictures=1, aug=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_taken_as_it_is_typed(name, one_fold, run_script, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to(one_fold)
    # those two are not there yet; of what is not, ${x} is an interpolation
    options = [f"data.cache_dir={name}_cache", f"report={name}_1.html"] if "${" not in name else []
    done = run_script("get_data", "folds=1", *DATA, f"data.root={name}", *options)
    assert done.code == 0, done.err
    for option in options:
        assert (tmp_path / option.partition("=")[2]).exists()


def read(*arguments: str) -> object:
    """Return the last argument's value as Hydra reads it."""
    options = dict.fromkeys(PATH_OPTIONS, "???") | {"ckpt_path": None}
    *_, argument = as_typed(arguments, lambda: options)
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("option", PATH_OPTIONS)
def test_names_that_are_not_there_yet(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [n for n in NAMES if n not in ("'quoted'", '"quoted"', "choice(a,b)")]:
        assert read(f"{option}={name}") == read("-m", f"{option}={name}") == name


def test_what_is_typed_in_hydras_grammar_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y (1)"):
        (tmp_path / name).mkdir()
    assert read("run='a b'") == "a b"
    assert read("ckpt_path=null") is None and read("+model.weights=null") is None
    assert read("hydra.run.dir=${a.b}") == "${a.b}" and read("data.classes=null") is None
    assert read("hydra.run.dir=logs/${name}/(1)") == "logs/${name}/(1)"
    assert read("runs=[x, y (1),'a,b']") == ["x", "y (1)", "a,b"] and read("runs=x") == ["x"]
    assert read("data.exclude=*/Kaposi's[1-3].jpg") == ["*/Kaposi's[1-3].jpg"]
    assert read("data.root=~/x") == str(Path("~/x").expanduser())
    # of a multirun: two folders that are there, or two names
    assert list(map(str, read("-m", "data.root=x,y (1)").list)) == [
        "x",
        "QuotedString(text='y (1)', quote=<Quote.double: 1>)",
    ]
    assert len(read("-m", "model.name=resnet18,resnet34").list) == 2
    assert read("-m", "data.root=x,z") == "x,z" and read("data.root=x,y (1)") == "x,y (1)"
    assert read("data.root=") == ""


def test_paths_in_conf_are_taken_as_paths():
    """An option whose default is a path, or is asked for, is in one of the lists of paths."""
    metrics = {"monitor", "metric"}
    for verb in VERBS:
        for name, value in options_of(PROJECT / "conf", verb, []).items():
            if isinstance(value, str) and re.search(r"\w/\w|^\?{3}$|[}]/", value):
                assert name.rpartition(".")[2] in PATHS | TEXTS | LISTS | metrics, name


def test_an_option_that_is_printed_is_read_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = OverridesParser.create()
    values = [*NAMES, None, True, 0, 1, 1e-5, ["a", "b, c", "'"], "~/x"]
    for value in values:
        override = parser.parse_override(setting("data.root", value))
        escaped = value.replace("${", "\\${") if isinstance(value, str) else value
        assert override.value() == escaped and not override.is_sweep_override()


def commands_in(output: str) -> list[list[str]]:
    """Return the arguments of the commands in a script's output."""
    return [shlex.split(command)[1:] for command in printed_commands(output)]


def option_in(output: str, name: str) -> str:
    """Return the last option of the name, up to its line's end, as a shell hands it over."""
    *_, text = re.findall(rf" ('?{name}=.*)$", output, re.MULTILINE)
    (option,) = shlex.split(text)
    return option


PLACE = "Skin & Lesion's (1), [x] = {y} 猴痘"


def test_from_pictures_to_a_summary_in_folders_of_any_name(run_script, tmp_path):
    def succeeds(*arguments: str) -> str:
        done = run_script(*arguments)
        assert done.code == 0, done.err
        return done.out

    for number, name in enumerate(("Kaposi's", "Skin (dark), a")):
        for patient in range(6):
            file = tmp_path / PLACE / "pics" / name / f"image[{number}{patient}]_1.jpg"
            write_picture(file, 10 * number + patient, 32)
    folders = [f"source={PLACE}/pics", f"output={PLACE}/set"]
    out = succeeds("make_folds", *folders, "copies=1", "size=32", "n_folds=3")
    ((script, *next_command),) = commands_in(out)
    assert script == "scripts/train.py"

    run = f"{PLACE}/runs, all/one"
    succeeds("train", *next_command, *QUICK, f"hydra.run.dir={run}")
    done = run_script("train", *next_command, *QUICK, f"hydra.run.dir={run}")
    assert done.code == 1
    ((_, *go_on),) = commands_in(done.err)
    assert "nothing to do" in succeeds("train", *go_on)

    succeeds(
        "test", f"run={run}", "trainer=cpu", "callbacks.progress=null", "callbacks.figures=null"
    )
    succeeds("predict", f"run={run}", f"images={PLACE}/pics/Kaposi's", f"output={PLACE}/a, b.csv")
    assert len(pd.read_csv(tmp_path / PLACE / "a, b.csv")) == 6
    succeeds("summarize", f"runs={PLACE}/runs, all", f"output={PLACE}/sum, of all")
    assert (tmp_path / PLACE / "sum, of all/report.html").is_file()


@pytest.mark.slow
def test_a_multirun_in_a_folder_of_any_name(run_script, tree, tmp_path):
    given = [
        f"data.root={tree}",
        *DATA,
        *QUICK,
        "seed=1",
        f"hydra.sweep.dir={PLACE}/runs (old), v2",
    ]
    picture = next((tree / "FOLDS/fold2/Test").rglob("*.jpg"))
    whole = picture.read_bytes()
    picture.write_bytes(b"broken")
    done = run_script("train", "-m", "fold=2,1", *given)
    assert done.code == 1
    for _ in range(2):
        ((script, *go_on),) = commands_in(done.err)
        assert script == "scripts/train.py"
        done = run_script("train", "-m", "fold=1", *given)
        assert done.code == 1
    picture.write_bytes(whole)
    done = run_script("train", *go_on)
    assert done.code == 0 and done.out.count("nothing to do") == 1, done.err
    assert len(list((tmp_path / PLACE / "runs (old), v2").glob("fold=*/metrics.json"))) == 2


def test_a_search_in_a_folder_of_any_name(run_script, tree, tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "my own (conf)/experiment").mkdir(parents=True)
    (tmp_path / "my own (conf)/experiment/mine.yaml").write_text("# @package _global_\nseed: 7\n")
    given = [f"data.root={tree}", *DATA, "trainer=cpu", "trainer.max_epochs=1"]
    given += ["hparams_search.trials=1", "hparams_search.folds=[1]", "experiment=mine"]
    given += [f"hydra.searchpath=[file://{tmp_path}/my own (conf)]", "hydra.run.dir=what? (1)#"]
    done = run_script("search", *given)
    assert done.code == 0, done.err
    assert {"study.db", "trials.csv"} <= {file.name for file in (tmp_path / "what? (1)#").iterdir()}
    ((script, *_),) = commands_in(done.out)
    assert script == "scripts/train.py"


def test_a_multirun_over_folders_of_any_name(run_script, tree, tmp_path):
    (tmp_path / "set (1)").symlink_to(tree)
    given = [*DATA, *QUICK, "hydra.sweep.dir=sweep"]
    done = run_script("train", "-m", "fold=1", f"data.root={tree.name},set (1)", *given)
    # the same pictures under two names, which the summary does not count twice
    assert "Two runs of the same experiment" in done.err and len(commands_in(done.err)) == 1
    assert len(list((tmp_path / "sweep").rglob("metrics.json"))) == 2


@pytest.mark.parametrize(
    "name", ["image[1]_1.jpg", 'say "x"_1.jpg', "Kaposi's_1.jpg", "a, b*?_1.jpg"]
)
def test_the_suggestion_leaves_these_pictures_out(name, run_script, tmp_path):
    for number in range(1, 5):
        write_picture(tmp_path / f"pics/Mpox/M{number}_1.jpg", number)
        write_picture(tmp_path / f"pics/Other/O{number}_1.jpg", 10 + number)
    for broken in (name, f"b{name}"):
        (tmp_path / "pics/Mpox" / broken).write_bytes(b"no picture")
    neighbour = f"Mpox/{re.sub('[][*?]', '', name)}".replace("_1.jpg", "0_1.jpg")
    neighbour = neighbour.replace("image10", "image1")
    write_picture(tmp_path / "pics" / neighbour, 20)
    make = ["make_folds", "source=pics", "output=out", "copies=1", "size=16", "n_folds=3"]
    (tmp_path / "pics/Mpox" / f"b{name}").rename(tmp_path / "later")
    done = run_script(*make)
    assert done.code == 1
    first = option_in(done.err, "data.exclude")
    # what was left out before is left out with what comes to light next
    (tmp_path / "later").rename(tmp_path / "pics/Mpox" / f"b{name}")
    done = run_script(*make, first)
    assert done.code == 1
    both = option_in(done.err, "data.exclude")
    done = run_script(*make, both)
    assert done.code == 0, done.err
    # and no other, as image1_1.jpg would be by image[1]_1.jpg
    assert neighbour in pd.read_csv(tmp_path / "out/folds.csv")["image"].to_list()


def test_the_recommended_name_pattern_works_as_it_is_printed(run_script, tmp_path):
    for number in range(4):
        write_picture(tmp_path / f"pics/Mpox/{'abcd'[number]}.jpg", number)
        write_picture(tmp_path / f"pics/Other/{'efgh'[number]}.jpg", 10 + number)
    make = ["make_folds", "source=pics", "output=out", "copies=1", "size=16", "n_folds=3"]
    done = run_script(*make)
    assert done.code == 1
    pattern = option_in(done.err, "data.name_pattern")
    done = run_script(*make, pattern)
    assert done.code == 0, done.err
    ((_, *next_command),) = commands_in(done.out)
    assert pattern in next_command
    done = run_script("train", *next_command, *QUICK, "debug=fast")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("train data.augment.p=1", "data.augment.p"),
        ("predict model=lenet", "model"),
        (
            "search hparams_search.space.optimizer.lr.high=1",
            "hparams_search.space.optimizer.lr.high",
        ),
    ],
)
def test_a_word_is_not_suggested_for_itself(command, word, run_script):
    done = run_script(*command.split())
    assert f"Did you mean {word!r}" not in done.err


def test_names_are_compared_in_one_unicode_form(run_script, tree):
    composed, decomposed = (unicodedata.normalize(form, "Röteln") for form in ("NFC", "NFD"))
    assert not did_you_mean(composed, [decomposed]) and not did_you_mean(decomposed, [composed])
    assert decomposed in did_you_mean("Rötelm", [decomposed])
    for folder in list(tree.rglob("Cowpox")):
        folder.rename(folder.with_name(decomposed))
    classes = f"data.classes=[Chickenpox,{composed},Measles]"
    options = ["folds=2", f"data.root={tree}", f"data.name_pattern={PATTERN}"]
    assert run_script("get_data", *options, classes).code == 0
    exclude = f"data.exclude=*/{composed}/*"
    assert (
        f"Class {composed} has no folder" in run_script("get_data", *options, classes, exclude).err
    )
    next(tree.rglob(decomposed)).with_name(composed).mkdir()
    assert "two Unicode forms" in run_script("get_data", *options, classes).err


def test_a_path_that_is_not_utf8_is_refused_at_once(run_script, tmp_path):
    done = run_script("train", "data=synthetic", "data.root=m\udcfcller")
    assert done.code == 1 and "not UTF-8" in done.err and "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def test_an_augmentation_takes_the_place_of_none(run_script, tree):
    augment = "data.augment={_target_:torchvision.transforms.v2.RandomRotation,degrees:30}"
    done = run_script("train", f"data.root={tree}", *DATA, *QUICK, "debug=fast", augment)
    assert done.code == 0, done.err
    done = run_script("train", augment.replace("augment", "augmnt"))
    assert done.code == 1 and "Did you mean 'data.augment'" in done.err


@pytest.mark.parametrize(
    "command",
    [
        "predict run=x images=y output=x.xlsx",
        "get_data report=x.pdf",
        "predict run=x images=y output=x",
    ],
)
def test_a_file_is_not_written_under_anothers_name(command, run_script, tmp_path):
    done = run_script(*command.split())
    assert done.code == 1 and "should end in" in done.err
    assert not list(tmp_path.glob("x*"))


def documents() -> Iterator[tuple[str, str]]:
    """Yield each text that a person may take a command from, with its place."""
    for file in [PROJECT / "README.md", *sorted((PROJECT / "conf").rglob("*.yaml"))]:
        yield str(file.relative_to(PROJECT)), file.read_text()
    for file in [
        *sorted((PROJECT / "src").rglob("*.py")),
        *sorted((PROJECT / "scripts").glob("*.py")),
    ]:
        for text in strings_of(ast.parse(file.read_text())):
            yield str(file.relative_to(PROJECT)), text


def strings_of(node: ast.AST) -> Iterator[str]:
    """Yield a module's texts; what is put into an f-string is EXAMPLE."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) else EXAMPLE for v in node.values)
        for value in node.values:
            yield from strings_of(value) if isinstance(value, ast.FormattedValue) else ()
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings_of(child)


def test_every_command_that_is_written_down_composes():
    commands = {c.strip(): place for place, text in documents() for c in printed_commands(text)}
    assert len(commands) > 30
    for command, place in commands.items():
        try:
            assert_composes(command)
        except Exception as error:
            raise AssertionError(f"{place}: {command}") from error


def all_options() -> set[str]:
    """Return the names of all options of all commands, whichever options of groups are chosen."""
    conf = PROJECT / "conf"
    names = {name for verb in VERBS for name in options_of(conf, verb, [])}
    names |= {f"{f.parent.relative_to(conf)}" for f in conf.rglob("*/*.yaml")}
    for file in conf.rglob("*/*.yaml"):
        group = file.parent.relative_to(conf).as_posix().replace("/", ".")
        whole = "_global_" in file.read_text().partition("\n")[0]
        stack = [("" if whole else f"{group}.", yaml.safe_load(file.read_text()) or {})]
        while stack:
            prefix, node = stack.pop()
            names |= {f"{prefix}{key}" for key in node}
            stack += [(f"{prefix}{k}.", v) for k, v in node.items() if isinstance(v, dict)]
    return names


# of Hydra, its plugins, Lightning, torch and networks
OTHERS = re.compile(
    r"hydra[./].*|trainer\.(deterministic|detect_anomaly|precision|devices)|model\.\w+"
)


def test_every_option_that_is_written_down_is_one():
    known = all_options()
    for place, text in documents():
        for match in re.finditer(r"(?<![\w./-])(?:\+?)([a-z_]+(?:[./][a-z_]+)+)=(?!=)", text):
            name = match[1]
            assert name in known or OTHERS.fullmatch(name), f"{place}: {match[0]}"
