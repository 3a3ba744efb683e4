"""`import mnist_nb` is light: names load on first use, and heavy libraries only where they are used."""
import pytest
from helpers import python_code

HEAVY = ['torchvision', 'matplotlib', 'ipywidgets', 'anywidget', 'traitlets', 'sklearn', 'scipy', 'pandas', 'PIL', 'tqdm', 'IPython']
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HEAVY}: raise ModuleNotFoundError(f'{{name}} is blocked for this test')
sys.meta_path.insert(0, Block())
"""


def test_import_loads_nothing_but_the_package_until_a_name_is_used():
    out = python_code("import sys; before = set(sys.modules); import mnist_nb; print(sorted(set(sys.modules) - before));"
                      "mnist_nb.MNISTNet; print('torch' in sys.modules, 'mnist_nb.model' in sys.modules, 'mnist_nb.data' in sys.modules)")
    assert out.splitlines() == ["['mnist_nb']", 'True True False']


def test_an_unknown_name_is_an_attribute_error():
    import mnist_nb
    with pytest.raises(AttributeError, match="no attribute 'MNISTclassifier'"): mnist_nb.MNISTclassifier
    assert {'MNISTClassifier', 'MNISTNet', 'load_mnist', '__version__'} <= set(dir(mnist_nb))


def test_everything_imports_without_the_heavy_libraries():
    modules = 'files data model training checkpoints evaluation handwriting analysis interpretation marks widgets classifier cli'.split()
    python_code(BLOCK + f"import importlib\nfor module in {modules}: importlib.import_module('mnist_nb.' + module)")


def test_prediction_needs_no_plotting_or_vision_library():
    python_code(BLOCK + "import numpy as np\nfrom mnist_nb import MNISTClassifier\n"
                   "assert MNISTClassifier.pretrained().predict(np.eye(28, dtype=np.uint8) * 255) in range(10)")
