import pytest
import torch
from test_sweep import options

from mpoxcv.undocumented import NO_CPU_MEMORY


class TooLarge:
    """A network for which there is no memory."""

    error: RuntimeError

    def __call__(self, *args, **kwargs):
        raise TooLarge.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "79.0 GiB, 2.5 of them"),
        (RuntimeError(f"[enforce fail] {NO_CPU_MEMORY}can't allocate memory"), "than the memory."),
    ],
)
def test_too_little_memory_is_a_sentence_with_the_batch_size_to_try(
    error, said, run_script, tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(2.5 * 2**30), 79 * 2**30))
    monkeypatch.setattr(TooLarge, "error", error, raising=False)
    monkeypatch.setattr("mpoxcv.models.lenet.LeNet.forward", TooLarge())
    own = [o for o in options(tree, tmp_path) if not o.startswith("hydra.sweep")]
    done = run_script("train", "fold=1", f"hydra.run.dir={tmp_path}/run", *own, "data.batch_size=9")
    assert done.code == 1 and "Traceback" not in done.err
    said_of_all = "This network on 9 pictures of 32 x 32 pixels at once needs more"
    assert said_of_all in done.err and said in done.err and "data.batch_size=4" in done.err
    assert ("data.gpu_cache_mb=0" in done.err) == isinstance(error, torch.OutOfMemoryError)


def test_any_other_error_stays_what_it_is(run_script, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(TooLarge, "error", RuntimeError("of another kind"), raising=False)
    monkeypatch.setattr("mpoxcv.models.lenet.LeNet.forward", TooLarge())
    own = [o for o in options(tree, tmp_path) if not o.startswith("hydra.sweep")]
    done = run_script("train", "fold=1", f"hydra.run.dir={tmp_path}/run", *own)
    assert done.code == 1 and "Traceback" in done.err and "of another kind" in done.err
