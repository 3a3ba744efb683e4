"""`import mnist_nb` is light: names load on first use, and heavy libraries only where they are used."""
import subprocess
import sys
import time

import pytest

HEAVY = ['torchvision', 'matplotlib', 'ipywidgets', 'anywidget', 'sklearn', 'scipy', 'pandas', 'PIL', 'tqdm', 'IPython']
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HEAVY}: raise ModuleNotFoundError(f'{{name}} is blocked for this test')
sys.meta_path.insert(0, Block())
"""


def python(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_top_names_load_on_first_use():
    out = python("import sys, mnist_nb; print('torch' in sys.modules, sorted(mnist_nb.__all__), mnist_nb.__version__);"
                 "mnist_nb.MNISTNet; print('torch' in sys.modules)")
    assert out.splitlines()[0].startswith("False ['MNISTClassifier', 'MNISTNet', 'load_mnist'] ")
    assert out.splitlines()[1] == 'True'


def test_an_unknown_name_is_an_attribute_error():
    import mnist_nb
    with pytest.raises(AttributeError, match="no attribute 'MNISTclassifier'"): mnist_nb.MNISTclassifier
    assert {'MNISTClassifier', 'MNISTNet', 'load_mnist', '__version__'} <= set(dir(mnist_nb))


def test_everything_imports_without_the_heavy_libraries():
    rooms = 'data handwriting model training checkpoints evaluation analysis interpretation explore mistakes draw classifier cli'.split()
    python(BLOCK + f"import importlib\nfor room in {rooms}: importlib.import_module('mnist_nb.' + room)")


def test_prediction_needs_no_plotting_or_vision_library():
    python(BLOCK + "import numpy as np\nfrom mnist_nb import MNISTClassifier\n"
                   "assert MNISTClassifier.pretrained().predict(np.eye(28, dtype=np.uint8) * 255) in range(10)")


def test_import_costs(capsys):
    "Printed, not asserted: what the front door costs over `import torch`, median of five."
    def seconds(code):
        times = []
        for _ in range(5):
            start = time.perf_counter(); python(code); times.append(time.perf_counter() - start)
        return sorted(times)[2]
    torch = seconds('import torch')
    ours = seconds('import torch, mnist_nb; mnist_nb.MNISTClassifier')
    with capsys.disabled(): print(f'\nimport torch {torch:.2f} s; mnist_nb and MNISTClassifier on top {ours - torch:+.2f} s')
