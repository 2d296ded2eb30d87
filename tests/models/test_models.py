import copy
import pickle

import pytest
import torch
from conftest import TINY_MODEL
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from forget_mi.errors import InputError
from forget_mi.losses import training_loss
from forget_mi.models.build import build_model
from forget_mi.models.config import NAMED, ModelConfig, model_config
from forget_mi.models.outputs import fused_probabilities
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.models.towers import ImageTower, TextTower
from forget_mi.training.loop import make_optimizer, translate

REPORTS = ["no edema is seen", "mild edema is seen", "severe edema with effusions is seen"] * 5


def test_the_towers_give_logits_and_embeddings_of_one_width():
    model = build_model(TINY_MODEL, classes=4, vocabulary=100, seed=0).eval()
    ids = torch.randint(0, 100, (3, 7))
    output = model(torch.rand(3, 1, 32, 32), ids, torch.ones_like(ids))
    assert output.image_embedding.shape == output.text_embedding.shape == (3, 16)
    assert output.image_logits.shape == output.text_logits.shape == (3, 4)
    # The logits are linear in the embeddings.
    torch.testing.assert_close(model.image_tower.head(output.image_embedding), output.image_logits)
    torch.testing.assert_close(model.text_tower.head(output.text_embedding), output.text_logits)
    fused = fused_probabilities(output.image_logits, output.text_logits)
    torch.testing.assert_close(
        fused, (output.image_logits.softmax(1) + output.text_logits.softmax(1)) / 2
    )


def test_padding_changes_nothing():
    model = build_model(TINY_MODEL, classes=4, vocabulary=100, seed=0).eval()
    ids = torch.randint(5, 100, (2, 6))
    mask = torch.ones_like(ids)
    padded, padded_mask = (torch.nn.functional.pad(t, (0, 5)) for t in (ids, mask))
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        model(images, ids, mask).text_logits, model(images, padded, padded_mask).text_logits
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_of_a_berts_last_layer_the_first_token_is_computed_as_all_are(attention):
    config = BertConfig(
        vocab_size=90,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=attention,
    )
    plain = BertModel(config)
    tower = TextTower(copy.deepcopy(plain), dropout=0.0, classes=2)
    assert list(tower.encoder.state_dict()) == list(plain.state_dict())
    ids = torch.randint(5, 90, (3, 9))
    for lengths in ((9, 4, 1), (9, 9, 9)):
        mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
        full, first = plain(ids, mask), tower.encoder(ids, mask)
        assert first.last_hidden_state.shape == (3, 1, 16)
        torch.testing.assert_close(first.last_hidden_state[:, 0], full.last_hidden_state[:, 0])
        torch.testing.assert_close(tower(ids, mask)[0], full.pooler_output)
        weight = torch.randn(3, 16)
        for output in (full, first):
            (output.pooler_output * weight).sum().backward()
        for (name, mine), theirs in zip(
            tower.encoder.named_parameters(), plain.parameters(), strict=True
        ):
            torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    # Copies, also in another process, are of the same kind.
    for again in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))):
        assert torch.equal(again(ids, mask)[0], tower(ids, mask)[0])
        assert again.encoder(ids, mask).last_hidden_state.shape == (3, 1, 16)


def test_other_encoders_run_whole():
    sizes = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = torch.randint(5, 90, (3, 9))
    for encoder in (
        RobertaModel(RobertaConfig(**sizes, intermediate_size=32)),
        BertModel(BertConfig(**sizes, intermediate_size=32, is_decoder=True)),
    ):
        tower = TextTower(encoder, dropout=0.0, classes=2)
        assert tower.encoder(ids, torch.ones_like(ids)).last_hidden_state.shape == (3, 9, 16)


