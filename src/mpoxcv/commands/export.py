"""Trained networks, averaged, as an ONNX file that needs neither torch nor mpoxcv."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.progress import track

from mpoxcv.command_line import require_given, require_suffix
from mpoxcv.errors import UserError
from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.predictions import codes
from mpoxcv.pictures.cache import read_file
from mpoxcv.pictures.images import decode
from mpoxcv.terminal import say
from mpoxcv.use.deployed import Deployed, stated
from mpoxcv.use.onnx_file import OnnxFile, quantise, write_onnx
from mpoxcv.use.predictor import Prediction, Predictor
from mpoxcv.use.stored_run import TrainedRun, load_runs

# between the file and torch: of a probability, and of a distance
AGREEMENT = {"probabilities": 1e-4, "distance": 1e-3}


def export(cfg: DictConfig) -> None:
    """Write and check an ONNX file as ``conf/export.yaml`` says.

    Raises:
        UserError: an option is wrong, there is no run, its data are not there, the networks cannot
            be exported, or the file does not give what torch gives.
    """
    require_given(cfg, "export", run="DIR")
    file = Path(str(cfg.output))
    require_suffix("output", file, ".onnx")
    small = file.with_suffix(".int8.onnx")
    for there in [file, small] if cfg.int8 else [file]:
        if there.exists() and not cfg.overwrite:
            ways = "give another output=FILE.onnx, or overwrite=true"
            raise UserError(f"{there} is there, and nothing is overwritten: {ways}.")

    runs = load_runs(str(cfg.run), cfg.trust, cfg.data, cfg.model.weights)
    predictor = Predictor(runs, cfg.temperature)
    # before anything takes long
    tests = [run.files("test", "Checking an export") for run in runs]
    valid = [path for run in runs for path in run.files("val", "int8=true").values()]
    names = [run.folder.name for run in runs]
    write_onnx(Deployed(predictor), stated(predictor, names), file)
    accuracy = _check(file, predictor, tests)
    say(f"Written to {file} ({file.stat().st_size / 2**20:.1f} MiB).")
    if cfg.int8:
        quantise(file, [decode(read_file(path)) for path in dict.fromkeys(valid)], small)
        session = OnnxFile(small)
        outputs = {path: session(decode(read_file(path))[None]) for path in _distinct(tests)}
        now = _held_out_accuracy(runs, tests, outputs)
        say(
            f"Written to {small} ({small.stat().st_size / 2**20:.1f} MiB), in whole numbers of 8 bits: balanced accuracy "
            f"{now:.3f} for {accuracy:.3f} on held-out pictures, each by its own network."
        )


def _distinct(tests: Sequence[Mapping[str, Path]]) -> list[Path]:
    return [*dict.fromkeys(path for files in tests for path in files.values())]


def _check(file: Path, predictor: Predictor, tests: Sequence[Mapping[str, Path]]) -> float:
    """Compare a file with torch on every test picture; return its held-out balanced accuracy."""
    session, paths = OnnxFile(file), _distinct(tests)
    outputs, apart = {}, dict.fromkeys(AGREEMENT, 0.0)
    steps = zip(paths, predictor.predict(paths), strict=True)
    for path, torchs in track(steps, "Checking the file", len(paths), transient=True):
        if not isinstance(torchs, Prediction):
            raise UserError(f"{path} {torchs}.")
        outputs[path] = given = session(decode(read_file(path))[None])
        for name in AGREEMENT:
            difference = np.abs(given[name][0] - getattr(torchs, name)).max()
            apart[name] = max(apart[name], float(np.nan_to_num(difference)))
    said = " and ".join(f"{value:.1g} ({name})" for name, value in apart.items())
    if any(apart[name] > limit for name, limit in AGREEMENT.items()):
        file.unlink()
        raise UserError(f"The file does not give what torch gives, and is not kept: {said} apart.")
    say(f"On {len(paths)} test pictures the file is at most {said} from torch.")
    return _held_out_accuracy(predictor.runs, tests, outputs)


def _held_out_accuracy(
    runs: Sequence[TrainedRun],
    tests: Sequence[Mapping[str, Path]],
    outputs: Mapping[Path, Mapping[str, np.ndarray]],
) -> float:
    """Return the balanced accuracy of each network on its own test pictures, all together."""
    labels, probabilities = [], []
    for i, (run, files) in enumerate(zip(runs, tests, strict=True)):
        rows = run.predictions.query("split == 'test'").set_index("image").loc[[*files]]
        labels += codes(rows, "label").tolist()
        probabilities += [outputs[path]["by_network"][0, i] for path in files.values()]
    scores = st.scores(labels, np.array(probabilities), np.ones((1, len(labels))))
    return float(scores["balanced_accuracy"][0])
