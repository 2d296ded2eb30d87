"""What F_og said, kept from one run to the next."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forget_mi.data.requests import make_request
from forget_mi.data.splits import split_by_patient
from forget_mi.errors import InputError
from forget_mi.models.checkpoints import read_manifest
from forget_mi.models.outputs import ModelOutput
from forget_mi.runs.run import OUTPUTS, open_run
from forget_mi.training.devices import DeviceConfig, make_accelerator
from forget_mi.unlearning import forget_mi, held_out_targets
from forget_mi.unlearning.kept import KeptOutputs


def said(rows) -> ModelOutput:
    """Of each row numbers that are its own."""
    rows = torch.as_tensor(np.asarray(rows), dtype=torch.float32)[:, None]
    return ModelOutput(rows + 0.1, rows + 0.2, rows + torch.tensor([[0.3, 0.4]]), rows + 0.5)


def alike(a: ModelOutput, b: ModelOutput) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(
    asked=st.lists(st.lists(st.integers(0, 30), min_size=1, unique=True), max_size=5),
    wanted=st.sets(st.integers(0, 40)),
)
@settings(max_examples=60, deadline=None)
def test_what_was_added_is_known_and_nothing_else(asked, wanted):
    kept = KeptOutputs("nowhere", "f")
    for rows in asked:
        kept.add(np.array(rows), said(rows))
    wanted = np.array(sorted(wanted), dtype=np.int64)[::-1]
    known, values = kept.of(wanted)
    assert set(wanted[known]) == set(wanted) & {row for rows in asked for row in rows}
    if asked:
        assert alike(values, said(wanted[known]))
    else:
        assert values is None


def test_a_file_is_read_again_and_two_processes_add_up(tmp_path):
    path = tmp_path / "kept.safetensors"
    first, second = KeptOutputs.open(path, "f"), KeptOutputs.open(path, "f")
    first.add(np.array([4, 1]), said([4, 1]))
    second.add(np.array([2, 4]), said([2, 4]))
    first.save()
    second.save()
    again = KeptOutputs.open(path, "f")
    assert again.rows.tolist() == [1, 2, 4]
    assert alike(again.values, said([1, 2, 4]))
    assert len(KeptOutputs.open(path, "another model's")) == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "kept.safetensors"
    kept = KeptOutputs.open(path, "f")
    kept.add(np.array([1]), said([1]))
    kept.save()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=r"kept\.safetensors: is damaged .* remove it"):
        KeptOutputs.open(path, "f")


@pytest.mark.parametrize("method", [forget_mi, held_out_targets])
def test_a_second_run_asks_nothing_and_ends_the_same(method, original, unlearning_data, accelerator):
    how = {"seed": 0, "accelerator": accelerator, "progress": False}
    config = method.Config(epochs=2, stop="never")
    kept = KeptOutputs("nowhere", "f")
    lazily, first = method.unlearn(original[0], unlearning_data, config, **how)
    method.unlearn(original[0], replace(unlearning_data, kept=kept), config, **how)
    asked = kept.rows.copy()
    assert set(asked) <= set(unlearning_data.retain.rows.tolist())  # nothing of the forgotten is kept
    again, second = method.unlearn(original[0], replace(unlearning_data, kept=kept), config, **how)
    assert second.work == pytest.approx(first.work - len(asked) / 3)
    assert kept.rows.tolist() == asked.tolist()
    for (name, a), b in zip(lazily.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_a_run_keeps_them_by_what_they_were_made_of(tmp_path):
    run = open_run("tiny", tmp_path / "run", {"keep_outputs": True, "training.epochs": 1})
    cohort = split_by_patient(run.source(), run.params.split)
    run.train("original", cohort, make_request(cohort, run.params.request), run.accelerator())
    original = run.trained("original", cohort)
    kept = run.kept_outputs(original, run.accelerator())
    assert kept.path == run.stage("02_train") / OUTPUTS
    kept.add(np.array([1]), said([1]))
    kept.save()
    assert len(run.kept_outputs(original, run.accelerator())) == 1
    assert len(run.kept_outputs(original, make_accelerator(DeviceConfig(device="cpu", precision="bf16")))) == 0
    other = replace(original, manifest={**read_manifest(run.stage("02_train") / "original"), "weights_sha256": "0"})
    assert len(run.kept_outputs(other, run.accelerator())) == 0
    assert open_run("tiny", tmp_path / "run").kept_outputs(original, run.accelerator()) is None
