"""Models in and out: the authors' released folder, save_pretrained and its card, exports for
servers."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL, differs, weights
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from forget_mi.data.batches import make_examples
from forget_mi.errors import InputError
from forget_mi.models.build import build_model
from forget_mi.models.card import model_card
from forget_mi.models.checkpoints import MANIFEST, save_checkpoint
from forget_mi.models.config import ModelConfig
from forget_mi.models.export import FORMATS, export_model
from forget_mi.models.pretrained import from_pretrained, load_trained, save_pretrained
from forget_mi.models.released import load_released, renamed_key
from forget_mi.models.tokenizers import build_tokenizer

# ---- the authors' release ------------------------------------------------------------------------

CHANNELS, WIDTH = (4, 4, 8, 8, 8, 8, 16, 16), 64  # 2 x 2 x 16


def released_state(classes: int = 4, old_names: bool = False) -> dict[str, torch.Tensor]:
    """A state dict in the published layout with random weights, small."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.1

    def batch_norm(name, n):
        return {
            f"{name}.weight": 1 + random(n),
            f"{name}.bias": random(n),
            f"{name}.running_mean": random(n),
            f"{name}.running_var": random(n).abs() + 1,
            f"{name}.num_batches_tracked": torch.tensor(7),
        }

    stem, *stages = CHANNELS
    state = {"img_model.conv1.weight": random(stem, 1, 7, 7), **batch_norm("img_model.bn1", stem)}
    for number, (before, after) in enumerate(zip(CHANNELS, stages, strict=False), start=1):
        for block in (0, 1):
            name, into = f"img_model.layer{number}.{block}", before if block == 0 else after
            state |= {
                f"{name}.conv1.weight": random(after, into, 3, 3),
                **batch_norm(f"{name}.bn1", after),
            }
            state |= {
                f"{name}.conv2.weight": random(after, after, 3, 3),
                **batch_norm(f"{name}.bn2", after),
            }
        state |= {f"img_model.layer{number}.0.downsample.0.weight": random(after, before, 1, 1)}
        state |= batch_norm(f"img_model.layer{number}.0.downsample.1", after)
    state |= {"img_model.fc1.weight": random(classes, WIDTH), "img_model.fc1.bias": random(classes)}
    torch.manual_seed(4)
    for key, value in BertModel(BertConfig(**BERT)).state_dict().items():
        if old_names:
            key = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
        state[f"text_model.bert.{key}"] = value
    state |= {
        "text_model.classifier.weight": random(classes, WIDTH),
        "text_model.classifier.bias": random(classes),
    }
    return state | {
        "classifier.weight": random(classes, 2 * WIDTH),
        "classifier.bias": random(classes),
    }


BERT = {"vocab_size": 120, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "num_labels": 4, "max_position_embeddings": 64}  # fmt: skip


def released_folder(folder, state=None, config=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**BERT, **(config or {})}))
    torch.save(released_state() if state is None else state, folder / "pytorch_model.bin")
    return folder


def read_independently(state, images, ids, mask):
    """z_img, its logits, z_txt, its logits, straight from the state dict with torch.nn.functional
    alone."""
    f = torch.nn.functional

    def norm(x, name):
        return f.batch_norm(
            x,
            *(
                state[f"{name}.{part}"]
                for part in ("running_mean", "running_var", "weight", "bias")
            ),
        )

    x = norm(
        f.conv2d(images, state["img_model.conv1.weight"], stride=4, padding=3), "img_model.bn1"
    ).relu()
    for number in range(1, len(CHANNELS)):
        for block in (0, 1):
            name, stride = f"img_model.layer{number}.{block}", 2 if block == 0 else 1
            y = norm(
                f.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"
            ).relu()
            y = norm(f.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if block == 0:
                x = norm(
                    f.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2),
                    f"{name}.downsample.1",
                )
            x = (x + y).relu()
    z = f.adaptive_avg_pool2d(x, 2).flatten(1)
    bert = BertModel(BertConfig(**BERT)).eval()
    names = {".gamma": ".weight", ".beta": ".bias"}
    own = {
        key.removeprefix("text_model.bert."): value
        for key, value in state.items()
        if key.startswith("text_model.b")
    }
    for old, new in names.items():
        own = {
            key.replace(old, new) if key.endswith(old) else key: value for key, value in own.items()
        }
    bert.load_state_dict(own)
    pooled = bert(ids, mask).pooler_output
    return (
        z,
        f.linear(z, state["img_model.fc1.weight"], state["img_model.fc1.bias"]),
        pooled,
        f.linear(
            pooled, state["text_model.classifier.weight"], state["text_model.classifier.bias"]
        ),
    )


