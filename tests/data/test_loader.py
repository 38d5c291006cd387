import pytest
import torch
from torchvision.transforms import v2

from mpoxcv import RandomFlip
from mpoxcv.data.loader import BatchLoader
from mpoxcv.errors import UserError

N = 23


def loader(**options):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (N + 2, 8, 8, 3), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0] * 18 + [1] * 5)
    return BatchLoader(pixels, torch.arange(N) + 2, labels, **({"batch_size": 5} | options))


def seen(batches, key="index"):
    return torch.cat([batch[key] for batch in batches])


def test_sequential_batches_are_the_split_in_order():
    batches = list(loader())
    assert [len(b["index"]) for b in batches] == [5, 5, 5, 5, 3] and len(loader()) == 5
    assert seen(batches).tolist() == list(range(N))
    expected = loader().pixels[2:].permute(0, 3, 1, 2).float() / 255
    assert torch.equal(seen(batches, "image"), expected)
    assert batches[0]["image"].is_contiguous(memory_format=torch.channels_last)


def test_shuffle_is_a_function_of_seed_and_epoch():
    one, two = loader(sampler="shuffle", seed=1), loader(sampler="shuffle", seed=1)
    list(one)  # what was read before does not matter, nor does torch's own generator
    torch.rand(3)
    for epoch in (3, 1, 3):
        one.set_epoch(epoch)
        two.set_epoch(epoch)
        assert seen(one).tolist() == seen(two).tolist()
        assert sorted(seen(one).tolist()) == list(range(N))
    other = loader(sampler="shuffle", seed=2)
    other.set_epoch(3)
    assert seen(other).tolist() != seen(one).tolist()
    one.set_epoch(4)
    assert seen(one).tolist() != seen(two).tolist()


def test_fixed_keeps_its_order():
    batches = loader(sampler="fixed")
    first = seen(batches).tolist()
    batches.set_epoch(5)
    assert seen(batches).tolist() == first != list(range(N))


def test_weighted_draws_classes_equally_often():
    batches = loader(sampler="weighted")
    drawn = []
    for epoch in range(200):
        batches.set_epoch(epoch)
        drawn.append(seen(batches, "label").float().mean())
    assert torch.stack(drawn).mean() == pytest.approx(0.5, abs=0.03)


def test_normalisation():
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    plain = seen(loader(), "image")
    expected = (plain - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    assert torch.allclose(seen(loader(mean=mean, std=std), "image"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [v2.RandomHorizontalFlip(), RandomFlip()])
def test_augmentation_is_drawn_for_each_picture_and_each_epoch_and_repeats(flip):
    plain = seen(loader(), "image")
    batches = loader(augment=flip)
    state = torch.get_rng_state()
    first = seen(batches, "image")
    assert torch.equal(torch.get_rng_state(), state)
    flipped = [torch.equal(a, p.flip(-1)) for a, p in zip(first, plain, strict=True)]
    assert 3 < sum(flipped) < 20
    assert torch.equal(first, seen(batches, "image"))
    batches.set_epoch(1)
    assert not torch.equal(first, seen(batches, "image"))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_batch_without_repeats(world_size):
    options = {"sampler": "shuffle", "augment": RandomFlip()}
    whole = list(loader(**options))
    shares = [
        list(loader(**options, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        together = torch.cat([share[step]["index"] for share in shares])
        assert sorted(together.tolist()) == sorted(batch["index"].tolist())
        images = torch.cat([share[step]["image"] for share in shares])
        assert torch.equal(images[together.argsort()], batch["image"][batch["index"].argsort()])


def test_flips_of_a_batch():
    images = torch.randint(0, 256, (400, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(RandomFlip(1.0, 1.0)(images), images.flip(-1, -2))
    assert torch.equal(RandomFlip(0.0, 0.0)(images), images)
    vertical = RandomFlip(0.0, 0.3)(images)
    turned = (vertical != images).flatten(1).any(1)
    assert torch.equal(
        torch.where(
            (vertical == images).all(-1).all(-1).all(-1).view(-1, 1, 1, 1), images, images.flip(-2)
        ),
        vertical,
    )
    assert 80 < turned.sum() < 160


@pytest.mark.parametrize(
    "options", [{}, {"sampler": "shuffle", "augment": RandomFlip(), "rank": 1, "world_size": 2}]
)
def test_reading_ahead_changes_nothing(monkeypatch, options):
    monkeypatch.setattr("mpoxcv.data.loader.PART", 0)
    alone = list(loader(prefetch=0, **options))
    for prefetch in (1, 2, 50):
        ahead = loader(prefetch=prefetch, **options)
        assert all(
            torch.equal(one[key], two[key])
            for one, two in zip(ahead, alone, strict=True)
            for key in one
        )
        ahead.load_state_dict({"step": 3})
        assert torch.equal(seen(ahead, "image"), seen(alone[3:], "image"))
    for batch in loader(prefetch=2, **options):  # left half-way
        assert len(batch["index"])
        break


@pytest.mark.parametrize("part", [0, 2**20])  # batches made one by one, and several at once
def test_an_epoch_that_goes_on_gives_the_batches_that_were_left(monkeypatch, part):
    monkeypatch.setattr("mpoxcv.data.loader.PART", part)
    options = {"sampler": "shuffle", "augment": RandomFlip(), "batch_size": 3}
    whole, rest = list(loader(**options)), loader(**options)
    rest.load_state_dict({"step": 2})
    for one, two in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    "augment",
    [
        v2.ToDtype(torch.float32, scale=True),
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]),
        v2.RandomCrop(4),
        v2.Grayscale(1),
    ],
)
def test_an_augmentation_that_changes_shape_or_dtype_is_refused(augment):
    with pytest.raises(UserError, match=r"data.augment made .*uint8 \(3, 8, 8\)"):
        list(loader(augment=augment))


def test_what_an_augmentation_returns_is_what_is_trained_on():
    dark = v2.RandomSolarize(0, p=1.0)
    expected = 1 - seen(loader(), "image")
    assert torch.allclose(seen(loader(augment=dark), "image"), expected, atol=1e-6)
