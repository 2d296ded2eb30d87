"""Several processes and lower precision: the same result as one process in fp32, here over gloo on
the CPU."""

import copy
import os
import socket

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, differs, weights
from torch import multiprocessing

from forget_mi.data.cohort import rows_of
from forget_mi.data.cohorts import synthetic
from forget_mi.data.requests import draw_request
from forget_mi.data.splits import SplitConfig, split_by_patient
from forget_mi.metrics import mean_auc
from forget_mi.models.build import build_model
from forget_mi.models.config import ModelConfig
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.training.config import DeviceConfig, TrainingConfig
from forget_mi.training.devices import make_accelerator, synchronise_batch_norm
from forget_mi.training.loop import train
from forget_mi.training.prediction import predict
from forget_mi.unlearning import forget_mi, scrub
from forget_mi.unlearning.base import UnlearningData
from forget_mi.unlearning.samplers import StepIndices, micro_batches, shard

UNLEARNING = {
    "forget_mi": (
        forget_mi,
        forget_mi.Config(sigma=0.3, epochs=2, batch_size=4, retain_batch=4, stop="never"),
    ),
    # Starts a step away from F_og: at F_og itself the retained distances are rounding, and their
    # gradient, a unit vector along it, depends on how many records go through the model at once.
    "no_noise": (
        forget_mi,
        forget_mi.Config(setting="no_noise", epochs=2, batch_size=4, retain_batch=4, stop="never"),
    ),
    "scrub": (scrub, scrub.Config(epochs=2, batch_size=4, retain_batch=8, stop="never")),
}


