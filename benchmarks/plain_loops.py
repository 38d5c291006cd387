"""Training loops of plain PyTorch, and the limit that the matrix product sets.

    python benchmarks/plain_loops.py WAY ROOT FOLD BATCH_SIZE EPOCHS FOLDER [options of train.py]

They train, and do nothing else: no validation, metrics, logging or checkpoints. ``limit`` trains
nothing.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset
from torch.utils.flop_counter import FlopCounterMode

import mpoxcv.cli  # noqa: F401  registers what the configs need
from epoch_timer import relative_paths, write
from mpoxcv import LeNet, MSLDDataModule, create_model
from mpoxcv.data.loader import BatchLoader
from mpoxcv.errors import UserError

# of the matrices: 2 * SIZE^3 floating-point operations a product
SIZE = 2048


def loop(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    epochs: int,
) -> list[float]:
    """Train, and return when each epoch began, and when the last one ended."""
    begins = []
    for _ in range(epochs):
        begins.append(time.monotonic())
        for images, labels in batches():
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return [*begins, time.monotonic()]


def fold_data(root: Path, fold: int, *options: str) -> tuple[DictConfig, MSLDDataModule]:
    """Return the composed config, and its DataModule, read."""
    conf = Path(__file__).resolve().parents[1] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("train", [f"fold={fold}", f"data.root={root}", *options])
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    return cfg, data


def bare(root: Path, fold: int, batch_size: int, epochs: int, folder: Path, *options: str) -> None:
    """Our cache, augmentation, network and optimizer, with whole batches by index."""
    cfg, data = fold_data(root, fold, f"data.batch_size={batch_size}", *options)
    loader = data.train_dataloader()
    pixels = loader.pixels
    rows = loader.rows
    labels = loader.labels
    augment = loader.augment or (lambda images: images)
    mean, std = loader.shift, loader.scale
    torch.manual_seed(cfg.seed)
    network = instantiate(cfg.model).to(memory_format=torch.channels_last)

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(rows)).split(batch_size):
            images = augment(pixels.index_select(0, rows[chosen]).permute(0, 3, 1, 2))
            images = images.permute(0, 2, 3, 1).float()
            images.flatten(2).sub_(mean).div_(std)
            yield images.permute(0, 3, 1, 2), labels[chosen]

    begins = loop(network, instantiate(cfg.optimizer)(network.parameters()), batches, epochs)
    write(folder / "times.json", begins, data.table("train")["path"])


def timm(root: Path, fold: int, batch_size: int, epochs: int, folder: Path) -> None:
    """timm's loader, with its prefetcher, flips alone, and its own workers and collation."""
    from timm.data import create_loader

    from lightning_usual import MEAN, STD, WORKERS, train_parts

    class OriginalsAndAugmented(ConcatDataset):
        """Hands timm's transform on to the parts."""

        def __setattr__(self, name: str, value: object) -> None:
            for part in self.datasets if name == "transform" else ():
                part.transform = value
            super().__setattr__(name, value)

    pictures = OriginalsAndAugmented(train_parts(root, fold))
    loader = create_loader(
        pictures, (3, 32, 32), batch_size, is_training=True, scale=(1, 1), ratio=(1, 1), color_jitter=None,
        mean=MEAN, std=STD, num_workers=WORKERS, device=torch.device("cpu"), persistent_workers=True,
    )  # fmt: skip
    network = LeNet(len(pictures.datasets[0].classes), own_kernels=False)
    begins = loop(network, torch.optim.AdamW(network.parameters(), lr=1e-3), lambda: loader, epochs)
    write(folder / "times.json", begins, relative_paths(pictures.datasets))


def original(root: Path, fold: int, batch_size: int, epochs: int, folder: Path) -> None:
    """The original scripts' way: all pictures decoded into a list of float64 arrays, plain SGD.

    They resize by OpenCV without antialiasing; Pillow's affine transform takes the same pixels.
    """
    from lightning_usual import train_parts

    parts = train_parts(root, fold)
    images, targets = [], []
    for file, target in (sample for part in parts for sample in part.samples):
        with Image.open(file) as image:
            matrix = (image.width / 32, 0, 0, 0, image.height / 32, 0)
            how = (Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            small = image.convert("RGB").transform((32, 32), *how)
        images.append(np.asarray(small, np.float64) / 255)
        targets.append(target)

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(images)).split(batch_size):
            batch = torch.tensor(np.array([images[i] for i in chosen]), dtype=torch.float32)
            yield batch.permute(0, 3, 1, 2), torch.tensor([targets[i] for i in chosen])

    network = LeNet(len(parts[0].classes), own_kernels=False)
    begins = loop(network, torch.optim.SGD(network.parameters(), lr=0.001), batches, epochs)
    write(folder / "times.json", begins, relative_paths(parts))


