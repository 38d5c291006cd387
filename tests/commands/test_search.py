import pandas as pd
import yaml
from test_sweep import options

TINY = """
name: tiny
trials: 3
startup_trials: 1
folds: [1, 2]
metric: val/f1_macro
direction: maximize
average_last: 2
space:
  optimizer.lr: {type: float, low: 0.0001, high: 0.01, log: true}
  data.batch_size: {type: categorical, choices: [8, 16]}
"""


def test_a_search_goes_on_and_never_reads_test(run_script, tree, tmp_path):
    (tmp_path / "mine/hparams_search").mkdir(parents=True)
    (tmp_path / "mine/hparams_search/tiny.yaml").write_text(TINY)
    for picture in tree.rglob(
        "FOLDS/*/Test/*/*.jpg"
    ):  # whatever the test pictures are: the search must not care
        picture.write_bytes(next(tree.rglob("FOLDS/*/Valid/*/*.jpg")).read_bytes())
    kept = [
        o
        for o in options(tree, tmp_path)
        if not o.startswith(("hydra.sweep", "callbacks.", "trainer.max"))
    ]
    command = [
        *kept,
        "trainer.max_epochs=2",
        "hparams_search=tiny",
        f"hydra.searchpath=[file://{tmp_path / 'mine'}]",
    ]
    command += [f"hydra.run.dir={tmp_path / 'found'}"]
    done = run_script("search", *command, "hparams_search.trials=2")
    assert done.code == 0, done.err
    done = run_script("search", *command)
    assert done.code == 0, done.err
    trials = pd.read_csv(tmp_path / "found/trials.csv", float_precision="round_trip")
    assert len(trials) == 3 and set(trials["state"]) <= {"COMPLETE", "PRUNED"}
    assert trials["params_optimizer.lr"].nunique() == 3  # what goes on does not begin again
    row = trials.loc[trials[trials["state"] == "COMPLETE"]["value"].idxmax()]
    rate, size = row["params_optimizer.lr"], row["params_data.batch_size"]
    assert f"optimizer.lr={rate} data.batch_size={size}" in done.out and size in (8, 16)
    assert f"-m fold=1,2 data.root={tree}" in done.out and not list(
        (tmp_path / "found").rglob("predictions.csv")
    )


def test_a_wrong_space_is_one_clear_message(run_script, tree, tmp_path):
    (tmp_path / "mine/hparams_search").mkdir(parents=True)
    (tmp_path / "mine/hparams_search/tiny.yaml").write_text(
        TINY.replace("data.batch_size", "data.batchsize")
    )
    command = [
        *options(tree, tmp_path)[:4],
        "hparams_search=tiny",
        f"hydra.searchpath=[file://{tmp_path / 'mine'}]",
    ]
    done = run_script("search", *command, f"hydra.run.dir={tmp_path / 'found'}")
    assert (
        done.code == 1
        and "data.batchsize, which is no option" in done.err
        and "Traceback" not in done.err
    )


def test_a_search_goes_on_only_as_it_began(run_script, tree, tmp_path):
    (tmp_path / "mine/hparams_search").mkdir(parents=True)
    # nested, so that the command line can name what is in it
    tiny = yaml.safe_load(TINY)
    tiny["space"] = {"optimizer": {"lr": tiny["space"]["optimizer.lr"]}}
    tiny |= {"trials": 1, "folds": [1]}
    (tmp_path / "mine/hparams_search/tiny.yaml").write_text(yaml.safe_dump(tiny))
    kept = [o for o in options(tree, tmp_path) if not o.startswith(("hydra.sweep", "callbacks."))]
    command = [*kept, "hparams_search=tiny", f"hydra.searchpath=[file://{tmp_path / 'mine'}]"]
    command += [
        f"hydra.run.dir={tmp_path / 'found'}",
        "hparams_search.space.optimizer.lr.low=0.002",
    ]
    assert run_script("search", *command).code == 0
    written = (tmp_path / "found/.hydra/config.yaml").read_bytes()
    for more, said in (
        ("hparams_search.direction=minimize", "direction: maximize then, minimize now"),
        ("hparams_search.space.optimizer.lr.high=0.1", "optimizer.lr.high: 0.01 then, 0.1 now"),
        ("scheduler=onecycle", "scheduler._target_"),
        ("seed=7", "seed: 42 then, 7 now"),
        ("hparams_search.name=other", "hparams_search.name: tiny then, other now"),
    ):
        done = run_script("search", *command, more)
        assert done.code == 1 and said in done.err and "Traceback" not in done.err
    assert (tmp_path / "found/.hydra/config.yaml").read_bytes() == written
    done = run_script("search", *command, "hparams_search.trials=2")
    assert done.code == 0, done.err
    trials = pd.read_csv(tmp_path / "found/trials.csv")
    assert len(trials) == 2 and (trials["params_optimizer.lr"] >= 0.002).all()
    next(tree.rglob("FOLDS/fold1/Test/*/*.jpg")).unlink()
    assert run_script("search", *command).code == 0
    next(tree.rglob("FOLDS/fold1/Valid/*/*.jpg")).unlink()
    done = run_script("search", *command)
    assert done.code == 1 and "  fold 1, val: 9 pictures" in done.err
