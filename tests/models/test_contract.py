import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_MODEL, differs, weights
from torch import nn
from torchvision import models
from transformers import BertConfig, BertForSequenceClassification

from forget_mi import unlearning
from forget_mi.data.batches import make_examples
from forget_mi.data.cohort import rows_of
from forget_mi.data.cohorts import load_cohort
from forget_mi.data.cohorts.custom import CohortContract, as_cohort
from forget_mi.errors import InputError
from forget_mi.evaluation.audit import audit_model
from forget_mi.evaluation.config import AuditConfig
from forget_mi.models.adapters import adapt
from forget_mi.models.build import build_model, reinitialized
from forget_mi.models.checkpoints import Checkpoint, save_checkpoint
from forget_mi.models.config import ModelConfig
from forget_mi.models.contract import ModelContract, problems_of_model, require_model
from forget_mi.models.outputs import ModelOutput
from forget_mi.models.tokenizers import build_tokenizer
from forget_mi.unlearning.base import UnlearningData


def bert(vocabulary: int) -> nn.Module:
    torch.manual_seed(1)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=4,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def resnet() -> nn.Module:
    torch.manual_seed(2)
    return models.resnet18(num_classes=4)


@pytest.fixture(scope="module")
def tokenizer(cohort):
    reports = [
        cohort.reports[study]
        for study in cohort.table.study_id.iloc[rows_of(cohort, "train")].unique()
    ]
    return build_tokenizer(TINY_MODEL, reports)


@pytest.fixture(scope="module")
def examples(cohort, tokenizer):
    return make_examples(cohort, range(6), tokenizer, 24)


@pytest.fixture
def adapted(tokenizer):
    return adapt(resnet(), bert(len(tokenizer)), max_tokens=24).eval()


def test_adapted_networks_say_what_they_say_by_themselves(adapted, examples):
    batch = examples.__getitems__(range(4))
    with torch.no_grad():
        output = adapted(batch["images"], batch["input_ids"], batch["attention_mask"])
        image = resnet().eval()(batch["images"].expand(-1, 3, -1, -1))
        text = bert(adapted.text_tower.network.config.vocab_size).eval()(
            batch["input_ids"], batch["attention_mask"]
        )
    torch.testing.assert_close(output.image_logits, image)
    torch.testing.assert_close(output.text_logits, text.logits)
    torch.testing.assert_close(adapted.image_tower.head(output.image_embedding), image)
    assert adapted.widths == (512, 16)
    assert isinstance(adapted, ModelContract)
    assert problems_of_model(adapted, examples, 4) == []


def test_a_copy_of_an_adapted_model_is_its_own(adapted, examples):
    import copy

    copied = copy.deepcopy(adapted)
    with torch.no_grad():
        for parameter in copied.image_tower.parameters():
            parameter.zero_()
    batch = examples.__getitems__(range(2))
    said = [
        model(batch["images"], batch["input_ids"], batch["attention_mask"])
        for model in (adapted, copied)
    ]
    assert not said[0].image_embedding.eq(0).all()
    assert said[1].image_embedding.eq(0).all()


@pytest.mark.parametrize(
    "approach",
    [
        "held_out_targets",
        "scrub",
        "neg_grad_plus",
        "salun",
        "random_labels",
        "cf_k",
        "fine_tune",
        "ssd",
    ],
)
def test_every_method_makes_an_adapted_model_forget(
    approach, adapted, cohort, request_10, references, tokenizer, accelerator
):
    data = references.teach(
        UnlearningData.from_cohort(cohort, request_10, tokenizer, adapted.max_tokens), cohort
    )
    method, before = unlearning.get_method(approach), weights(adapted)
    settings = method.Config() if approach in ("ssd",) else method.Config(epochs=1)
    unlearned, log = method.unlearn(
        adapted, data, settings, seed=0, accelerator=accelerator, progress=False
    )
    assert not differs(weights(adapted), before)
    assert differs(weights(unlearned), before)
    assert log.stopped
    # What was given is what comes back: the networks, not wrappers of them.
    assert isinstance(unlearned.image_tower.network, models.ResNet)
    resnet().load_state_dict(unlearned.image_tower.network.state_dict())


def test_forget_mi_needs_towers_of_one_width(adapted, cohort, request_10, tokenizer, accelerator):
    data = UnlearningData.from_cohort(cohort, request_10, tokenizer, adapted.max_tokens)
    method = unlearning.get_method("forget_mi")
    with pytest.raises(
        InputError,
        match="the image embedding is 512 wide and the text embedding 16: the joint embedding",
    ):
        method.unlearn(
            adapted, data, method.Config(epochs=1), seed=0, accelerator=accelerator, progress=False
        )


