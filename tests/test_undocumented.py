"""What we take of torch, Lightning and Hydra without their promise is still there.

A failure here after an upgrade names what it took away; ``mpoxcv.undocumented`` says what for.
"""

import warnings

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from conftest import PROJECT
from mpoxcv import undocumented
from mpoxcv.explain import known_cause


def test_torch_names_an_operation_that_is_not_deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(4).put_(torch.tensor([0]), torch.ones(1), accumulate=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert (known_cause(caught.value) or "").startswith("put_ does not have a deterministic")


def test_torch_names_the_allocator_where_the_memory_is_not_enough():
    with pytest.raises(RuntimeError, match=undocumented.NO_CPU_MEMORY):
        torch.empty(10**15)


@pytest.mark.parametrize(
    ("override", "key", "group"), [("seeed=1", "seeed", False), ("modell=lenet", "modell", False)]
)
def test_hydra_names_an_unknown_option_in_its_message(override, key, group):
    with (
        initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"),
        pytest.raises(ConfigCompositionException) as caught,
    ):
        compose("train", [override])
    match = undocumented.UNKNOWN_OPTION.search(str(caught.value))
    assert match[1] == key and bool(match[2]) == group


def test_hydra_says_so_where_a_value_stands_for_an_option_of_a_group():
    with (
        initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"),
        pytest.raises(ValueError, match=undocumented.WRONG_GROUP_VALUE),
    ):
        compose("train", ["logger=1"])


def test_the_exception_of_what_cannot_be_compiled_has_its_name():
    from torch._inductor.exc import InductorError

    assert any(InductorError.__name__ in pattern for pattern in undocumented.REFUSALS)


def test_lightnings_exception_has_its_name():
    assert MisconfigurationException.__name__ == undocumented.LIGHTNING_REFUSES


def test_the_warnings_patterns_match_their_warnings():
    texts = [
        "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`",
        "Checkpoint directory a/b exists and is not empty.",
        "The `srun` command is available on your system but is not used.",
    ]
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        for pattern in undocumented.UNWANTED_WARNINGS:
            warnings.filterwarnings("ignore", message=pattern)
        for text in texts:
            warnings.warn(text, stacklevel=1)
    assert not left
