"""Models for hospitals' servers: TorchScript, torch.export and ONNX, each checked to say what the
model says."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from forget_mi.data import Batch
from forget_mi.errors import InputError, import_extra
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.outputs import fused_probabilities

FORMATS = {"torchscript": "model.ts", "torch_export": "model.pt2", "onnx": "model.onnx"}


TOLERANCE = 1e-4


OUTPUTS = ("probabilities", "image_logits", "text_logits")


class ServingModule(nn.Module):
    """What a server answers: (probabilities of the fused prediction, image_logits, text_logits),
    each (batch, classes), or (batch, 0) for a tower that is not there. images (batch, 1, height,
    width) in [0, 1]; input_ids, attention_mask int64 (batch, tokens)."""

    def __init__(self, model: ImageTextModel):
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities and logits."""
        output = self.model(images, input_ids, attention_mask)
        return (
            fused_probabilities(output.image_logits, output.text_logits),
            output.image_logits,
            output.text_logits,
        )


def export_model(
    model: ImageTextModel, folder: str | Path, batch: Batch, formats: tuple[str, ...]
) -> dict[str, float]:
    """Write the model into a folder in some of FORMATS; return by format the largest difference to
    what the model itself says. Batch size is free in all; so is the number of tokens.

    batch: some records (at least 3), two of which trace the model; all of them are then asked of
    what was written, with one token less.

    Raises InputError for an unknown format; RuntimeError where what was written differs by more
    than TOLERANCE: the file is then not there.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"format {(unknown or [None])[0]!r}: allowed are {', '.join(FORMATS)}")
    if len(batch["images"]) < 3:
        raise InputError(
            f"{len(batch['images'])} records to check an export with; at least 3 are needed"
        )
    served = ServingModule(model).cpu().eval()
    inputs = tuple(batch[name].cpu() for name in ("images", "input_ids", "attention_mask"))
    two = tuple(tensor[:2] for tensor in inputs)
    # With another number of records and of tokens: what was traced must not have been taken for a
    # constant.
    longest = max(1, inputs[1].shape[1] - 1)
    other = (inputs[0], inputs[1][:, :longest], inputs[2][:, :longest])
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in served(*other)]
    differences = {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in formats:
        path = Path(folder) / FORMATS[name]
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as beside:
            written = Path(beside) / path.name
            output = WRITERS[name](served, two, other, written)
            apart = max(
                float(np.abs(a - b).max(initial=0.0)) for a, b in zip(expected, output, strict=True)
            )
            if not apart <= TOLERANCE:
                raise RuntimeError(
                    f"{path}: would differ from the model by {apart:.2g} (allowed {TOLERANCE})"
                )
            written.replace(path)
        differences[name] = apart
    return differences


def _torchscript(served: ServingModule, two: tuple, other: tuple, path: Path) -> list[np.ndarray]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(served, two, check_trace=False), path)
        return [tensor.numpy() for tensor in torch.jit.load(path)(*other)]


def _dynamic(two: tuple) -> tuple:
    """Which sizes are free: the number of records, and of tokens where the model reads any."""
    records = torch.export.Dim("records", min=1, max=4096)
    tokens = torch.export.Dim("tokens", min=2, max=two[1].shape[1]) if two[1].shape[1] > 2 else None
    text = {0: records} if tokens is None else {0: records, 1: tokens}
    return {0: records}, text, text


def _torch_export(served: ServingModule, two: tuple, other: tuple, path: Path) -> list[np.ndarray]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(served, two, dynamic_shapes=_dynamic(two)), path)
        return [tensor.numpy() for tensor in torch.export.load(path).module()(*other)]


def _onnx(served: ServingModule, two: tuple, other: tuple, path: Path) -> list[np.ndarray]:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(name, "models")
    import onnxruntime

    names = ("images", "input_ids", "attention_mask")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            served,
            two,
            path,
            dynamo=True,
            input_names=names,
            output_names=OUTPUTS,
            dynamic_shapes=_dynamic(two),
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    input_names = {node.name for node in session.get_inputs()}
    return session.run(
        None,
        {
            name: value.numpy()
            for name, value in zip(names, other, strict=True)
            if name in input_names
        },
    )


WRITERS = {"torchscript": _torchscript, "torch_export": _torch_export, "onnx": _onnx}