@pytest.mark.parametrize("towers", ["image", "text"])
def test_one_tower_is_enough(towers, cohort, request_10, tokenizer, accelerator):
    own = None if towers == "image" else tokenizer
    networks = {"image": resnet()} if towers == "image" else {"text": bert(len(tokenizer))}
    model = adapt(**networks, max_tokens=24).eval()
    assert model.max_tokens == (0 if towers == "image" else 24)
    data = UnlearningData.from_cohort(cohort, request_10, own, model.max_tokens)
    method = unlearning.get_method("forget_mi")
    unlearned, _ = method.unlearn(
        model,
        data,
        method.Config(epochs=1, stop="never"),
        seed=0,
        accelerator=accelerator,
        progress=False,
    )
    manifest = {"method": "forget_mi", "setting": "equal", "seconds": 1.0}
    audit = audit_model(
        "x",
        Checkpoint(unlearned, own, manifest),
        cohort,
        request_10,
        AuditConfig(draws=50),
        accelerator,
    )
    assert set(audit.measures.tower) == {"fused", towers}
    assert audit.value("test_auc") == audit.value("test_auc", towers)


def test_an_image_model_of_params_is_trained_saved_and_read(cohort, accelerator, tmp_path):
    from forget_mi.models.checkpoints import load_checkpoint
    from forget_mi.training.config import TrainingConfig
    from forget_mi.training.loop import train_new
    from forget_mi.training.prediction import predict

    settings = replace(
        TINY_MODEL, towers="image", image_network="torchvision:squeezenet1_1", image_inputs=1
    )
    rows = rows_of(cohort, "train")
    training = TrainingConfig(epochs=1, batch_size=16)
    model, tokenizer, _ = train_new(
        cohort, rows, settings, training, seed=1, accelerator=accelerator, progress=False
    )
    assert tokenizer is None
    save_checkpoint(
        tmp_path / "model", model, tokenizer, {"cohort_fingerprint": cohort.fingerprint}
    )
    saved = load_checkpoint(tmp_path / "model", fingerprint=cohort.fingerprint)
    some = make_examples(cohort, range(5), None, 0)
    np.testing.assert_array_equal(
        predict(model, some, accelerator).image_logits,
        predict(saved.model, some, accelerator).image_logits,
    )


# ---- the checker says what is missing ------------------------------------------------------------


class Says(nn.Module):
    """A model that says whatever it is made with."""

    classes, max_tokens, widths = 4, 24, (8, 8)

    def __init__(self, **said):
        super().__init__()
        self.said, self.weight = said, nn.Parameter(torch.zeros(1))

    def forward(self, images, input_ids, attention_mask):
        from forget_mi.models.adapters import as_model_output

        said = {name: value(len(images)) for name, value in self.said.items()}
        return as_model_output(said.get("tensor", said))


def logits(n):
    return torch.zeros(n, 4)


def z(n):
    return torch.zeros(n, 8)


WHOLE = {"image_logits": logits, "text_logits": logits, "image_embedding": z, "text_embedding": z}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tensor": logits},
            "no per-tower logits: the model gives a tensor (4, 4), and neither the unimodal losses",
        ),
        ({"image_logits": None}, "no logits of the image tower (image_logits)"),
        (
            {"text_embedding": None},
            "no embedding of the text tower (text_embedding): Forget-MI's distances",
        ),
        (
            {"image_logits": lambda n: torch.zeros(n, 3)},
            "image_logits has shape (4, 3), not (4, 4)",
        ),
        (
            {"text_logits": lambda n: torch.full((n, 4), torch.nan)},
            "text_logits holds NaN or infinity for 4 of 4",
        ),
        (
            {"image_embedding": lambda n: torch.randn(n, 8)},
            "answers differently when asked twice in evaluation mode",
        ),
        ({"image_logits": lambda n: 1 / 0}, "it raises ZeroDivisionError: division by zero"),
    ],
)
def test_the_checker_names_what_is_missing(change, message, examples):
    said = {name: value for name, value in {**WHOLE, **change}.items() if value is not None}
    model = Says(**said).eval()
    assert problems_of_model(Says(**WHOLE).eval(), examples, 4) == []
    found = problems_of_model(model, examples, 4)
    assert len(found) == 1
    assert message in found[0]
    with pytest.raises(InputError, match="my model: "):
        require_model(model, examples, 4, name="my model")


def test_the_checker_sees_mode_classes_gradients_and_tokenizer(adapted, examples, tokenizer):
    assert "is in training mode" in problems_of_model(adapted.train(), examples, 4)[0]
    adapted.eval()
    assert "tells 4 classes apart, the cohort has 3" in problems_of_model(adapted, examples, 3)[0]
    assert (
        "no parameter that requires a gradient"
        in problems_of_model(adapted.requires_grad_(False), examples, 4)[0]
    )
    small = adapt(text=bert(20)).eval()
    found = problems_of_model(small, make_examples, 4, tokenizer)
    assert f"the tokenizer has {len(tokenizer)} tokens and the text tower knows 20" in found[0]
    assert (
        "lacks classes, max_tokens, widths"
        in problems_of_model(nn.Linear(2, 2).eval(), examples, 4)[0]
    )
    assert "not a torch module" in problems_of_model(lambda *x: x, examples, 4)[0]


