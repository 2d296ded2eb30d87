"""The plan of the library: what `make layers` reads, draws and prints."""

import importlib.util

from forget_mi.runs.project import ROOT

spec = importlib.util.spec_from_file_location("layers", ROOT / "docs" / "layers.py")
layers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layers)


def test_every_room_of_the_library_has_its_layer():
    library = ROOT / "lib" / "forget_mi"
    there = {path.stem for path in library.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for row in layers.layers() for name in row} == there - {"__init__", "__pycache__"}


def test_the_longest_chain_of_packages_is_short():
    chain = layers.longest_chain(layers.package_imports())
    assert 2 <= len(chain) <= layers.LONGEST


def test_the_longest_chain_of_a_small_case():
    assert layers.longest_chain({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
    assert layers.longest_chain({"a": set()}) == ["a"]


def test_the_picture_is_drawn(tmp_path):
    layers.draw(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 10_000


def test_at_most_three_levels_of_folders():
    library = ROOT / "lib" / "forget_mi"
    assert max(len(path.relative_to(library).parts) for path in library.rglob("*.py")) <= 3
