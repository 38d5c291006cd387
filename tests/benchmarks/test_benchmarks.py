"""The ways that are compared train on the same pictures, and their numbers hang together.

Times are not tested.
"""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from test_sweep import CLASSES, PATTERN, options

import cross_validation
import growth
import lightning_usual
import measuring
import plain_loops
import speed
from measuring import Run

BENCHMARKS = Path(measuring.__file__).parent
DATA = [f"data.classes=[{','.join(CLASSES)}]", f"data.name_pattern='{PATTERN}'"]


def test_all_ways_train_on_the_same_pictures_for_the_same_epochs(
    run_script, tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(lightning_usual, "WORKERS", 1)
    ways = ["usual", "bare", "original"]
    try:
        import timm  # noqa: F401

        ways.append("timm")
    except ImportError:
        pass
    for way in [*ways, "ours"]:
        (tmp_path / way).mkdir()
        arguments = (tree, 1, 4, 3, tmp_path / way)
        if way == "ours":
            timer = [
                "+callbacks.timer._target_=epoch_timer.EpochTimer",
                f"+callbacks.timer.file={tmp_path}/ours/times.json",
            ]
            own = [o for o in options(tree, tmp_path, 3) if not o.startswith("hydra.sweep")]
            assert (
                run_script("train", "fold=1", f"hydra.run.dir={tmp_path}/ours", *own, *timer).code
                == 0
            )
        elif way == "usual":
            lightning_usual.main(*arguments)
        else:
            getattr(plain_loops, way)(
                *arguments, *([*DATA, f"data.cache_dir={tmp_path}/cache"] if way == "bare" else [])
            )
    times = {
        way: json.loads((tmp_path / way / "times.json").read_text()) for way in [*ways, "ours"]
    }
    assert len({(t["pictures"], t["digest"]) for t in times.values()}) == 1
    assert times["ours"]["pictures"] == 27  # 9 originals and two copies of each
    assert all(len(measuring.epochs_of(t)[:1]) == 1 for t in times.values())
    for way in ("ours", "usual"):
        own = times[way]
        assert (
            all(a < b for a, b in zip(own["epochs"], own["steps"], strict=True))
            and own["first_step"] > own["epochs"][0]
        )
    assert "test/f1_macro" in json.loads((tmp_path / "usual/metrics.json").read_text())


def test_the_bare_loop_sees_every_picture_once_an_epoch_as_our_loader_gives_it(
    tree, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        plain_loops,
        "loop",
        lambda network, optimizer, batches, epochs: seen.extend(batches()) or [],
    )
    plain = ["data.augment=null", f"data.cache_dir={tmp_path}/cache"]
    plain_loops.bare(tree, 1, 4, 1, tmp_path, *DATA, *plain)
    images, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert len(images) == 27 and labels.bincount().tolist() == [9, 9, 9]
    assert seen[0][0].is_contiguous(memory_format=torch.channels_last)
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(BENCHMARKS.parent / "conf"), version_base="1.3"):
        data = instantiate(compose("train", ["fold=1", f"data.root={tree}", *DATA, *plain]).data)
    data.setup()
    ours = torch.cat([batch["image"] for batch in data.train_dataloader()])
    assert torch.allclose(
        images.sum((1, 2, 3)).sort().values, ours.sum((1, 2, 3)).sort().values, atol=1e-2
    )


def rounds_of(way_seconds: dict[str, list[float]]) -> speed.Rounds:
    """Return made-up rounds: epochs of that many seconds, one round each."""
    found: speed.Rounds = {"torch": [], "limit": []}
    for way, rounds in way_seconds.items():
        begins = [[second * i for i in range(4)] for second in rounds]
        found[way] = [
            (Run(0, 10 * b[1], 900), {"epochs": b, "pictures": 100, "digest": "a"}) for b in begins
        ]
        if way == "ours":
            for (_, times), second in zip(found[way], rounds, strict=True):
                times["steps"] = [begin + 0.8 * second for begin in times["epochs"]]
    for _ in next(iter(way_seconds.values())):
        found["torch"].append((Run(0, 1, 300), {}))
        found["limit"].append((Run(0, 1, 300), {"gflops": 2.0, "mflop_a_picture": 4.0}))
    return found


def test_the_numbers_hang_together(tmp_path):
    found = speed.summarise(
        rounds_of({"ours": [0.5, 1.0, 0.5], "usual": [5.0, 4.0, 5.0]}), epochs=2
    )
    ours, usual = found["ways"]["ours"], found["ways"]["usual"]
    assert found["limit"]["pictures_a_second"]["median"] == 500
    assert ours["seconds_an_epoch"] == {"median": 0.5, "min": 0.5, "max": 1.0, "n": 6}
    assert ours["pictures_a_second"]["median"] == 200 and ours["share_of_limit"] == 0.4
    assert usual["over_first_way"] == {"median": 10, "min": 4, "max": 10, "n": 3}
    assert ours["seconds_of_steps"] == {"median": 0.4, "min": 0.4, "max": 0.8, "n": 6}
    assert usual["wall_s_50_epochs_extrapolated"]["median"] == 50 + 46 * 5
    result = (
        found
        | measuring.conditions()
        | {"conditions": {"data": "made up", "synthetic": True, "network": "lenet"}}
    )
    measuring.report(
        tmp_path / "speed.json", result, "Speed", ["way"], [["ours"]], speed.chart(result)
    )
    assert json.loads((tmp_path / "speed.json").read_text())["ways"] == found["ways"]
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_ways_that_trained_on_other_pictures_are_not_compared():
    rounds = rounds_of({"ours": [1.0], "usual": [2.0]})
    rounds["usual"][0][1]["digest"] = "b"
    with pytest.raises(SystemExit, match="same pictures"):
        speed.summarise(rounds, epochs=2)