def test_networks_of_different_classes_and_missing_heads_are_refused(tokenizer):
    with pytest.raises(
        InputError, match="the image network tells 3 classes apart and the text network 4"
    ):
        adapt(models.resnet18(num_classes=3), bert(50))
    with pytest.raises(
        InputError, match="head 'classifier': ResNet has no such linear layer; it has fc"
    ):
        adapt(resnet(), image_head="classifier")
    with pytest.raises(InputError, match="neither an image nor a text network"):
        adapt()


def test_a_model_given_as_an_object_says_why_it_cannot_be_saved_or_made_anew(adapted, tmp_path):
    with pytest.raises(InputError, match="name the factory that builds it"):
        save_checkpoint(tmp_path / "x", adapted, None, {})
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="nothing says how a new one is built; name a factory"):
        reinitialized(adapted, 1)


# ---- factories -----------------------------------------------------------------------------------

OWN = """
import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision import models

from forget_mi.models import ModelOutput


def networks(classes, width=8):
    return {"image": models.resnet18(num_classes=classes)}


class Whole(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes, self.widths = classes, (4, 0)
        self.z, self.head = nn.Linear(32 * 32, 4), nn.Linear(4, classes)

    def forward(self, images, input_ids, attention_mask):
        z = self.z(images.flatten(1))
        return {"image_embedding": z, "image_logits": self.head(z)}


def whole(classes):
    return Whole(classes)


def number(classes):
    return 4


def people(n=12, images=True, drop=()):
    class Own:
        table = pd.DataFrame({"patient_id": [f"p{i // 2}" for i in range(n)],
                              "study_id": [f"s{i}" for i in range(n)],
                              "image_id": [f"i{i}" for i in range(n)],
                              "label": [i // 2 % 2 for i in range(n)]})
        images = np.zeros((n, 1, 8, 8), np.uint8)
        reports = {f"s{i}": f"report {i}" for i in range(n)}
        classes = ("no", "yes")
        synthetic = True
    for name in drop:
        delattr(Own, name)
    return Own
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_code.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_code", None)


@pytest.mark.parametrize("factory", ["own_code:networks", "own_code:whole"])
def test_a_factory_builds_trains_saves_and_builds_anew(
    factory, own_code, cohort, accelerator, tmp_path
):
    from forget_mi.models.checkpoints import load_checkpoint
    from forget_mi.training.config import TrainingConfig
    from forget_mi.training.loop import train_new

    settings = ModelConfig(factory=factory, towers="image")
    training = TrainingConfig(epochs=1, batch_size=16)
    rows = rows_of(cohort, "train")
    model, _, _ = train_new(
        cohort, rows, settings, training, seed=1, accelerator=accelerator, progress=False
    )
    save_checkpoint(tmp_path / "model", model, None, {"cohort_fingerprint": cohort.fingerprint})
    saved = load_checkpoint(tmp_path / "model")
    assert not differs(weights(saved.model), weights(model))
    assert differs(weights(reinitialized(model, 5)), weights(model))
    assert problems_of_model(saved.model, make_examples(cohort, range(4), None, 0), 4) == []


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("own_code:nothing", {}, "can't be imported"),
        (
            "no_such_package:x",
            {},
            "parameter model.factory = 'no_such_package:x': can't be imported",
        ),
        ("own_code:networks", {"depth": 3}, "can't be called with classes and {'depth': 3}"),
        ("own_code:number", {}, "makes a int; a torch module or a mapping of networks is allowed"),
    ],
)
def test_a_factory_that_does_not_work_is_named(factory, arguments, message, own_code):
    with pytest.raises(InputError) as error:
        build_model(ModelConfig(factory=factory, arguments=arguments), 4, 0, seed=0)
    assert message in str(error.value)


def test_a_cohort_of_ones_own(own_code):
    made = load_cohort({"source": "own_code:people", "arguments": {"n": 12}, "ids": "plain"})
    assert len(made) == 12
    assert made.name == "people"
    assert made.synthetic
    with pytest.raises(InputError, match="lacks reports, classes"):
        load_cohort({"source": "own_code:people", "arguments": {"drop": ["reports", "classes"]}})
    with pytest.raises(
        InputError, match=r"parameter cohort\.source = 'nowhere:x': can't be imported"
    ):
        load_cohort({"source": "nowhere:x"})


def test_a_cohort_without_reports_and_one_with_wrong_images():
    class Own:
        table = pd.DataFrame(
            {
                "patient_id": ["a", "b"],
                "study_id": ["s", "t"],
                "image_id": ["1", "2"],
                "label": [0, 1],
            }
        )
        images, reports, classes = np.zeros((2, 1, 4, 4), np.uint8), None, ("no", "yes")

    assert isinstance(Own(), CohortContract)
    assert as_cohort(Own(), "own").reports == {"s": "no report", "t": "no report"}
    Own.images = np.zeros((2, 3, 4, 4), np.uint8)
    with pytest.raises(
        InputError, match=r"its images have shape \(2, 3, 4, 4\), not \(2, 1, height, width\)"
    ):
        as_cohort(Own(), "own")
    Own.images = np.zeros((2, 1, 4, 4), np.float32)
    with pytest.raises(InputError, match="its images are float32; allowed is uint8"):
        as_cohort(Own(), "own")
    assert ModelOutput._fields[0] == "image_logits"
