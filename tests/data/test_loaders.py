"""Batches on their way to a device."""

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, differs, weights

from forget_mi.data import loaders
from forget_mi.data.batches import make_examples, stored_batch
from forget_mi.data.cohort import ImageRows, read_rows
from forget_mi.errors import InputError
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.training.loop import train
from forget_mi.training.prediction import predict
from forget_mi.unlearning import held_out_targets


def on_cpu(**settings):
    return make_accelerator(DeviceConfig(device="cpu", **settings))


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def on_disk(cohort, tmp_path_factory):
    """The cohort with its images memory-mapped."""
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, cohort.images)
    return replace(cohort, images=np.load(path, mmap_mode="r"))


def test_images_travel_as_they_lie(unlearning_data, accelerator, monkeypatch):
    """A byte a pixel goes to the device; a float of four is made there."""
    sent, plain = [], loaders.copy_to_device

    def counting(batch, device):
        sent.append(batch["images"].nbytes)
        return plain(batch, device)

    monkeypatch.setattr(loaders, "copy_to_device", counting)
    examples = unlearning_data.retain
    loader = loaders.make_loader(examples, 8)
    batches = list(loaders.device_loader(loader, accelerator))
    pixels = [batch["images"].numel() for batch in batches]
    assert sent == pixels
    assert sum(pixels) == np.prod(examples.images.shape)
    whole = torch.cat([batch["images"] for batch in batches])
    assert whole.dtype == torch.float32
    assert torch.equal(whole, examples.float_images())


def test_a_step_sends_each_image_once(original, unlearning_data, accelerator, monkeypatch):
    sent, plain = [], loaders.copy_to_device

    def counting(batch, device):
        sent.append(batch)
        return plain(batch, device)

    monkeypatch.setattr(loaders, "copy_to_device", counting)
    settings = held_out_targets.Config(epochs=1, batch_size=3, least_steps=1, retain_batch=8)
    held_out_targets.unlearn(
        original[0], unlearning_data, settings, seed=0, accelerator=accelerator, progress=False
    )
    steps = [b for b in sent if len(b["labels"]) == 3 + 8]
    assert len(steps) == len(unlearning_data.forget) // 3 == 2
    assert {b["images"].dtype for b in sent} == {torch.uint8}


@pytest.mark.parametrize("form", ["array", "rows of an array", "on disk", "tensors"])
def test_a_batch_is_the_same_wherever_the_records_lie(form, cohort, on_disk, original, accelerator):
    def of(cohort_here, rows):
        return make_examples(cohort_here, rows, original[1], TINY_MODEL.max_tokens)

    rows = [5, 9, 2, 30, 31, 8]
    expected = stored_batch([(of(cohort, rows), [4, 0, 2])])
    here = on_disk if form == "on disk" else cohort
    if form == "rows of an array":
        here = replace(cohort, images=ImageRows(cohort.images, np.arange(len(cohort))))
    examples = of(here, rows)
    if form == "tensors":
        examples = loaders.placed(examples, on_cpu(cohort_on="device"))
        assert isinstance(examples.images, torch.Tensor)
    assert same(stored_batch([(examples, [4, 0, 2])]), expected)
    assert same(
        stored_batch([(examples.select([4, 0, 2]), [0, 1, 2])]) | {"index": expected["index"]},
        expected,
    )
    # From two sets at once, the reports padded to the longer.
    both = stored_batch([(examples, [3, 1]), (of(here, [7, 12]), [1])])
    assert both["index"].tolist() == [3, 1, 1]
    assert both["input_ids"].shape == both["attention_mask"].shape
    assert both["input_ids"].shape[1] == both["attention_mask"].sum(1).max()
    wanted = np.concatenate([cohort.images[[30, 9]], cohort.images[[12]]])
    assert np.array_equal(both["images"].numpy(), wanted)
    assert both["labels"].tolist() == cohort.table.label.iloc[[30, 9, 12]].tolist()


