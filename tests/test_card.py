"""The card this project was built on (mnist-classifier-card.txt), read promise by promise.

Every Python block of the card runs, with `mnist_nb` in place of `mnist_classifier`, on the embedded
sample and for two epochs at most. Every table is compared with what the package does or has measured.
"""
import ast
import inspect
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, python
from torch import nn

import mnist_nb
from mnist_nb import model as rooms_model
from mnist_nb.classifier import PRETRAINED, MNISTClassifier
from mnist_nb.data import LabeledImages, load_mnist, load_sample, normalize
from mnist_nb.evaluation import class_report
from mnist_nb.model import MNISTNet, count_parameters, layer_table

matplotlib.use('Agg')
CARD = (Path(__file__).parent / 'mnist-classifier-card.txt').read_text(encoding='utf-8')
DEFAULTS = {name: p.default for name, p in inspect.signature(MNISTClassifier).parameters.items()}


def read_card():
    "(heading, kind, lines) for each block of code and each table of the card, in order."
    heading, found, code = '', [], None
    for line in CARD.splitlines():
        if line.startswith('```'):
            if code is None: code = (heading, line[3:], [])
            else: found.append(code); code = None
        elif code is not None: code[2].append(line)
        elif line.startswith('#') or re.fullmatch(r'\*\*.*\*\*', line): heading = line.strip('#* ')
        elif line.startswith('|'):
            if found and found[-1][:2] == (heading, 'table'): found[-1][2].append(line)
            else: found.append((heading, 'table', [line]))
    return found


BLOCKS = [('\n'.join(lines), heading) for heading, kind, lines in read_card() if kind == 'python']
TABLES = {heading: [[cell.strip() for cell in line.strip('|').split('|')] for line in lines if '---' not in line]
          for heading, kind, lines in read_card() if kind == 'table'}


def table(heading):
    "The rows of a table of the card, each a dict by column."
    columns, *rows = TABLES[heading]
    return [dict(zip(columns, row)) for row in rows]


class Quick(MNISTClassifier):
    "The classifier as the card uses it, but on a part of the embedded sample and for two epochs."
    def __init__(self, **options):
        train, test = load_sample('train'), load_sample('test')
        options = {'data': (train[:200], test[:100]), **options}
        super().__init__(**{**options, 'epochs': min(options.get('epochs', 2), 2)})


def settings(code):
    "name -> list of values that a block of assignments gives it."
    values = {}
    for node in ast.parse(code).body: values.setdefault(node.targets[0].id.lower(), []).append(ast.literal_eval(node.value))
    return values


def run_script(code, run):
    "`python mnist_classifier.py` -> the card's lines."
    assert code == 'python mnist_classifier.py'
    command = ROOT / 'mnist_nb.py', 'train', '--data', 'sample', '--epochs', '2', '--num-filters', '8'
    done = python(*command, cwd=ROOT, env={**os.environ, 'TQDM_DISABLE': '1'})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r'Epoch 1/2: Train Loss: \d+\.\d{3}, Val Acc: \d+\.\d%', lines[-3]), done.stdout
    assert re.fullmatch(r'Epoch 2/2: Train Loss: \d+\.\d{3}, Val Acc: \d+\.\d%', lines[-2])
    assert re.fullmatch(r'Final Test Accuracy: \d+\.\d%', lines[-1])


def are_defaults(code, run):
    for name, values in settings(code).items(): assert values == [DEFAULTS[name]], name


def are_accepted(code, run):
    for name, values in settings(code).items():
        for value in values: assert getattr(MNISTClassifier(**{name: value}), name) == value


def with_saved_model(code, run):
    "The card predicts with a saved model and images of the textbook: tensors after ToTensor and Normalize."
    images = normalize(load_sample('test').images[:5])
    run.update(image_tensor=images[0], image_batch=images)
    run['classifier'].save_model('mnist_model.pth')
    exec(code, run)
    assert type(run['prediction']) is int and run['prediction'] in range(10)
    assert run['predictions'].shape == (5,) and run['predictions'][0] == run['prediction']


def basic_training(code, run):
    exec(code, run)
    assert 0 <= run['accuracy'] <= 100 and len(run['classifier'].history) == 2


def early_stopping(code, run):
    exec(code, run)
    assert (run['classifier'].patience, run['classifier'].min_delta) == (3, 0.001)
    hopeless = MNISTClassifier(patience=run['classifier'].patience, min_delta=0.99, num_filters=2, epochs=9,
                               data=(load_sample('train')[:200], load_sample('test')[:100]))
    assert len(hopeless.train()) == 1 + 3  # no later epoch gains so much