def test_same_seed_same_weights():
    a, b, c = (build_model(TINY_MODEL, 4, 100, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_the_papers_image_tower_has_the_papers_shape():
    paper = NAMED["paper"]
    tower = ImageTower(paper.image_channels, paper.image_stem_stride, paper.image_pool, classes=4)
    assert [stage[1].conv2.out_channels for stage in tower.stages] == [8, 16, 32, 64, 128, 192, 192]
    assert all(len(stage) == 2 for stage in tower.stages)
    with torch.no_grad():
        features = tower.eval().bn1(tower.conv1(torch.rand(1, 1, 2048, 2048)))
        assert features.shape[-1] == 512
        for stage in tower.stages:
            features = stage(features)
    assert features.shape == (1, 192, 4, 4)
    assert paper.image_width == 768


def test_the_papers_configuration_takes_a_step_at_2048_pixels(tmp_path):
    # SciBERT's shape with random weights: what AutoModel would load from its folder, but for two
    # layers to be quick.
    config = BertConfig(
        vocab_size=200,
        hidden_size=768,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=3072,
    )
    BertModel(config).save_pretrained(tmp_path)
    build_tokenizer(TINY_MODEL, REPORTS).save_pretrained(tmp_path)
    settings = model_config({"name": "paper", "text_pretrained": str(tmp_path)})
    tokenizer = build_tokenizer(settings, [])
    model = build_model(settings, classes=4, vocabulary=len(tokenizer), seed=0)
    ids = tokenizer(REPORTS[:2], return_tensors="pt", padding="max_length", max_length=320)
    before = model.image_tower.conv1.weight.clone()
    output = model(torch.rand(2, 1, 2048, 2048), ids["input_ids"], ids["attention_mask"])
    loss = training_loss(output, torch.tensor([0, 3]), torch.tensor([0, 1]))
    loss.backward()
    make_optimizer(model, 1e-3, 0.1).step()
    assert torch.isfinite(loss)
    assert not torch.equal(before, model.image_tower.conv1.weight)


def test_the_papers_model_has_about_114_million_parameters():
    with torch.device("meta"):
        text = BertModel(BertConfig(vocab_size=31_090))
        image = ImageTower(NAMED["paper"].image_channels, 4, 2, 4)
    assert sum(p.numel() for m in (text, image) for p in m.parameters()) / 1e6 == pytest.approx(
        114, abs=2
    )


def test_a_pretrained_text_tower_keeps_its_weights(tmp_path):
    config = BertConfig(
        vocab_size=90,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    saved = BertModel(config)
    saved.save_pretrained(tmp_path)
    settings = ModelConfig(image_channels=(8, 16), text_pretrained=str(tmp_path))
    model = build_model(settings, classes=2, vocabulary=90, seed=0)
    assert torch.equal(
        model.text_tower.encoder.embeddings.word_embeddings.weight,
        saved.embeddings.word_embeddings.weight,
    )


def test_a_missing_pretrained_tower_says_so(tmp_path):
    settings = ModelConfig(image_channels=(8, 16), text_pretrained=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"model\.text_pretrained = '.*nowhere'"):
        build_model(settings, 2, 90, seed=0)
    with pytest.raises(InputError, match=r"model\.text_pretrained"):
        build_tokenizer(settings, [])


def test_towers_of_different_width_stop(tmp_path):
    with pytest.raises(InputError, match=r"text_width = 64: both embeddings need the same width"):
        ModelConfig(image_channels=(8, 16), text_width=64)
    wide = BertConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(wide).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="32 wide and the image tower 16"):
        build_model(
            ModelConfig(image_channels=(8, 16), text_pretrained=str(tmp_path)), 2, 90, seed=0
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "huge"}, r"model\.name = 'huge': allowed are small, paper"),
        ({"depth": 3}, r"unknown parameter model\.depth = 3"),
        ({"text_heads": 3}, r"text_heads = 3: must divide"),
        ({"dropout": 1.0}, r"model\.dropout = 1\.0"),
        ({"image_channels": [16]}, "needs a stem and a stage"),
    ],
)
def test_impossible_models_stop(values, message):
    with pytest.raises(InputError, match=message):
        model_config(values)


def test_the_vocabulary_holds_the_training_reports_words_only():
    tokenizer = build_tokenizer(TINY_MODEL, REPORTS)
    assert "edema" in tokenizer.get_vocab()
    assert "pneumothorax" not in tokenizer.get_vocab()
    assert tokenizer("edema")["input_ids"][0] == tokenizer.cls_token_id
    assert tokenizer.tokenize("[MASK] edema")[0] == "[MASK]"


def test_translation_shifts_without_wrapping():
    torch.manual_seed(0)
    images = torch.zeros(50, 1, 10, 10)
    images[:, 0, 4:6, 4:6] = 1
    moved = translate(images, 0.2)
    assert moved.shape == images.shape
    assert torch.equal(moved.sum((1, 2, 3)), torch.full((50,), 4.0))  # still there, whole
    assert len({tuple(m.flatten().tolist()) for m in moved}) > 5
    assert translate(images, 0) is images
