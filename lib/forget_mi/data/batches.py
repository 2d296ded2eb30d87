"""From a cohort to batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pad
from torch.utils.data import Dataset

from forget_mi.data.cohort import Cohort, ImageRows, read_rows
from forget_mi.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Examples(Dataset):
    """Image and report pairs as arrays; n rows.

    images: uint8 (n, 1, height, width), may be memory-mapped or rows of such an array, or a tensor
    on a device (`placed`); or float, as the model takes them. input_ids: int32, attention_mask:
    bool, (n, tokens), padded to the longest report; in a batch both are int64, as models expect
    them. labels: int64 (n). studies, patients: int64 (n), equal where the study or patient is.
    rows: int64 (n), the row of the cohort's table behind each example.
    """

    images: np.ndarray | ImageRows | torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    studies: torch.Tensor
    patients: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def from_tensors(
        cls,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        studies: torch.Tensor | None = None,
        patients: torch.Tensor | None = None,
    ) -> Examples:
        """Examples from tensors of one's own, without a cohort.

        images: uint8 (n, channels, height, width), divided by 255 in a batch, or float, taken as
        they are. labels: int (n). input_ids, attention_mask: int (n, tokens), for models that read
        reports. studies, patients: int (n); each record is its own without them.

        Raises InputError where the lengths differ.
        """
        n = len(labels)
        each, none = torch.arange(n), torch.zeros(n, 0)
        columns = {
            "images": images,
            "input_ids": none if input_ids is None else input_ids,
            "attention_mask": none if attention_mask is None else attention_mask,
            "studies": each if studies is None else studies,
            "patients": each if patients is None else patients,
        }
        wrong = [f"{len(t)} {name}" for name, t in columns.items() if len(t) != n]
        if wrong:
            raise InputError(f"{', '.join(wrong)} for {n} labels: one a record is needed")
        return cls(
            images=images.numpy(),
            input_ids=columns["input_ids"].to(torch.int32),
            attention_mask=columns["attention_mask"].bool(),
            labels=labels.long(),
            studies=columns["studies"].long(),
            patients=columns["patients"].long(),
            rows=each,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Tokens of each report, int64 (n), on the host: a batch is cut without asking a device."""
        return self.attention_mask.sum(1).cpu()

    def float_images(self, index: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """Images as the model takes them (`to_float`)."""
        return to_float(torch.as_tensor(np.asarray(self.images[index])))

    def __getitems__(self, index: Sequence[int]) -> Batch:
        """A batch: images as float, reports cut to the longest in the batch."""
        batch = stored_batch([(self, index)])
        return batch | {"images": to_float(batch["images"])}

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def select(self, index: Sequence[int]) -> Examples:
        """Some of the examples, in the order given."""
        index = torch.as_tensor(np.asarray(index), dtype=torch.int64)
        tensors = (
            self.input_ids,
            self.attention_mask,
            self.labels,
            self.studies,
            self.patients,
            self.rows,
        )
        if isinstance(self.images, torch.Tensor):
            return Examples(*(_gathered(t, index) for t in (self.images, *tensors)))
        return Examples(_rows(self.images, index.numpy()), *(t[index] for t in tensors))


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Images as the model takes them, wherever they are: uint8 ones in [0, 1], others as they
    are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def stored_batch(parts: Sequence[tuple[Examples, Sequence[int]]]) -> Batch:
    """One batch from some records of one or several Examples, images as they lie, a quarter of
    their size as float: {images, input_ids, attention_mask, labels, studies, index}, index the
    position of each record in its Examples."""
    parts = [(examples, torch.as_tensor(index)) for examples, index in parts if len(index)]
    longest = max(int(examples.lengths[index].max()) for examples, index in parts)

    def tokens(name: str) -> torch.Tensor:
        each = [_gathered(getattr(examples, name), index)[:, :longest] for examples, index in parts]
        return _joined([pad(t, (0, longest - t.shape[1])) for t in each]).long()

    return {
        "images": _images_of(parts),
        "input_ids": tokens("input_ids"),
        "attention_mask": tokens("attention_mask"),
        "labels": _joined([examples.labels[index] for examples, index in parts]),
        "studies": _joined([examples.studies[index] for examples, index in parts]),
        "index": _joined([index for _, index in parts]),
    }


def _images_of(parts: Sequence[tuple[Examples, torch.Tensor]]) -> torch.Tensor:
    """Their images, each read once, into its place."""
    if isinstance(parts[0][0].images, torch.Tensor):
        return _joined([_gathered(examples.images, index) for examples, index in parts])
    first = parts[0][0].images
    count = sum(len(index) for _, index in parts)
    # numpy's memory comes in large pages, torch's does not: half the time for large images.
    images = torch.from_numpy(np.empty((count, *first.shape[1:]), dtype=first.dtype))
    if torch.cuda.is_available():  # pinned from the start, not copied once more on the way
        images = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
    at = 0
    for examples, index in parts:
        read_rows(examples.images, index.numpy(), images.numpy()[at : at + len(index)])
        at += len(index)
    return images


def _gathered(stored: np.ndarray | ImageRows | torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    if isinstance(stored, torch.Tensor):
        return stored[index.to(stored.device, non_blocking=True)]
    return torch.from_numpy(np.asarray(stored[index.numpy()]))


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _rows(
    images: np.ndarray | ImageRows | torch.Tensor, index: np.ndarray
) -> np.ndarray | ImageRows | torch.Tensor:
    """Images that lie on disk stay there; others are few, and copied."""
    on_disk = isinstance(images, (ImageRows, np.memmap))
    return ImageRows(images, index) if on_disk else images[index]


# Reports at a time: what a tokenizer makes of each on the way takes ten times the memory of its
# tokens.
CHUNK = 500


def tokenize(
    reports: Sequence[str], tokenizer: PreTrainedTokenizerBase | None, max_tokens: int
) -> dict[str, torch.Tensor]:
    """Reports as input_ids, int32, and attention_mask, bool, (n, longest), cut at max_tokens; (n,
    0) for a model without a tokenizer, which reads none."""
    kinds = {
        "input_ids": torch.int32,
        "attention_mask": torch.bool,
    }  # a third of the memory of the tokenizer's own
    if tokenizer is None:
        return {name: torch.zeros(len(reports), 0, dtype=kind) for name, kind in kinds.items()}
    how = {
        "truncation": True,
        "max_length": max_tokens,
        "padding": "longest",
        "return_tensors": "pt",
    }
    padding = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in padding}
    for at in range(0, max(len(reports), 1), CHUNK):
        encoded = tokenizer(list(reports[at : at + CHUNK]), **how)
        for name, tensors in found.items():
            tensors.append(encoded[name].to(kinds[name]))
    longest = max(tensor.shape[1] for tensor in found["input_ids"])
    return {
        name: torch.cat([pad(t, (0, longest - t.shape[1]), value=padding[name]) for t in tensors])
        for name, tensors in found.items()
    }


def make_examples(
    cohort: Cohort, rows: Sequence[int], tokenizer: PreTrainedTokenizerBase | None, max_tokens: int
) -> Examples:
    """The examples behind some rows of a cohort's table."""
    table = cohort.table.iloc[list(rows)]
    text = tokenize([cohort.reports[s] for s in table.study_id], tokenizer, max_tokens)
    # Numbered in the order of the table: what is drawn by patient does not depend on how the ids
    # are hashed.
    codes = {
        name: torch.from_numpy(pd.factorize(cohort.table[name])[0])
        for name in ("study_id", "patient_id")
    }
    index = torch.as_tensor(np.asarray(rows), dtype=torch.int64)
    return Examples(
        images=_rows(cohort.images, index.numpy()),
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        labels=torch.from_numpy(table.label.to_numpy("int64").copy()),
        studies=codes["study_id"][index],
        patients=codes["patient_id"][index],
        rows=index,
    )
