"""The front door, fed with anything: whatever a person can get wrong ends in a clear built-in exception.

`CALLS` has a call with one hole for each way in: the two values that check themselves, files, pictures, explorers,
`MNISTClassifier` with its options and questions (the command line: test_cli.py). hypothesis puts whatever it likes into
the hole. Either the call works, or the package refuses it with one of `CLEAR` and a message.
"""
import inspect
import math
import traceback
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

matplotlib.use('agg')
import matplotlib.pyplot as plt

from mnist_nb import checkpoints, classifier, data, evaluation, files, handwriting, marks, model, training, widgets
from mnist_nb.data import LabeledImages, load_sample

PACKAGE = Path(data.__file__).parent
CLEAR = (TypeError, ValueError, OSError, MemoryError)
SAMPLE = load_sample('test')[:40]
NET = model.MNISTNet(num_filters=2, hidden_size=4)
PROBS = np.full((40, 10), 0.1, np.float32)
PREDS = evaluation.Predictions(SAMPLE, PROBS)
READY = classifier.MNISTClassifier(num_filters=2, hidden_size=4, data=(SAMPLE, SAMPLE), device='cpu')
HISTORY = training.History(*[[0.5, 0.4]] * 6)

numbers = st.one_of(st.booleans(), st.integers(-3, 300), st.floats(-3, 300), st.sampled_from([math.nan, math.inf, -1e30, 2**70]))
shapes = st.one_of(st.sampled_from([(28, 28), (2, 28, 28), (2, 1, 28, 28), (0, 28, 28), (40, 10), (40,), (0,), (0, 10)]),
                   hnp.array_shapes(min_dims=0, max_dims=4, max_side=30))
dtypes = st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_, np.complex64])
fills = st.sampled_from([0, 1, 255, -1, 0.5, 7])
arrays = st.builds(lambda shape, dtype, fill: np.full(shape, fill).astype(dtype), shapes, dtypes, fills)
spoiled = st.builds(lambda shape, bad: np.full(shape, bad, np.float32), shapes, st.sampled_from([math.nan, math.inf, 1e30]))
tensors = st.builds(torch.from_numpy, st.one_of(arrays, spoiled))
texts = st.one_of(st.text(max_size=8), st.sampled_from(['auto', 'cuda', 'mnist', 'StepLR', '/', '.', 'no/such/file.png', __file__]))
paths = st.builds(Path, st.sampled_from(['no/such/file', '.', '/dev/null', __file__]))
good = st.sampled_from([SAMPLE, SAMPLE[:0], PREDS, PREDS[:0], NET, NET.__class__, HISTORY, READY])
anything = st.recursive(st.one_of(st.none(), numbers, arrays, spoiled, tensors, texts, paths, good),
                        lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner),
                                                st.dictionaries(st.text(max_size=4), inner, max_size=2)), max_leaves=4)


ALWAYS = [  # what chance alone might leave out of its few examples for a function
    None, '', [], {}, np.zeros((2, 28, 28), np.uint8), np.zeros((2, 28, 28)), np.arange(3), np.full(3, math.nan), np.array(['7', '1']),
    torch.zeros(2, 1, 28, 28), torch.arange(3), [np.zeros((28, 28), np.uint8)], SAMPLE, PREDS, READY]


OPTIONS = inspect.signature(classifier.MNISTClassifier).parameters

CALLS = {
    'data.LabeledImages(images)': lambda x: LabeledImages(x, SAMPLE.labels),
    'data.LabeledImages(labels)': lambda x: LabeledImages(SAMPLE.images, x),
    'data.load_mnist': data.load_mnist, 'data.load_mnist(folder)': lambda x: data.load_mnist(folder=x, download=False),
    'data.load_sample': data.load_sample,
    'data.load_data': lambda x: isinstance(x, str) and x in ('auto', 'mnist') or data.load_data(x),
    'evaluation.Predictions(data)': lambda x: evaluation.Predictions(x, PROBS),
    'evaluation.Predictions(probs)': lambda x: evaluation.Predictions(SAMPLE, x),
    'files.read_idx': files.read_idx,
    'checkpoints.load_file': lambda x: checkpoints.load_file(x, 'weights'),
    'checkpoints.load_config': lambda x: checkpoints.load_config(x, 'weights'),
    'checkpoints.load_weights': lambda x: checkpoints.load_weights(NET, x),
    'marks.read_marks': marks.read_marks,
    'handwriting.prepare_image': handwriting.prepare_image,
    'widgets.PredictionBrowser': widgets.PredictionBrowser, 'widgets.ErrorExplorer': widgets.ErrorExplorer,
    **{f'classifier.MNISTClassifier({name}=)': (lambda x, name=name: classifier.MNISTClassifier(**{name: x})) for name in OPTIONS},
    **{f'classifier.{name}': (lambda x, name=name: getattr(READY, name)(x)) for name in (
        'predict', 'predict_batch', 'predict_proba', 'predictions', 'evaluate', 'set_scheduler', 'show_predictions',
        'load_model', 'load_checkpoint')},
    'classifier.show_predictions(data)': lambda x: READY.show_predictions(2, x),
    'classifier.from_file': classifier.MNISTClassifier.from_file,
}


@pytest.mark.parametrize('name', CALLS)
def test_anything_in_the_hole_works_or_is_refused_clearly(name, tally):
    def check(value):
        tally('inputs tried on public functions')
        try: CALLS[name](value)
        except CLEAR as error:
            assert str(error).strip() and 'ambiguous' not in str(error), f'{name} on {value!r}: {type(error).__name__}: {error}'
            files = [Path(frame.filename).parent for frame in traceback.extract_tb(error.__traceback__)]
            assert PACKAGE in files, f'not {name} has refused {value!r}, but its line in CALLS: {error}'
        finally: plt.close('all')
    for value in ALWAYS: check(value)
    settings(max_examples=25, deadline=None, database=None, derandomize=True,
             suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much])(given(anything)(check))()