def schedule(code, run):
    exec(code, run)
    scheduler = run['classifier'].new_trainer().scheduler
    assert isinstance(scheduler, torch.optim.lr_scheduler.StepLR) and (scheduler.step_size, scheduler.gamma) == (5, 0.5)


def checkpointing(code, run):
    run['classifier'].train()
    before = run['classifier'].history
    exec(code, run)
    assert Path('checkpoint_epoch_5.pth').exists() and run['classifier'].history == before


def custom_network(code, run):
    "The card leaves the body open; filled in, the class is a network like any other."
    code = code.replace('# Modify architecture here', 'super().__init__()').replace('nn.Linear(*,', 'nn.Linear(num_filters * 169,')
    exec(code, run)

    class Filled(run['CustomMNISTNet']):
        def __init__(self, **options): super().__init__(**options); self.fc2 = nn.Linear(self.fc1.out_features, 10)
        def forward(self, images): return self.fc2(F.relu(self.fc1(F.max_pool2d(self.conv1(images), 2).flatten(1))))
    classifier = Quick(model=Filled(num_filters=4, hidden_size=16), epochs=1)
    classifier.train()
    assert classifier.predict(load_sample('test').images[0]) in range(10)


def augmentation(code, run):
    exec(code, run)
    classifier = Quick(transform=run['transform'], epochs=1)
    classifier.train()
    images, _ = next(iter(classifier.trainer.train_dl))
    assert images.shape[1:] == (1, 28, 28) and -0.5 < images.min() < 0 < images.max() < 3


def transfer(code, run):
    "The card's call, with the function of this package that adapts the net as its comment asks."
    run['torchvision'] = SimpleNamespace(models=rooms_model)
    exec(code, run)
    assert run['pretrained_model'].conv1.in_channels == 1 and run['pretrained_model'].fc.out_features == 10
    classifier = Quick(model=run['pretrained_model'], epochs=1)
    assert classifier.predict_proba(load_sample('test').images[:2]).shape == (2, 10)


def execute(code, run): exec(code, run)


HOW = {  # heading of the card -> how its block is run
    'Quick Start': run_script, 'Training Parameters': are_defaults, 'Model Parameters': are_defaults,
    'Data Parameters': are_defaults, 'Basic Training': basic_training, 'Custom Configuration': execute,
    'Prediction Example': with_saved_model, 'Early Stopping': early_stopping, 'Learning Rate Scheduling': schedule,
    'Model Checkpointing': checkpointing, 'Visualization': execute, 'CUDA Out of Memory': are_accepted,
    'Slow Training on CPU': are_accepted, 'Poor Convergence': are_accepted, 'Model Architecture Changes': custom_network,
    'Data Augmentation': augmentation, 'Transfer Learning': transfer,
}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "One namespace for all blocks, as one reader who types them one after the other."
    from torchvision import transforms
    patch, here = pytest.MonkeyPatch(), tmp_path_factory.mktemp('card')
    patch.chdir(here)
    patch.setattr(mnist_nb, 'MNISTClassifier', Quick)
    imagenet = lambda: {k: torch.zeros_like(v) for k, v in torch_resnet().state_dict().items()}
    patch.setattr(rooms_model, '_imagenet_weights', imagenet)  # 45 MB that a test must not fetch
    yield {'torch': torch, 'nn': nn, 'transforms': transforms, 'MNISTClassifier': Quick}
    patch.undo()


def torch_resnet():
    from torchvision.models import resnet18
    return resnet18(num_classes=1000)


def test_the_card_was_read():
    assert [heading for _, heading in BLOCKS] == list(HOW)
    assert len(TABLES) == 4


@pytest.mark.parametrize('code, heading', BLOCKS, ids=[heading for _, heading in BLOCKS])
def test_code_block(code, heading, run):
    HOW[heading](code if heading == 'Quick Start' else code.replace('mnist_classifier', 'mnist_nb'), run)


def test_the_script_does_not_hide_the_package():
    "From the root, where mnist_nb.py lies too, `import mnist_nb` is the package."
    found = python('-c', 'import mnist_nb; print(mnist_nb.__file__, mnist_nb.__version__)', cwd=ROOT).stdout.split()
    assert Path(found[0]) == ROOT / 'mnist_nb' / '__init__.py' and found[1] == mnist_nb.__version__