@pytest.mark.parametrize("large", [1, 2**18])
def test_rows_are_read_into_their_place(large, cohort, on_disk, monkeypatch):
    monkeypatch.setattr("forget_mi.data.cohort.LARGE", large)
    index = np.array([3, 0, 3])
    for images in (cohort.images, on_disk.images, ImageRows(on_disk.images, [9, 8, 7, 6])):
        out = np.empty((3, *images.shape[1:]), np.uint8)
        read_rows(images, index, out)
        assert np.array_equal(out, images[index])


@pytest.mark.parametrize("settings", [{"read_ahead": "on"}, {"cohort_on": "device"}])
def test_draws_losses_and_weights_are_the_same_to_the_bit(
    settings, original, unlearning_data, accelerator
):
    def chain(accelerator):
        model = copy.deepcopy(original[0])
        how = {"seed": 0, "accelerator": accelerator, "progress": False}
        training = TrainingConfig(epochs=2, batch_size=8, translation=0.1)
        log = train(model, unlearning_data.retain, unlearning_data.validation, training, **how)
        settings = held_out_targets.Config(epochs=2)
        unlearned, steps = held_out_targets.unlearn(model, unlearning_data, settings, **how)
        seen = predict(unlearned, unlearning_data.validation, accelerator)
        return log.epochs, steps.epochs, weights(unlearned), seen.image_logits

    plain, other = chain(accelerator), chain(on_cpu(**settings))
    assert plain[:2] == other[:2]
    assert not differs(plain[2], other[2])
    assert np.array_equal(plain[3], other[3])


def test_the_next_batches_are_read_while_a_step_runs():
    """Two ahead and no more; in one other thread; in order."""
    asked, threads = [], set()

    def batches():
        for number in range(6):
            asked.append(number)
            threads.add(threading.get_ident())
            yield {"images": torch.full((1,), number, dtype=torch.uint8)}

    seen = []
    for batch in loaders.to_device_ahead(batches(), on_cpu(read_ahead="on")):
        seen.append(round(batch["images"].item() * 255))
        assert len(asked) <= len(seen) + loaders.AHEAD + 1
    assert seen == asked == list(range(6))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("read_ahead", ["on", "off"])
def test_what_goes_wrong_in_reading_is_raised_where_it_is_asked_for(read_ahead):
    def batches():
        yield {"images": torch.zeros(1)}
        raise OSError("the disk is gone")

    ahead = loaders.to_device_ahead(batches(), on_cpu(read_ahead=read_ahead))
    next(ahead)
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_a_loop_that_stops_early_leaves_no_thread():
    def batches():
        while True:
            yield {"images": torch.zeros(1)}

    ahead = loaders.to_device_ahead(batches(), on_cpu(read_ahead="on"))
    next(ahead)
    assert any(t.name.startswith("read-ahead") for t in threading.enumerate())
    ahead.close()
    assert not any(t.name.startswith("read-ahead") for t in threading.enumerate())


def test_reports_get_few_lengths():
    lengths = {
        loaders.to_few_lengths(torch.ones(2, n, dtype=torch.long)).shape[1] for n in range(1, 97)
    }
    assert lengths == {32, 64, 96}
    padded = loaders.to_few_lengths(torch.ones(2, 3, dtype=torch.long))
    assert padded.sum() == 6
    assert loaders.to_few_lengths(torch.ones(2, 0)).shape == (2, 0)


def test_records_that_do_not_fit_on_a_card_stay_or_are_refused(unlearning_data, monkeypatch):
    """The card is made up: 100 kB."""
    examples = unlearning_data.retain

    class Card:
        total_memory = 100_000

    class Accelerator:
        device = torch.device("cuda")
        cohort_on = "auto"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    assert loaders.size_in_bytes(examples) > 40_000
    assert loaders.placed(examples, Accelerator) is examples
    Accelerator.cohort_on = "device"
    with pytest.raises(InputError, match=r"device\.cohort_on = 'device'.*40% of the card's"):
        loaders.placed(examples, Accelerator)
    Accelerator.cohort_on = "host"
    assert loaders.placed(examples, Accelerator) is examples