def test_the_limit_counts_lenets_operations(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_loops, "SIZE", 64)
    plain_loops.limit(tmp_path, 1, 8, 1, tmp_path)
    found = json.loads((tmp_path / "times.json").read_text())
    assert found["gflops"] > 0 and found["mflop_a_picture"] == pytest.approx(3.2, abs=0.05)


def test_a_process_is_timed_and_weighed_and_its_failure_shown():
    run = measuring.run("-c", "import time; time.sleep(0.2); x = bytearray(200 << 20)")
    assert run.seconds > 0.2 and run.mib > 200
    with pytest.raises(SystemExit, match="this went wrong"):
        measuring.run("-c", "raise SystemExit('this went wrong')")


def test_growth_draws_all_its_panels_and_refuses_half_a_grid(tmp_path):
    found = {
        ("pictures", n, "lenet"): [{"wall_s": n, "peak_mib": 1, "s_an_epoch": n / 2}] * 2
        for n in (1, 2)
    }
    found |= {
        ("runs", 5, launcher): [{"wall_s": 5, "peak_mib": 1}] for launcher in ("basic", "lockstep")
    }
    cells = growth.summarise(found)
    assert cells[1]["s_an_epoch"] == {"median": 1.0, "min": 1.0, "max": 1.0, "n": 2}
    assert [line.get_label() for line in growth.chart(cells).axes[1].containers] == [
        "basic",
        "lockstep",
    ]
    assert growth.grid(1) == ("fold=1", "seed=1") and growth.grid(10) == (
        "fold=1,2,3,4,5",
        "seed=1,2",
    )
    with pytest.raises(SystemExit, match="five folds times"):
        growth.grid(7)


def test_cross_validations_are_compared_with_the_usual_epochs_beside_them():
    def run(seconds, *epochs):
        return {"wall_s": seconds, "peak_mib": 100, "usual": list(epochs)}

    found = {
        "basic": [run(20, 1, 2, 1), run(10, 3, 3, 3)],
        "lockstep": [run(10, 1, 1, 9), run(5, 3, 4, 3)],
    }
    ways = cross_validation.summarise(found | {"after": [{"usual": [5.0, 5.0, 5.0]}]}, epochs=100)
    assert ways["basic"]["usual_over_this"] == {"median": 17.5, "min": 5.0, "max": 30.0, "n": 2}
    assert ways["lockstep"]["usual_over_this"] == {"median": 60.0, "min": 30.0, "max": 90.0, "n": 2}
    assert ways["usual, extrapolated"]["wall_s"] == {"median": 300, "min": 100, "max": 450, "n": 4}
    assert ways["usual, extrapolated"]["s_an_epoch"]["n"] == 15
    conditions = {"folds": [1, 2], "epochs": 50, "data": "made up", "synthetic": True}
    figure = cross_validation.chart({"ways": ways, "conditions": conditions})
    assert "usual is 60.0 times this" in figure.axes[0].texts[1].get_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kept"),
    [("speed", "ways"), ("startup", "seconds"), ("growth", "cells"), ("cross_validation", "ways")],
)
def test_the_whole_command(name, kept, tree, tmp_path, monkeypatch, capsys):
    out = tmp_path / f"{name}.json"
    given = ["--data", str(tree), "--fold", "1", *DATA]
    if name == "growth":
        given = "--pictures 1000 --sizes 32 --runs 2 --run-pictures 1000 --run-epochs 1 --file-size 16".split()
    if name == "cross_validation":
        given = ["--data", str(tree), *DATA, "--folds", "1", "2"]
    given += [] if name == "startup" else ["--epochs", "1"]
    monkeypatch.setattr(sys, "argv", [name, "--rounds", "1", "--out", str(out), *given])
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    result = json.loads(out.read_text())
    assert result[kept] and result["machine"]["cores"] and result["versions"]["torch"]
    assert "median (smallest-largest)" in capsys.readouterr().out.replace("\n", " ")
    assert name == "startup" or out.with_suffix(".png").is_file()


@pytest.mark.slow
def test_steps_for_a_gpu_write_their_numbers_and_say_how_they_ended(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    given = [
        "--trainer",
        "cpu",
        "--quick",
        "--rounds",
        "1",
        "--out",
        str(out),
        "finetune",
        "memory",
    ]
    monkeypatch.setattr(sys, "argv", ["gpu", *given])
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")
    result = json.loads(out.read_text())
    assert all(ended.startswith("ended with 0") for ended in result["ended"].values()), result
    assert len(result["steps"]["finetune"]) == 4 and result["conditions"]["synthetic"]
    card = result["steps"]["finetune"]["shufflenet_v2_x0_5, batch 64, card"]
    assert card["pictures/s"]["n"] == 1 and card["pictures/s"]["median"] > 0
    assert result["steps"]["memory"]["batch 8"] == {"said": "it fits"}