def without_batch_norm(model: ImageTextModel) -> ImageTextModel:
    """What PyTorch cannot synchronise on CPUs is left out."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
    return model


def prepared(towers="both") -> tuple:
    cohort = synthetic.load(
        synthetic.SyntheticConfig(patients=40, image_size=32, images_per_patient=3)
    )
    cohort = split_by_patient(cohort, SplitConfig(test=0.25, validation=0.2))
    settings = ModelConfig(**{**TINY_MODEL.__dict__, "towers": towers.split(",")[0]})
    tokenizer = build_tokenizer(
        settings, [cohort.report_of(row) for row in rows_of(cohort, "train")]
    )
    model = build_model(settings, len(cohort.classes), len(tokenizer), seed=0)
    if "no batch norm" in towers:
        model = without_batch_norm(model)
    data = UnlearningData.from_cohort(
        cohort, draw_request(cohort, 0.15, 0), tokenizer, settings.max_tokens
    )
    # A number of records that two processes share evenly: 8 to forget, and whole batches to retain.
    some = data.retain.select(range(len(data.retain) // 16 * 16))
    return model, UnlearningData(
        data.forget.select(range(8)),
        some,
        data.validation,
        data.forget_reports[:8],
        data.tokenizer,
        data.max_tokens,
    )


def trained(towers: str, folder: str, parts: int = 1) -> tuple[dict, list]:
    model, data = prepared(towers)
    settings = TrainingConfig(epochs=2, batch_size=16, learning_rate=1e-3)
    accelerator = make_accelerator(DeviceConfig(device="cpu", parts=parts))
    log = train(
        model,
        data.retain,
        data.validation,
        settings,
        seed=0,
        accelerator=accelerator,
        progress=False,
        state_folder=os.path.join(folder, "state"),
    )
    return model.state_dict(), [row["train_loss"] for row in log.epochs]


def unlearned(name: str, parts: int = 1) -> tuple[dict, list]:
    model, data = prepared()
    module, settings = UNLEARNING[name]
    accelerator = make_accelerator(DeviceConfig(device="cpu", parts=parts))
    found, log = module.unlearn(
        model, data, settings, seed=0, accelerator=accelerator, progress=False
    )
    return found.state_dict(), [row["total"] for row in log.epochs]


# What two processes do, one after another: to start them takes longer than any of it.
IN_TWO = {
    "forget_mi": (unlearned, "forget_mi"),
    "scrub": (unlearned, "scrub"),
    "parts": (unlearned, "no_noise", 2),
    "text": (trained, "text"),
    "both": (trained, "both"),
    "both, no batch norm": (trained, "both, no batch norm"),
}


def in_process(rank: int, port: int, folder: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    for name, (work, *arguments) in IN_TWO.items():
        where = [os.path.join(folder, name)] if work is trained else []
        torch.save(
            work(arguments[0], *where, *arguments[1:]), os.path.join(folder, f"{name}-{rank}.pt")
        )
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(
        in_process, (port, str(folder)), nprocs=2, start_method="spawn", join=True
    )
    return folder


def in_two(folder, name: str) -> list[tuple[dict, list]]:
    """What both processes end with."""
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)]


def farthest(a: dict, b: dict) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


@pytest.mark.parametrize("name", ["forget_mi", "scrub"])
def test_two_processes_unlearn_as_one_does(name, folder_of_two):
    alone, losses = unlearned(name)
    start = prepared()[0].state_dict()
    one, other = in_two(folder_of_two, name)
    assert farthest(one[0], other[0]) == 0
    assert farthest(alone, one[0]) < 1e-3 * farthest(alone, start)
    np.testing.assert_allclose(one[1], losses, rtol=1e-4)


def test_two_processes_train_a_text_tower_as_one_does(folder_of_two, tmp_path):
    alone, losses = trained("text", str(tmp_path / "alone"))
    one, other = in_two(folder_of_two, "text")
    assert farthest(one[0], other[0]) == 0
    assert farthest(alone, one[0]) < 1e-2 * farthest(alone, prepared("text")[0].state_dict())
    np.testing.assert_allclose(one[1], losses, rtol=1e-4)
    assert (folder_of_two / "text" / "state" / "log.json").is_file()


def test_two_processes_train_both_towers_as_one_does(folder_of_two, tmp_path):
    """The ranking loss has its neighbours across processes."""
    name = "both, no batch norm"
    alone, losses = trained(name, str(tmp_path / "alone"))
    one, other = in_two(folder_of_two, name)
    assert farthest(one[0], other[0]) == 0
    assert farthest(alone, one[0]) < 1e-2 * farthest(alone, prepared(name)[0].state_dict())
    np.testing.assert_allclose(one[1], losses, rtol=1e-5)


def test_with_the_batch_statistics_of_a_share_the_loss_is_about_the_same(folder_of_two, tmp_path):
    """On CPUs each process normalises by its own half of the batch, so no closer."""
    _, losses = trained("both", str(tmp_path / "alone"))
    one, other = in_two(folder_of_two, "both")
    assert one[1] == other[1]
    np.testing.assert_allclose(one[1], losses, rtol=0.1)


def test_batch_norm_is_synchronised_between_cards_and_only_there(original):
    class Accelerator:
        num_processes, device = 2, torch.device("cpu")

    model, before = copy.deepcopy(original[0]), weights(original[0])
    synchronise_batch_norm(model, Accelerator)
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules())
    Accelerator.device = torch.device("cuda")
    parameters = list(model.parameters())
    synchronise_batch_norm(model, Accelerator)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)
    assert not differs(before, model.state_dict())
    # The same tensors: an optimizer that has them goes on with them.
    assert {id(p) for p in model.parameters()} == {id(p) for p in parameters}


@pytest.mark.parametrize("work", [unlearned, trained])
def test_a_step_in_parts_is_the_step(work, tmp_path):
    first = "no_noise" if work is unlearned else "text"
    more = (str(tmp_path),) if work is trained else ()
    start = prepared("both" if work is unlearned else "text")[0].state_dict()
    whole, losses = work(first, *more)
    parts, in_parts = work(first, *(f"{folder}/parts" for folder in more), 2)
    assert farthest(whole, parts) < 1e-2 * farthest(whole, start)
    np.testing.assert_allclose(in_parts, losses, rtol=1e-4)


def test_two_processes_take_their_shares_in_parts(folder_of_two):
    alone, losses = unlearned("no_noise")
    start = prepared()[0].state_dict()
    one, other = in_two(folder_of_two, "parts")
    assert farthest(one[0], other[0]) == 0
    assert farthest(alone, one[0]) < 1e-2 * farthest(alone, start)
    np.testing.assert_allclose(one[1], losses, rtol=1e-4)


def test_parts_go_through_the_model_one_after_another(original, unlearning_data, monkeypatch):
    seen = []
    forward = ImageTextModel.forward
    monkeypatch.setattr(
        ImageTextModel,
        "forward",
        lambda self, *pair: seen.append(len(pair[0])) or forward(self, *pair),
    )
    settings = forget_mi.Config(epochs=1, batch_size=4, retain_batch=6, stop="never")
    for parts in (1, 2):
        seen.clear()
        accelerator = make_accelerator(DeviceConfig(device="cpu", parts=parts))
        forget_mi.unlearn(
            original[0], unlearning_data, settings, seed=0, accelerator=accelerator, progress=False
        )
        # Six records to forget in two steps of three, each with six to retain.
        assert (seen.count(9), seen.count(5), seen.count(4)) == (
            (2, 0, 0) if parts == 1 else (0, 2, 2)
        )


def test_a_step_is_cut_evenly():
    pieces = micro_batches(StepIndices(np.arange(5), np.arange(10, 18)), 3)
    assert [(len(p.forget), len(p.retain)) for p in pieces] == [(2, 3), (2, 3), (1, 2)]
    assert np.concatenate([p.retain for p in pieces]).tolist() == list(range(10, 18))
    assert len(micro_batches(StepIndices(np.arange(2), np.arange(9)), 4)) == 2
    assert len(micro_batches(StepIndices(np.arange(0), np.arange(9)), 4)) == 4


def test_every_record_of_a_step_is_taken_by_one_process():
    draw = StepIndices(np.arange(5), np.arange(10, 17))
    parts = [shard(draw, rank, 3) for rank in range(3)]
    assert sorted(np.concatenate([p.forget for p in parts])) == list(range(5))
    assert sorted(np.concatenate([p.retain for p in parts])) == list(range(10, 17))
    alone = shard(StepIndices(np.arange(1), np.arange(0)), 1, 3)
    assert (len(alone.forget), len(alone.retain)) == (1, 0)


def test_bf16_reaches_the_conclusions_of_fp32(original, unlearning_data):
    model, _ = original
    found = {}
    for precision in ("fp32", "bf16"):
        accelerator = make_accelerator(DeviceConfig(device="cpu", precision=precision))
        settings = forget_mi.Config(
            sigma=0.3, epochs=3, batch_size=4, retain_batch=8, learning_rate=1e-3, stop="never"
        )
        unlearned, log = forget_mi.unlearn(
            model, unlearning_data, settings, seed=0, accelerator=accelerator, progress=False
        )
        sets = (unlearning_data.forget, unlearning_data.validation)
        forget, validation = (predict(unlearned, each, accelerator) for each in sets)
        found[precision] = (
            forget.cross_entropy("fused").mean(),
            mean_auc(validation.labels, validation.probabilities("fused")),
        )
        assert log.epochs[-1]["uu"] < log.epochs[0]["uu"]
        assert next(unlearned.parameters()).dtype == torch.float32
    np.testing.assert_allclose(found["bf16"], found["fp32"], rtol=0.05)
    assert found["bf16"] != found["fp32"]
