"""Where files are opened, written and removed, and configs built: each place, and what it trusts.

A new place fails here, so that somebody thinks of strangers before it is added to the list.
"""

import ast
import re
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "mpoxcv"
# a call's last name: where it may stand, and why that is safe
TRUSTED = {
    "instantiate": {
        "commands/search.py": "the user's own composed config",
        "commands/train.py": "the user's own composed config, or parts as in predict",
        "training/classifier.py": "a part that stored_config.instantiable let pass",
        "training/loggers.py": "the user's own composed config",
        "use/stored_run.py": "parts that stored_config.instantiable let pass",
    },
    "open": {
        "cli.py": "os.devnull",
        "datasets/unzip.py": "x below a new folder, under a name that refusal() let pass",
        "models/weights.py": "a regular file that the config names, whose bytes are hashed",
        "pictures/tree.py": "twelve bytes of a regular file",
        "storage/files.py": "the one reader, and the one writer",
        "training/callbacks/figures.py": "a figure that was just written",
    },
    "rglob": {
        "datasets/fetch.py": "kagglehub's cache", "use/stored_run.py": "the user's run=DIR",
        "evaluation/runs.py": "the user's runs=DIR", "report/report.py": "the user's data.root=DIR",
        "training/callbacks/provenance.py": "this package",
    },
    "glob": {
        "pictures/tree.py": "the user's images=",
        "data/features.py": "the user's cache_dir", "models/weights.py": "an installed package",
        "pictures/cache.py": "the user's cache_dir",
    },
    "unlink": {
        "pictures/cache.py": "what a killed process left in the user's cache_dir, under its lock",
        "storage/checkpoint_io.py": "previous.ckpt beside the one written; .ckpt in the run's folder",
        "storage/files.py": "the writer's own temporary file",
        "commands/export.py": "the file that was just written to the user's output",
    },
    "rmtree": {"datasets/folds.py": "the maker's own temporary folder beside the user's output"},
    "write_bytes": {"storage/files.py": "write_linked: in the maker's own temporary folder"},
    "write_text": {},
    "copyfile": {"datasets/fetch.py": "kagglehub's cache, into a temporary folder"},
    "copyfileobj": {"datasets/unzip.py": "into a file that was opened by x"},
    "read_bytes": {
        "datasets/make_folds.py": "pictures that were decoded",
        "pictures/cache.py": "storage.files'", "pictures/images.py": "storage.files'",
        "storage/files.py": "storage.files'", "storage/stored_config.py": "storage.files'",
        "training/callbacks/provenance.py": "this package, and the run's own best.ckpt",
    },
    "read_text": {
        "datasets/published.py": "this package",
        "training/callbacks/provenance.py": "the system's /proc/cpuinfo",
    },
    "read_csv": {
        "data/protocol.py": "opened()", "evaluation/predictions.py": "opened()",
        "pictures/patients.py": "opened()", "report/tables.py": "this package",
    },
    "memmap": {"storage/arrays.py": "opened(), of the size that the file has"},
    "savefig": {"report/figures.py": "replacing()'s stream, or memory"},
    "to_csv": {"storage/files.py": "text", "evaluation/summary.py": "text"},
    "system": {}, "fromfile": {},
    "run": {"training/callbacks/provenance.py": "git, in this package's folder"},
    "Popen": {},
    "print": {"terminal.py": "made visible"},
}  # fmt: skip
# methods of rich and others, that are called alike
ALIKE = {"out.print", "session.run", "self.session.run"}


def calls(tree: ast.AST) -> set[str]:
    """Return the last names of what a file calls."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) not in ALIKE:
            names.add(ast.unparse(node.func).rpartition(".")[2])
    return names


def test_every_place_that_touches_files_or_builds_from_configs_is_known():
    found = {name: set() for name in TRUSTED}
    for file in SRC.rglob("*.py"):
        for name in calls(ast.parse(file.read_text())) & TRUSTED.keys():
            found[name].add(file.relative_to(SRC).as_posix())
    known = {name: set(places) for name, places in TRUSTED.items()}
    assert {n: found[n] - known[n] for n in known if found[n] - known[n]} == {}
    assert {n: known[n] - found[n] for n in known if known[n] - found[n]} == {}


def test_numpy_and_torch_load_only_where_nothing_of_a_stranger_is_believed():
    loads = {
        (file.relative_to(SRC).as_posix(), ast.unparse(node.func))
        for file in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and re.search(r"\b(np|torch|json|pickle|yaml|OmegaConf)\.loads?$", ast.unparse(node.func))
    }
    assert loads == {
        ("data/features.py", "np.load"),
        ("storage/checkpoint_io.py", "torch.load"),
        ("storage/files.py", "json.loads"),
    }
