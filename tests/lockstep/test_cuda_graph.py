"""Training steps as CUDA graphs give what they give one by one.

Where there is no GPU, a stand-in records every operation on tensors, takes back what it did, since
capturing does nothing, and repeats it on the same tensors: whatever a step reads from Python is
fixed then.
"""

import contextlib

import numpy as np
import pandas as pd
import pytest
import torch
from test_lockstep import LOCKSTEP
from test_sweep import options
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mpoxcv.lockstep.lockstep
from mpoxcv.lockstep.cuda_graph import WARM_UP, GraphedStep, capturable


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls, self.before = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.is_mutable:
            self.before += [(tensor, tensor.clone()) for tensor in tensors((args, kwargs))]
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result


class StandIn:
    """Of torch.cuda.CUDAGraph."""

    replays = 0

    def replay(self):
        StandIn.replays += 1
        with torch.no_grad():
            for function, args, kwargs, result in self.recorder.calls:
                again = function(*args, **kwargs)
                for kept, new in zip(tensors(result), tensors(again), strict=True):
                    if kept.data_ptr() != new.data_ptr():
                        kept.copy_(new)

    @contextlib.contextmanager
    def capture(self, stream):
        with Recorder() as self.recorder:
            yield
        for tensor, value in reversed(self.recorder.before):
            with torch.no_grad():
                tensor.copy_(value)


class Stream:
    device = torch.device("cpu")

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(StandIn, "replays", 0)
    for name, value in {
        "CUDAGraph": StandIn, "graph": StandIn.capture, "Stream": Stream, "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(
        mpoxcv.lockstep.lockstep,
        "capturable",
        lambda optimizers: all(o.defaults.get("fused") for o in optimizers),
    )


SCHEDULERS = {
    "learning rate": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5),
    "betas, too": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, total_steps=20
    ),
}


@pytest.mark.parametrize("changes", SCHEDULERS)
def test_a_step_in_a_graph_goes_on_where_the_steps_before_it_ended(stand_in, changes):
    torch.manual_seed(0)
    batches = [
        (torch.rand(8 if i % 5 else 3, 4), torch.rand(8 if i % 5 else 3, 1)) for i in range(1, 16)
    ]
    ends = []
    for graphed in (False, True):
        torch.manual_seed(1)
        network = torch.nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        scheduler = SCHEDULERS[changes](optimizer)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)

        def step(x, y, network=network, optimizer=optimizer):
            optimizer.zero_grad(set_to_none=False)
            loss = (network(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        own = GraphedStep(step, [optimizer]) if graphed else step
        losses = []
        for batch in batches:
            losses.append(own(*batch).item())
            scheduler.step()
        ends.append((losses, [p.detach() for p in network.parameters()], optimizer.param_groups[0]))
    assert StandIn.replays == 12 - WARM_UP  # 3 of 15 batches have another size
    (plain, weights, group), (graph, own_weights, own_group) = ends
    assert np.allclose(plain, graph, atol=1e-6) and len(set(plain)) == 15
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights, own_weights, strict=True))
    assert (
        own_group["lr"] == group["lr"]
        and isinstance(own_group["lr"], float)
        and not own_group["capturable"]
    )


def test_only_fused_optimizers_on_a_gpu_are_captured():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    assert not capturable([torch.optim.AdamW(parameters, fused=True)])


def results(folder):
    for fold in ("fold=1", "fold=2"):
        yield tuple(
            pd.read_csv(folder / fold / name) for name in ("predictions.csv", "learning_curves.csv")
        )


def compare(run_script, tree, tmp_path, *more):
    """Train with graphs, and without."""
    command = ["-m", "fold=1,2", LOCKSTEP, *options(tree, tmp_path / "graph", 3), *more]
    done = run_script("train", *command)
    assert done.code == 0, done.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mpoxcv.lockstep.lockstep, "capturable", lambda optimizers: False)
        assert run_script("train", *command, f"hydra.sweep.dir={tmp_path}/plain").code == 0
    for (one, curves), (two, own_curves) in zip(
        *map(results, (tmp_path / "graph", tmp_path / "plain")), strict=True
    ):
        columns = [c for c in one if c.startswith("p_")]
        assert np.allclose(one[columns], two[columns], atol=1e-4)
        assert np.allclose(
            curves[["lr", "train/loss"]], own_curves[["lr", "train/loss"]], atol=1e-4
        )


LENGTHS = [
    "data.batch_size=4",
    "scheduler=cosine",
    "classifier.class_weights=balanced",
    "trainer.gradient_clip_val=1",
]


@pytest.mark.slow
def test_lockstep_in_a_graph(run_script, tree, tmp_path, stand_in):
    next((tree / "FOLDS_AUG/fold2_AUG").rglob("*_1_1.jpg")).unlink()  # last batches of other sizes
    compare(run_script, tree, tmp_path, "model.own_kernels=false", *LENGTHS)
    assert StandIn.replays == 3 * 6 - WARM_UP  # 27 and 26 pictures: six full batches an epoch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_lockstep_in_a_graph_on_a_gpu(run_script, tree, tmp_path):
    compare(run_script, tree, tmp_path, "trainer=gpu", *LENGTHS)
