"""Averaged networks as an ONNX file that takes pictures of any size."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mpoxcv.errors import UserError
from mpoxcv.storage.files import write_atomically
from mpoxcv.use.deployed import OUTPUTS


def write_onnx(module: nn.Module, stated: Mapping[str, str], file: Path) -> None:
    """Write a ``Deployed`` module: ``pictures`` in, ``OUTPUTS`` out, ``stated`` in its metadata.

    Raises:
        UserError: onnx and onnxscript are not installed, or torch cannot export the network.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        extra = 'pip install "mpoxcv[pretrained]"'
        raise UserError(f"Exporting needs onnx and onnxscript: {extra}") from None
    sizes = {axis: torch.export.Dim.DYNAMIC for axis in range(3)}
    example = (torch.randint(256, (2, 70, 90, 3), dtype=torch.uint8),)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "network.onnx"
        try:
            with torch.inference_mode():
                torch.onnx.export(
                    module.eval(), example, exported, dynamo=True, dynamic_shapes=(sizes,),
                    external_data=False, verbose=False, input_names=["pictures"],
                    output_names=[*OUTPUTS],
                )  # fmt: skip
        # exporters refuse networks in many ways
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"This network cannot be exported by torch: {reason}") from error
        model = onnx.load(exported)
    onnx.helper.set_model_props(model, dict(stated))
    write_atomically(file, model.SerializeToString())


class OnnxFile:
    """An exported file, as onnxruntime computes it."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Return ``OUTPUTS`` by name of uint8 (N, height, width, 3)."""
        return dict(zip(OUTPUTS, self.session.run(OUTPUTS, {"pictures": pictures}), strict=True))


def quantise(file: Path, pictures: Sequence[np.ndarray], smaller: Path) -> None:
    """Write a file's networks in whole numbers of 8 bits, with ranges as these pictures have them.

    Args:
        file: as :func:`write_onnx` wrote it.
        pictures: uint8 (height, width, 3) each, of Valid.
        smaller: is written.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.left, None)
            return None if picture is None else {"pictures": picture[None]}

    # it says a line for each channel, by the root logger, and nothing that one could do
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantization.quantize_static(
            file, smaller, Reader(), per_channel=True, op_types_to_quantize=["Conv"]
        )
    finally:
        logging.disable(before)
