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

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset
from torch.utils.flop_counter import FlopCounterMode

import mpoxcv.cli  # noqa: F401  registers what the configs need
from epoch_timer import relative_paths, write
from mpoxcv import LeNet, create_model

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


def bare(root: Path, fold: int, batch_size: int, epochs: int, folder: Path, *options: str) -> None:
    """Our cache, augmentation, network and optimizer, with whole batches by index."""
    overrides = [f"fold={fold}", f"data.root={root}", f"data.batch_size={batch_size}", *options]
    conf = Path(__file__).resolve().parents[1] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("train", overrides)
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()
    pixels = loader.pixels
    rows = loader.rows
    labels = loader.labels
    augment = loader.augment or (lambda images: images)
    mean = 0 if data.mean is None else 255 * data.mean.repeat(pixels.shape[2])
    std = 255 if data.std is None else 255 * data.std.repeat(pixels.shape[2])
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
    network = create_model(name, 6, **options)
    images = torch.rand(few, 3, int(size), int(size))
    labels = torch.zeros(few, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(images), labels).backward()
    mflop = counter.get_total_flops() / few / 1e6
    content = {"gflops": 2 * SIZE**3 / best / 1e9, "mflop_a_picture": mflop}
    (folder / "times.json").write_text(json.dumps(content))


def card(
    root: Path,
    fold: int,
    batch_size: int,
    epochs: int,
    folder: Path,
    name: str,
    size: str,
    trainer: str,
    precision: str,
) -> None:
    """Pictures a second of a network on one batch that stays where it is; an epoch has 20 steps."""
    device = torch.device("cuda" if trainer == "gpu" else "cpu")
    torch.backends.cudnn.benchmark = True
    network = create_model(name, 6).to(device, memory_format=torch.channels_last)
    images = torch.rand(batch_size, 3, int(size), int(size), device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(6, (batch_size,), device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    seconds = []
    for _ in range(epochs):
        begin = time.monotonic()
        for _ in range(20):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
        # waits for the GPU
        loss.item()
        seconds.append(time.monotonic() - begin)
    speed = 20 * batch_size / float(np.median(seconds[1:]))
    (folder / "times.json").write_text(json.dumps({"pictures_a_second": speed}))


if __name__ == "__main__":
    ways = {function.__name__: function for function in (bare, timm, original, limit, card)}
    way, root, fold, batch_size, epochs, folder, *options = sys.argv[1:]
    numbers = map(int, (fold, batch_size, epochs))
    ways[way](Path(root).resolve(), *numbers, Path(folder), *options)
