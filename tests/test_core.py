"""The base install: what it is made of, and its main job without any other package."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from forget_mi.runs.project import ROOT

LISTED = {
    "torch", "torchvision", "transformers", "tokenizers", "accelerate", "safetensors", "numpy",
    "scipy", "pandas", "scikit-learn", "pydantic", "pyyaml", "pillow", "tqdm",
}  # fmt: skip

# In the process: whatever no distribution of the base install brings can't be imported.
BLOCK = """
import sys
class Filtered:
    names = {names!r}
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *arguments):
        blocked = name.split(".")[0] in self.names
        return None if blocked else self.finder.find_spec(name, *arguments)
sys.meta_path[:] = map(Filtered, sys.meta_path)
"""

SETTING = """
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
labels = torch.arange(80) % 2
images = torch.rand(80, 3, 16, 16) + 0.3 * labels[:, None, None, None] * torch.rand(3, 16, 16)
asked, stay, held_out, test = torch.arange(80).split([8, 40, 16, 16])

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                         nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 2))

network = build()
optimizer = torch.optim.Adam(network.parameters(), 1e-2)
for _ in range(20):
    part = torch.cat([asked, stay])
    nn.functional.cross_entropy(network(images[part]), labels[part]).backward()
    optimizer.step()
    optimizer.zero_grad()
"""

MAIN_JOB = """
import numpy as np
from forget_mi.attacks import ATTACKS, Evidence
from forget_mi.data import Examples
from forget_mi.evaluation import Roc
from forget_mi.models import adapt
from forget_mi.training import Shadows, TrainingConfig, make_accelerator, predict, train
from forget_mi.unlearning import Reference, UnlearningData, get_method

accelerator = make_accelerator()

def examples(part):
    return Examples.from_tensors(images[part], labels[part])

def trained_on(part, seed):
    torch.manual_seed(seed)
    model = adapt(image=build())
    settings = TrainingConfig(epochs=6, batch_size=8, learning_rate=1e-2)
    train(model, examples(part), examples(held_out), settings, seed=seed, accelerator=accelerator,
          progress=False)
    return model

model = adapt(image=network)
reference = Reference("without", trained_on(stay, 1), examples(asked), examples(held_out),
                      np.ones(len(asked), dtype=bool))
data = UnlearningData(examples(asked), examples(stay), examples(held_out), references=(reference,))
method = get_method("held_out_targets")
unlearned, log = method.unlearn(model, data, method.Config(epochs=3), seed=0,
                                accelerator=accelerator, progress=False)
assert not torch.equal(unlearned.image_tower.network[0].weight, network[0].weight)

everyone = torch.arange(80)
halves = [torch.randperm(80, generator=torch.Generator().manual_seed(pair)) for pair in range(2)]
halves = [half for order in halves for half in order.split(40)]
known = np.stack([np.isin(everyone, half) for half in halves])
outputs = [predict(trained_on(half, 10 + k), examples(everyone), accelerator)
           for k, half in enumerate(halves)]
shadows = Shadows(outputs, known, ~known)
sets = {"forget": asked, "retain": stay, "validation": held_out, "test": test}
evidence = Evidence(
    **{name: predict(unlearned, examples(part), accelerator) for name, part in sets.items()},
    shadows={name: shadows.select(part.numpy()) for name, part in sets.items()},
)
for attack in ("loss", "lira"):
    scores = ATTACKS[attack](evidence, "fused")
    assert (len(scores.forget), len(scores.test)) == (8, 16)
    print(attack, float(Roc(*scores).auc()))
"""


def base_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def outside_the_base() -> set[str]:
    """The modules at the top of every installed distribution that the base does not bring."""
    inside, waiting = {"forget-mi"}, [normal(each.name) for each in base_requirements()]
    while waiting:
        name = waiting.pop()
        if name in inside:
            continue
        inside.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        needed = [Requirement(line) for line in lines]
        waiting += [
            normal(r.name) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})
        ]
    modules = importlib.metadata.packages_distributions()
    return {m for m, owners in modules.items() if not {normal(owner) for owner in owners} & inside}


def without_other_packages(code: str) -> subprocess.CompletedProcess:
    blocked = outside_the_base()
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=blocked) + code], capture_output=True, text=True
    )


def test_the_base_is_what_is_listed_and_at_most_two_others():
    names = {normal(each.name) for each in base_requirements()}
    assert names >= LISTED
    assert len(names - LISTED) <= 2


def test_what_is_blocked_is_everything_else():
    blocked = outside_the_base()
    assert {"papermill", "snakemake", "optuna", "pydicom", "timm", "onnx", "seaborn"} <= blocked
    assert not {"torch", "sklearn", "forget_mi", "numpy", "yaml", "PIL"} & blocked


def test_a_model_of_ones_own_is_unlearned_and_attacked_with_the_base_alone():
    done = without_other_packages(SETTING + MAIN_JOB)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["loss", "lira"]
    assert all(0 <= float(line.split()[1]) <= 1 for line in done.stdout.splitlines())


def test_the_readmes_lines_run_with_the_base_alone():
    readme = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    statements = [line for line in code.splitlines() if line and not line.startswith("from ")]
    assert len(statements) <= 10
    done = without_other_packages(SETTING + code + "\nassert unlearned is not None")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from forget_mi.plots import set_style", "notebooks"),
        ("from forget_mi.runs import run_chain; run_chain('tiny', '/nowhere/run')", "notebooks"),
        ("from forget_mi.course import Explorer", "notebooks"),
        ("from forget_mi.data.images import read_dicom; read_dicom('x.dcm')", "radiology"),
        ("from forget_mi.data.cohorts.openi import shipped; shipped('x')", "radiology"),
        ("from forget_mi.models.networks import _timm; _timm('resnet18', '')", "models"),
        ("from forget_mi.cli import main; sys.exit(main(['tune', 'tiny']))", "studies"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(code, extra):
    done = without_other_packages(code)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.endswith(
        f"is not installed; it comes with an extra: pip install 'forget-mi[{extra}]'"
    )
    assert "main(" not in code or len(done.stderr.strip().splitlines()) == 1