@pytest.mark.parametrize("old_names", [False, True])
def test_the_released_weights_say_what_an_independent_reading_says(old_names, tmp_path):
    state = released_state(old_names=old_names)
    released = load_released(released_folder(tmp_path / "released", state))
    images, ids = torch.rand(3, 1, 256, 256), torch.randint(5, 120, (3, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        said, expected = (
            released.model(images, ids, mask),
            read_independently(state, images, ids, mask),
        )
    for name, value in zip(
        ("image_embedding", "image_logits", "text_embedding", "text_logits"), expected, strict=True
    ):
        torch.testing.assert_close(getattr(said, name), value, msg=name)
    assert set(released.unused) == {"classifier.weight", "classifier.bias"}
    assert set(released.used) | set(released.unused) == set(state)
    assert renamed_key("text_model.bert.embeddings.position_ids") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {"img_model.layer3.0.conv2.weight": torch.zeros(8, 8, 5, 5)},
            r"image_tower.stages.2.0.conv2.weight has shape \(8, 8, 5, 5\), "
            r"the model's is \(8, 8, 3, 3\)",
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != "img_model.fc1.bias"},
            "such as image_tower.head.bias",
        ),
        (
            lambda s: s | {"img_model.extra": torch.zeros(1)},
            "1 tensors are unknown to it, such as image_tower.extra",
        ),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("img_model.")},
            "lacks img_model.conv1.weight",
        ),
    ],
)
def test_a_release_that_does_not_fit_names_the_tensor(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_released(released_folder(tmp_path / "released", change(released_state())))


def test_a_release_cut_short_or_malicious_is_refused(tmp_path):
    folder = released_folder(tmp_path / "released")
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"pytorch_model.bin: can't be read"):
        load_released(folder)

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"img_model.conv1.weight": Evil()}, file)
    with pytest.raises(InputError, match="is refused, since reading it would run code of its own"):
        load_released(folder)
    file.unlink()
    with pytest.raises(
        InputError, match=r"holds no pytorch_model\.bin; a released folder has config.json and"
    ):
        load_released(folder)


def test_the_release_needs_a_tokenizer_and_the_cohorts_classes(tmp_path):
    folder = str(released_folder(tmp_path / "released"))
    with pytest.raises(InputError, match=r"no tokenizer lies beside the weights.*scibert"):
        load_trained(folder, ModelConfig(), 4)
    with pytest.raises(InputError, match="tells 4 classes apart, the cohort has 2"):
        load_trained(folder, ModelConfig(), 2)
    build_tokenizer(ModelConfig(text_vocabulary=100), ["some words to read"] * 3).save_pretrained(
        tmp_path / "words"
    )
    model, tokenizer = load_trained(folder, ModelConfig(tokenizer=str(tmp_path / "words")), 4)
    assert len(tokenizer) <= 120
    assert model.widths == (WIDTH, WIDTH)


# ---- as the ecosystem keeps models ---------------------------------------------------------------


@pytest.fixture
def some(cohort, original):
    return make_examples(cohort, range(5), original[1], TINY_MODEL.max_tokens).__getitems__(
        range(5)
    )


def said_by(model, batch):
    with torch.no_grad():
        return model(batch["images"], batch["input_ids"], batch["attention_mask"])


def test_a_saved_model_comes_back_the_same(original, some, tmp_path):
    save_pretrained(tmp_path / "model", *original)
    model, tokenizer = from_pretrained(tmp_path / "model")
    for a, b in zip(said_by(original[0].eval(), some), said_by(model, some), strict=True):
        assert torch.equal(a, b)
    assert tokenizer.get_vocab() == original[1].get_vocab()
    assert (tmp_path / "model" / "config.json").is_file()
    # The same through what a run is given: this folder, a run's checkpoint, or the bare state dict.
    save_checkpoint(tmp_path / "checkpoint", *original, {"cohort_fingerprint": "x"})
    for path in (
        tmp_path / "model",
        tmp_path / "checkpoint",
        tmp_path / "model" / "model.safetensors",
    ):
        again, _ = load_trained(path, TINY_MODEL, 4)
        assert not differs(weights(again), weights(model))
    with pytest.raises(
        InputError, match=r"there is neither a file with a state dict nor a folder with model.safe"
    ):
        load_trained(tmp_path, TINY_MODEL, 4)


