import pytest

from conftest import CLASSES, PATTERN
from mpoxcv import MSLDDataModule
from mpoxcv.errors import UserError


def test_a_picture_is_decoded_once_for_the_cache_and_the_search_for_leaks(
    tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "mpoxcv.audit.descriptions.decoded", lambda data: pytest.fail("decoded again")
    )
    data = MSLDDataModule(tree, CLASSES, PATTERN, fold=1, cache_dir=tmp_path / "cache")
    data.setup()
    assert data.audit is not None and data.audit["leaks"] == {}


@pytest.mark.parametrize("option", ["antialias", "permute_labels"])
def test_a_switch_is_true_or_false(tree, option):
    with pytest.raises(UserError, match=f"data.{option}=maybe should be true or false"):
        MSLDDataModule(tree, CLASSES, PATTERN, fold=1, **{option: "maybe"})
