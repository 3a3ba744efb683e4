"""What several test files use: small data, small networks, another Python."""
import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mnist_nb.data import MEAN, STD, LabeledImages
from mnist_nb.evaluation import Predictions
from mnist_nb.training import Callback

ROOT = Path(__file__).resolve().parents[1]
NASTY = '</script><img src=x onerror=alert(1)><b>"&'  # a class name that would be a program if it weren't text
CHROMIUM = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
SHOTS = os.environ.get('MNIST_NB_SHOTS')  # a folder: browser tests keep pictures of the screen there


def needs_browser(**more):
    "Skips the tests of a file where something is wanting for them: what it is -> is it there?"
    import pytest
    needs = {'Playwright (pip install playwright)': find_spec('playwright'), 'a Chromium on the PATH': CHROMIUM, **more}
    wanting = [name for name, found in needs.items() if not found]
    return pytest.mark.skipif(bool(wanting), reason=f"a browser test; wanting: {', '.join(wanting)}")


def python(*words, **options):
    "Run another Python with this package on its path; what it printed is in `.stdout` and `.stderr`."
    options = {'capture_output': True, 'text': True, 'env': os.environ | {'PYTHONPATH': str(ROOT)}, **options}
    return subprocess.run([sys.executable, *map(str, words)], **options)


def python_code(code):
    "What a piece of code prints in a Python of its own."
    done = python('-c', code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def numbered(n, start=0, n_classes=10):
    "Images that carry a number in their first two pixels, `start`, `start + 1`, ...; the label is its last digit."
    number = np.arange(start, start + n)
    images = np.zeros((n, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = number // 256, number % 256
    return LabeledImages(images, number % n_classes, f'numbered from {start}', tuple(map(str, range(n_classes))))


def numbers(images, mean=MEAN, std=STD):
    "The numbers that images of `numbered` carry: uint8 `(n, 28, 28)`, or normalized `(n, 1, 28, 28)`."
    if isinstance(images, torch.Tensor): images = ((images[:, 0] * std + mean) * 255).round().numpy()
    return (256 * images[:, 0, 0].astype(int) + images[:, 0, 1].astype(int)).tolist()


class Recorder(nn.Module):
    "A linear model that keeps what it is shown: pairs (is it training?, images)."
    def __init__(self):
        super().__init__()
        self.linear, self.shown = nn.Linear(784, 10), []

    def forward(self, images):
        self.shown.append((self.training, images.clone()))
        return self.linear(images.flatten(1))


class AfterEpoch(Callback):
    "Calls a function with the trainer after each epoch."
    def __init__(self, act): self.act = act
    def after_epoch(self, trainer): self.act(trainer)


def made_up_preds(n=500, seed=0, names=tuple('0123456789'), sharpness=3.0, images=None):
    "Predictions of nobody about noise; the sharper, the more of them are right."
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(names), n)
    logits = rng.normal(size=(n, len(names)))
    logits[np.arange(n), labels] += sharpness
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if images is None: images = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
    return Predictions(LabeledImages(images, labels, 'made up', names), probs.astype(np.float32))


def same_weights(one, other):
    "Do two models, or state dicts, hold the same numbers?"
    one, other = (model.state_dict() if isinstance(model, nn.Module) else model for model in (one, other))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def digest(state):
    "A fingerprint of nested dicts, lists and tuples of tensors, numbers and texts; equal to the last bit or not."
    def bare(value):
        if isinstance(value, torch.Tensor): return value.dtype, tuple(value.shape), value.cpu().numpy().tobytes()
        if isinstance(value, dict): return [(key, bare(item)) for key, item in value.items()]
        return [bare(item) for item in value] if isinstance(value, (list, tuple)) else value
    return hashlib.sha256(repr(bare(state)).encode()).hexdigest()


def widgets_of(widget):
    "A widget and all that is in it."
    yield widget
    for child in getattr(widget, 'children', ()): yield from widgets_of(child)
