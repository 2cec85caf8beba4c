"""Packages that import torchvision can be imported beside one that was built for another torch, real or made up."""

import subprocess
import sys

import pytest

# As torchvision is laid out: operators are described to torch although their library could not be loaded.
BROKEN = {
    "__init__.py": "from . import operators\nfrom .pure import double\n",
    "operators.py": "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(x):\n    return x\n",
    "pure.py": "def double(x):\n    return 2 * x\n",
}
HOPELESS = {**BROKEN, "pure.py": "raise OSError('no such library')\n"}
WORKING = {**BROKEN, "operators.py": ""}
REPAIR = "from cggm_med.torchvision_repair import repair_torchvision; repair_torchvision(); "


def python(code, *folders):
    """Output and exit status of a fresh interpreter that looks for modules in ``folders`` first."""
    code = f"import sys; sys.path[:0] = {list(map(str, folders))!r}; {code}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.fixture
def package(tmp_path):
    def write(files):
        (tmp_path / "torchvision").mkdir()
        for name, text in files.items():
            (tmp_path / "torchvision" / name).write_text(text)
        return tmp_path

    return write


def test_the_made_up_package_is_broken_in_the_way_of_the_real_one(package):
    status, said = python("import torchvision", package(BROKEN))
    assert status == 1
    assert "operator torchvision::nms does not exist" in said


def test_what_is_written_in_python_works_and_torch_is_left_as_it_was(package):
    code = (
        "import torch; real = torch.library.register_fake; "
        + REPAIR
        + "import torchvision; print(torchvision.double(4), torch.library.register_fake is real)"
    )
    assert python(code, package(BROKEN)) == (0, "8 True")


def test_what_cannot_be_repaired_counts_as_not_installed(package):
    code = REPAIR + "print([m for m in sys.modules if m.startswith('torchvision')]); import torchvision"
    status, said = python(code, package(HOPELESS))
    assert status == 1
    assert said.startswith("['torchvision']")
    assert "ModuleNotFoundError" in said


def test_nothing_happens_where_it_works_or_is_absent(package):
    code = (
        REPAIR
        + "import torchvision as t; t.mark = 1; repair_torchvision(); import torchvision; print(torchvision.mark)"
    )
    assert python(code, package(WORKING)) == (0, "1")
    absent = "import importlib.util as u; u.find_spec = lambda name: None; "
    assert python(absent + REPAIR + "print('torchvision' in sys.modules)") == (0, "False")


def test_transformers_can_be_imported_here():
    pytest.importorskip("transformers")
    assert python(REPAIR + "from transformers import BertModel, ViTModel; print(ViTModel.__name__)") == (0, "ViTModel")