def test_a_half_written_folder_is_not_taken_for_whole(original, tmp_path, monkeypatch):
    save_pretrained(tmp_path / "model", *original)
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="is no whole safetensors file"):
        from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(InputError, match="is no configuration of a forget-mi model"):
        from_pretrained(tmp_path / "model")

    from forget_mi.models import pretrained

    monkeypatch.setattr(pretrained, "model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_pretrained(tmp_path / "other", *original)
    assert not (tmp_path / "other").exists()


def test_the_card_says_what_is_known_and_no_more():
    model = build_model(TINY_MODEL, 4, 100, seed=0)
    assert "Not audited." in model_card(model, {})
    rows = [{"measure": "attack: loss", "value": 0.52, "low": 0.4, "high": 0.6}]
    facts = {
        "name": "held_out_targets",
        "cohort": "synthetic",
        "method": "held_out_targets",
        "rows": rows,
    }
    card = model_card(model, {**facts, "requests": ["h1", "h2"]})
    assert "2 patients, by hashed id: h1, h2." in card
    assert "| attack: loss | 0.520 | 0.400 to 0.600 |" in card
    assert "no medical device" in card


def test_the_cards_code_runs_without_this_library(tmp_path):
    settings = ModelConfig(
        image_network="torchvision:resnet18", image_inputs=1, text_width=32, text_heads=2
    )
    tokenizer = build_tokenizer(settings, ["no edema is seen", "mild edema"] * 4)
    model = build_model(settings, 4, len(tokenizer), seed=0).eval()
    save_pretrained(tmp_path / "model", model, tokenizer)
    card = (tmp_path / "model" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    ask = """
import sys, torch
sys.modules["forget_mi"] = None
torch.manual_seed(0)
pixels = torch.rand(2, 1, 64, 64)
with torch.no_grad():
    print(image_logits(pixels).tolist())
    print(text_logits(["no edema is seen", "mild edema"]).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", code + ask],
        cwd=tmp_path / "model",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    image, text = (np.array(json.loads(line)) for line in done.stdout.strip().splitlines())
    torch.manual_seed(0)
    tokens = tokenizer(["no edema is seen", "mild edema"], padding=True, return_tensors="pt")
    with torch.no_grad():
        said = model(torch.rand(2, 1, 64, 64), tokens["input_ids"], tokens["attention_mask"])
    np.testing.assert_allclose(image, said.image_logits, atol=1e-5)
    np.testing.assert_allclose(text, said.text_logits, atol=1e-5)


# ---- exports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_export_says_what_the_model_says(name, original, some, tmp_path):
    assert export_model(original[0], tmp_path, some, (name,))[name] <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == [FORMATS[name]]


def test_an_export_that_says_something_else_is_not_left(original, some, tmp_path, monkeypatch):
    from forget_mi.models import export

    wrong = {
        **export.WRITERS,
        "torchscript": lambda served, two, other, path: [path.write_text("x"), 1, 1],
    }
    monkeypatch.setattr(export, "WRITERS", wrong)
    with pytest.raises(RuntimeError, match="would differ from the model by"):
        export_model(original[0], tmp_path, some, ("torchscript",))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        InputError, match="format 'tflite': allowed are torchscript, torch_export, onnx"
    ):
        export_model(original[0], tmp_path, some, ("tflite",))
    with pytest.raises(InputError, match="at least 3 are needed"):
        export_model(
            original[0], tmp_path, {key: value[:2] for key, value in some.items()}, ("onnx",)
        )


def test_a_weights_file_beside_its_tokenizer(original, tmp_path):
    save_file(weights(original[0]), tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="no tokenizer lies beside the weights"):
        load_trained(tmp_path / "own.safetensors", TINY_MODEL, 4)
    original[1].save_pretrained(tmp_path)
    assert load_trained(tmp_path / "own.safetensors", TINY_MODEL, 4)[0].classes == 4
    assert not (tmp_path / MANIFEST).exists()