def test_layer_table():
    ours = layer_table(MNISTNet())
    as_text = lambda value: f'{value:,}' if isinstance(value, int) else str(value)
    for row, theirs in zip(ours.to_dict('records'), table('Model Architecture'), strict=True):
        assert {name: as_text(value) for name, value in row.items()} == theirs
    assert '**Total Parameters**: ~1.2M' in CARD and count_parameters(MNISTNet()) == 1_199_882


# What was measured: the card that ships beside the pretrained weights.
MEASURED = json.loads((PRETRAINED / 'card.json').read_text())


@pytest.mark.parametrize('row', table('Accuracy Results'), ids=lambda row: row['Dataset'])
def test_accuracy_results(row):
    split = {'Training': 'train', 'Validation': 'valid', 'Test': 'test'}[row['Dataset']]
    promised = float(row['Accuracy'].strip('%')) / 100
    for seed in MEASURED['seeds']: assert seed[split]['accuracy'] >= promised, f"seed {seed['seed']}"
    assert np.mean([seed[split]['loss'] for seed in MEASURED['seeds']]) <= 1.1 * float(row['Loss'])


def test_default_recipe_reaches_its_goal():
    test = [seed['test']['accuracy'] for seed in MEASURED['seeds']]
    assert len(test) >= 3 and np.mean(test) >= 0.989 and min(test) >= 0.987
    assert MEASURED['recipe'] == MNISTClassifier(seed=MEASURED['recipe']['seed']).recipe, 'another recipe than the default'


def test_training_time_and_memory_were_measured():
    "One row for the hardware that was there; the card's GPU rows are left out where none was."
    assert TABLES['Training Time'][0] == ['Hardware', 'Time per Epoch', 'Total Training']
    assert MEASURED['timing']
    for timing in MEASURED['timing']:
        hardware = timing['hardware']
        assert hardware['cpu'] and hardware['threads'] >= 1 and ('gpu' in hardware) == (hardware['device'] == 'cuda')
        assert 0 < timing['seconds_per_epoch'] < 3600 and 100 < timing['peak_memory_mb'] < 2000
    assert '**RAM**: ~2GB during training' in CARD
    assert '**Storage**: ~100MB' in CARD and (PRETRAINED / 'weights.pt').stat().st_size < 2.5e6


def test_per_class_performance():
    try: test = load_mnist('test', download=False)
    except (OSError, ValueError): pytest.skip('MNIST is not at hand')
    report = class_report(MNISTClassifier.pretrained().predictions(test))
    for row in table('Per-Class Performance'):
        ours = report.loc[row['Digit']]
        assert ours.support == int(row['Support'])
        for measure in 'Precision', 'Recall', 'F1-Score':
            assert round(ours[measure.lower().removesuffix('-score')], 2) >= float(row[measure]) - 0.01, (row['Digit'], measure)


def test_data_preprocessing():
    "Mean and deviation, tensors, the 80/20 split, shuffled batches."
    assert 'Mean=0.1307, Std=0.3081' in CARD and '80/20 random split' in CARD
    classifier = MNISTClassifier(data='sample')
    sizes = {name: len(part) for name, part in classifier.splits().items()}
    assert sizes['train'] == round(0.8 * (sizes['train'] + sizes['valid']))
    batches = classifier.new_trainer().train_dl
    assert batches.shuffle and (batches.mean, batches.std) == (0.1307, 0.3081)
    images, labels = next(iter(batches))
    assert images.shape == (64, 1, 28, 28) and images.dtype == torch.float32 and labels.shape == (64,)


def test_dataset_information():
    try: train, test = load_mnist('train', download=False), load_mnist('test', download=False)
    except (OSError, ValueError): pytest.skip('MNIST is not at hand')
    assert 'Training: 60,000 images' in CARD and 'Test: 10,000 images' in CARD
    assert (len(train), len(test)) == (60_000, 10_000) and isinstance(train, LabeledImages)
    assert {name: len(part) for name, part in MNISTClassifier(data=(train, test)).splits().items()} == {
        'train': 48_000, 'valid': 12_000, 'test': 10_000}


@pytest.mark.parametrize('library', re.findall(r'^- `([\w-]+)` - ', CARD, re.M))
def test_dependencies(library):
    assert f' {library}>=' in ' ' + re.search(r'^requirements = (.*)$', (ROOT / 'settings.ini').read_text(), re.M)[1]


def test_license_and_credits():
    assert 'MIT License' in CARD and 'MIT License' in (ROOT / 'LICENSE').read_text()
    assert 'LeCun' in CARD and 'cff-version' in (ROOT / 'CITATION.cff').read_text()
