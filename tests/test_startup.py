"""What a process pays before and after it does anything."""

import subprocess
import sys


def says(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_of_the_library_brings_nothing_heavy():
    heavy = ("torch", "transformers", "pandas", "matplotlib", "scipy", "sklearn")
    assert says(f"import sys, forget_mi; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_importing_the_library_needs_neither_timm_nor_onnx():
    code = "import sys, forget_mi.runs, forget_mi.towers; print([m for m in ('timm', 'onnx') if m in sys.modules])"
    assert says(code) == "[]"


def test_garbage_is_looked_for_seldom_and_not_at_the_end():
    # A handler that was there before is called after: it sees what the library's did.
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); import forget_mi"
    assert says(code) == "True"
    assert says(code.replace("import forget_mi", "")) == "False"
    assert int(says("import forget_mi, gc; print(gc.get_threshold()[0])")) > 10_000
