import json

import pytest
import torch

from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole
from forget_mi.models.checkpoints import load_checkpoint, save_checkpoint


@pytest.fixture
def saved(original, tmp_path):
    model, tokenizer = original
    save_checkpoint(
        tmp_path / "model", model, tokenizer, {"method": "original", "cohort_fingerprint": "abc"}
    )
    return tmp_path / "model"


def test_save_and_load_are_inverse(saved, original, unlearning_data):
    loaded = load_checkpoint(saved, fingerprint="abc")
    for name, tensor in original[0].state_dict().items():
        assert torch.equal(tensor.cpu(), loaded.model.state_dict()[name]), name
    assert loaded.tokenizer.get_vocab() == original[1].get_vocab()
    assert loaded.manifest["method"] == "original"
    assert not loaded.model.training
    report = unlearning_data.forget_reports[0]
    assert loaded.tokenizer(report)["input_ids"] == original[1](report)["input_ids"]


def test_another_cohort_is_refused(saved):
    with pytest.raises(
        InputError, match=r"another cohort or split \(fingerprint abc, the cohort here has xyz\)"
    ):
        load_checkpoint(saved, fingerprint="xyz")


@pytest.mark.parametrize(
    "harm", ["truncated", "one bit", "no weights", "no manifest", "torn manifest"]
)
def test_a_damaged_checkpoint_is_refused(saved, harm):
    weights, manifest = saved / "model.safetensors", saved / "manifest.json"
    data = bytearray(weights.read_bytes())
    if harm == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif harm == "one bit":
        data[-5] ^= 1
        weights.write_bytes(data)
    elif harm == "no weights":
        weights.unlink()
    elif harm == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    with pytest.raises(InputError, match=str(saved)):
        load_checkpoint(saved)


def test_a_failed_save_leaves_the_old_checkpoint(saved, original, monkeypatch):
    before = json.loads((saved / "manifest.json").read_text())

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, *original, {"method": "other", "cohort_fingerprint": "abc"})
    assert json.loads((saved / "manifest.json").read_text()) == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "f.txt"
    target.write_text("old")

    def write_half():
        with replace_when_whole(target) as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    with replace_when_whole(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1