def limit(
    root: Path,
    fold: int,
    batch_size: int,
    epochs: int,
    folder: Path,
    name: str = "lenet",
    size: str = "32",
    library: str = "torchvision",
) -> None:
    """The best of the products of two large float32 matrices, and a network's operations a picture.

    The operations are those forward and backward.
    """
    left, right = torch.rand(2, SIZE, SIZE)
    begins = []
    for _ in range(12):
        begins.append(time.monotonic())
        left @ right
    best = np.diff(begins).min()

    few = min(batch_size, 8)
    options = {"own_kernels": False} if name == "lenet" else {}
    network = create_model(name, 6, library, **options)
    images = torch.rand(few, 3, int(size), int(size))
    labels = torch.zeros(few, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(images), labels).backward()
    mflop = counter.get_total_flops() / few / 1e6
    content = {"gflops": 2 * SIZE**3 / best / 1e9, "mflop_a_picture": mflop}
    (folder / "times.json").write_text(json.dumps(content))


def card(root: Path, fold: int, batch_size: int, epochs: int, folder: Path, *which: str) -> None:
    """Pictures a second of training on one batch that stays where it is; an epoch has 20 steps.

    ``which`` is network, pixels a side, trainer and precision.
    """
    network, images, autocast = on_card(batch_size, *which)
    device = images.device
    labels = torch.randint(6, (batch_size,), device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad()
        with autocast():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    seconds = [timed(lambda: [step() for _ in range(20)]) for _ in range(epochs)]
    speed = 20 * batch_size / float(np.median(seconds[1:]))
    write_speeds(folder, device, {"pictures/s": speed})


def forward(root: Path, fold: int, batch_size: int, epochs: int, folder: Path, *which: str) -> None:
    """Pictures a second of a forward pass without gradients over a fold's training pictures.

    By our loader, from the card's memory and from the computer's, and on one batch of random
    numbers that stays where it is, alternating. ``which`` is as of ``card``, then options.
    """
    network, still, autocast = on_card(batch_size, *which[:4])
    device, options = still.device, which[4:]
    network.eval()
    _, data = fold_data(root, fold, f"data.image_size={which[1]}", *options)
    pixels = torch.from_numpy(data.cached_pixels)
    table = data.table("train")
    rows, labels = (torch.tensor(table[key].to_numpy()) for key in ("row", "label"))
    mean = std = torch.tensor([0.5, 0.5, 0.5])
    ways: dict[str, Callable[[], Iterable[Tensor]]] = {}
    for where, lie in (("card", pixels.to(device)), ("memory", pixels)):
        batches = BatchLoader(lie, rows, labels, batch_size, mean=mean, std=std, device=device)
        ways[f"from the {where}, pictures/s"] = lambda b=batches: (batch["image"] for batch in b)
    ways["bare, pictures/s"] = lambda: (still[: len(part)] for part in rows.split(batch_size))

    def run(images: Iterable[Tensor]) -> list[Tensor]:
        with torch.inference_mode(), autocast():
            return [network(batch).sum() for batch in images]

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(epochs):
        for name, images in ways.items():
            seconds[name].append(timed(lambda images=images: run(images())))
    speeds = {name: len(rows) / float(np.median(s[1:])) for name, s in seconds.items()}
    write_speeds(folder, device, speeds)


def on_card(
    batch_size: int, name: str, size: str, trainer: str, precision: str
) -> tuple[torch.nn.Module, Tensor, Any]:
    """Return a network of torchvision or timm, random pictures where it is, and its autocast.

    The pictures are float32 (B, 3, size, size) in channels_last order.
    """
    device = torch.device("cuda" if trainer == "gpu" else "cpu")
    torch.backends.cudnn.benchmark = True
    try:
        network = create_model(name, 6)
    except UserError:
        from timm import create_model as create_timm_model

        network = create_timm_model(name, num_classes=6)
    half = precision == "bf16-mixed"
    network = network.to(device, memory_format=torch.channels_last)
    images = torch.rand(batch_size, 3, int(size), int(size), device=device)
    images = images.to(memory_format=torch.channels_last)
    return network, images, lambda: torch.autocast(device.type, torch.bfloat16, enabled=half)


def timed(work: Callable[[], list[Tensor]]) -> float:
    """Return the seconds that it takes, until a GPU is done."""
    begin = time.monotonic()
    work()[-1].item()
    return time.monotonic() - begin


def write_speeds(folder: Path, device: torch.device, speeds: dict[str, float]) -> None:
    """Write them, with the most that the card held."""
    if device.type == "cuda":
        speeds["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    (folder / "times.json").write_text(json.dumps(speeds))


if __name__ == "__main__":
    functions = (bare, timm, original, limit, card, forward)
    ways = {function.__name__: function for function in functions}
    way, root, fold, batch_size, epochs, folder, *options = sys.argv[1:]
    numbers = map(int, (fold, batch_size, epochs))
    ways[way](Path(root).resolve(), *numbers, Path(folder), *options)
