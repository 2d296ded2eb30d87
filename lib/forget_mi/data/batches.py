"""From a cohort to batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.nn.functional import pad
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from forget_mi.data.cohort import Cohort, ImageRows
from forget_mi.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Examples(Dataset):
    """Image and report pairs as arrays; n rows.

    images: uint8 (n, 1, height, width), may be memory-mapped or rows of such an array; or float, as
    the model takes them. input_ids:
    int32, attention_mask: bool, (n, tokens), padded to the longest report; in a batch both are
    int64, as models expect them. labels: int64 (n). studies, patients: int64 (n), equal where the
    study or patient is. rows: int64 (n), the row of the cohort's table behind each example.
    """

    images: np.ndarray | ImageRows
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

    def float_images(self, index: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """Images as float: uint8 ones in [0, 1], others as they are."""
        images = torch.from_numpy(np.asarray(self.images[index]))
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    def __getitems__(self, index: Sequence[int]) -> Batch:
        """A batch: images as float, reports cut to the longest in the batch."""
        index = torch.as_tensor(index)
        mask = self.attention_mask[index]
        longest = int(mask.sum(1).max())
        return {
            "images": self.float_images(index.numpy()),
            "input_ids": self.input_ids[index, :longest].long(),
            "attention_mask": mask[:, :longest].long(),
            "labels": self.labels[index],
            "studies": self.studies[index],
            "index": index,
        }

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
        return Examples(_rows(self.images, index.numpy()), *(t[index] for t in tensors))


def _rows(images: np.ndarray | ImageRows, index: np.ndarray) -> np.ndarray | ImageRows:
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


def make_loader(
    examples: Examples, batch_size: int, *, seed: int | None = None, drop_last: bool = False
) -> DataLoader:
    """Batches in table order, or shuffled where a seed is given (the same seed, the same order)."""
    if seed is None:
        sampler = SequentialSampler(examples)
    else:
        sampler = RandomSampler(examples, generator=torch.Generator().manual_seed(seed))
    return DataLoader(
        examples,
        batch_sampler=BatchSampler(sampler, batch_size, drop_last),
        # __getitems__ makes the whole batch at once, so there is nothing left to collate.
        collate_fn=_whole_batch,
        pin_memory=torch.cuda.is_available(),
    )


def device_loader(loader: DataLoader, accelerator: Accelerator) -> DataLoader:
    """The same batches on the accelerator's device; where there are several processes, each gets
    its share of each batch, so that the same number of steps is taken on the same records.

    Not `accelerator.prepare`, which would keep every epoch's loader, and write it into every saved
    state.
    """
    return prepare_data_loader(
        loader,
        device=accelerator.device,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        split_batches=True,
        put_on_device=True,
        non_blocking=True,
    )


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch in parts of about the same size; at most one a record."""
    if parts == 1:
        return [batch]
    pieces = torch.arange(len(batch["labels"])).tensor_split(min(parts, len(batch["labels"])))
    return [
        {name: tensor[piece.to(tensor.device)] for name, tensor in batch.items()}
        for piece in pieces
    ]


def _whole_batch(batch: Batch) -> Batch:
    return batch
