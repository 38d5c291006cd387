"""A stranger's run through all that uses networks: nothing runs, and what is damaged is said."""

import pytest
import torch
from hydra.errors import InstantiationException
from test_hostile import CONFIGS, assert_refused, change, run, saved  # noqa: F401

import mpoxcv
from mpoxcv.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["export", "explain", "serve"])
@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_would_run_code_is_refused(case, verb, run, run_script, tmp_path):  # noqa: F811
    where, value, word = CONFIGS[case]
    change(run, where, value)
    more = {"explain": ["images=."], "serve": ["port=0"]}.get(verb, [])
    (tmp_path / "one.jpg").write_bytes(b"")
    assert_refused(run_script(verb, f"run={run}", *more), word)
    assert not list(tmp_path.rglob("executed"))
    with pytest.raises((UserError, InstantiationException)):
        mpoxcv.load(run)
    assert not list(tmp_path.rglob("executed"))


FEATURES = torch.ones(4, 84, dtype=torch.float16)
GOOD = {"features": FEATURES, "val": torch.ones(3), "test": torch.ones(3)}
BAD = {
    "text": b"features", "empty": b"", "no tensors": saved({"features": "x"}),
    "a list": saved([FEATURES]), "one lacks": saved({k: v for k, v in GOOD.items() if k != "val"}),
    "another shape": saved({**GOOD, "features": FEATURES[0]}),
    "numbers for tensors": saved({**GOOD, "val": 0.5}),
    "of another network": saved({**GOOD, "features": FEATURES[:, :5]}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_reference_is_said_so(case, run, run_script, finished):  # noqa: F811
    picture = next((finished[1] / "FOLDS/fold1/Test").rglob("*.jpg"))
    (run / "reference.pt").write_bytes(saved(GOOD))
    done = run_script("predict", f"run={run}", f"images={picture}", "output=good.csv")
    assert done.code == 0, done.err
    (run / "reference.pt").write_bytes(BAD[case])
    assert_refused(run_script("predict", f"run={run}", f"images={picture}"), str(run))
