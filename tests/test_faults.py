"""Nothing is lost: processes killed at any moment, files with flipped bits, disks that fail, hostile files.

The short form runs by default; MNIST_NB_FAULTS=long kills and flips more.
"""
import errno
import hashlib
import io
import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, AfterEpoch, digest, python

from mnist_nb import checkpoints
from mnist_nb.checkpoints import load_file, save_checkpoint, save_file
from mnist_nb.classifier import MNISTClassifier
from mnist_nb.data import load_sample, random_affine
from mnist_nb.files import check_writable

LONG = os.environ.get('MNIST_NB_FAULTS') == 'long'
KILLS, FLIPS = (50, 200) if LONG else (10, 50)
EPOCHS = 5
SMALL = dict(num_filters=4, hidden_size=16, batch_size=16, learning_rate=0.005, epochs=EPOCHS, device='cpu')
RECIPES = {  # what must survive a cut: every kind of scheduler, early stopping, augmentation, mixed precision
    'constant': ({}, None),
    'per epoch': (dict(augment=random_affine), ('StepLR', dict(step_size=2, gamma=0.5))),
    'per batch': (dict(seed=1), ('OneCycleLR', dict(max_lr=0.01))),
    'cyclic': ({}, ('CyclicLR', dict(base_lr=1e-4, max_lr=1e-2, step_size_up=7, cycle_momentum=False))),
    'cosine': (dict(augment=random_affine), ('CosineAnnealingLR', {})),
    'warm restarts': ({}, ('CosineAnnealingWarmRestarts', dict(T_0=2))),
    'milestones': ({}, ('MultiStepLR', dict(milestones=[1, 3]))),
    'chained': ({}, ('SequentialLR', dict(schedulers=[('LinearLR', {}), ('ExponentialLR', dict(gamma=0.7))], milestones=[2]))),
    'plateau': (dict(learning_rate=0.02), ('ReduceLROnPlateau', dict(patience=0, factor=0.3))),
    'early stopping': (dict(patience=2, min_delta=0.2, learning_rate=0.01), None),
    'mixed precision': (dict(mixed_precision=torch.bfloat16), None),
}


def some_digits():
    train, test = load_sample('train'), load_sample('test')
    return train[:320], test[:80]


def build(recipe, **changes):
    torch.set_num_threads(1)
    options, scheduler = RECIPES[recipe]
    classifier = MNISTClassifier(**{**SMALL, **options, 'data': some_digits(), **changes})
    if scheduler: classifier.set_scheduler(scheduler[0], **scheduler[1])
    return classifier


def fingerprint(classifier):
    "Everything that must be equal at the end: weights, optimizer, scheduler, counters, history, random state."
    state = dict(classifier.trainer.state)
    state['history'] = {key: value for key, value in state['history'].items() if key != 'seconds'}
    return {key: digest(checkpoints.plain(value)) for key, value in state.items()} | {
        'in the model': digest(classifier.model.state_dict())}


def train_whole(recipe, path, pipe):
    "What a child process does: train with a checkpoint, going on if there is one, and report."
    classifier = build(recipe)
    pipe.send('ready')
    start = time.perf_counter()
    classifier.train(checkpoint=path)
    pipe.send((fingerprint(classifier), time.perf_counter() - start))


@pytest.fixture(scope='module')
def processes():
    "Children that have imported torch and scikit-learn already, but never computed with them."
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mnist_nb.classifier', 'sklearn.datasets', 'sklearn.model_selection', 'tqdm.auto'])
    return context


def child(processes, recipe, path):
    here, there = processes.Pipe()
    process = processes.Process(target=train_whole, args=(recipe, path, there))
    process.start()
    there.close()
    assert here.recv() == 'ready'
    return process, here


def finish(process, pipe):
    result = pipe.recv()
    process.join()
    assert process.exitcode == 0
    return result


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_run_cut_at_any_epoch_goes_on_bit_for_bit(recipe, tmp_path, tally):
    unbroken = build(recipe)
    unbroken.train(checkpoint=tmp_path / 'unbroken')
    wanted = fingerprint(unbroken)
    for cut in range(1, len(unbroken.history)):
        path = tmp_path / f'cut-{cut}'
        first = build(recipe)
        first.begin()
        def stop(trainer):
            if len(trainer.history) < cut: return
            save_checkpoint(trainer, path, {'recipe': first.weights_recipe})
            raise ZeroDivisionError
        first.trainer.callbacks = [AfterEpoch(stop)]
        with pytest.raises(ZeroDivisionError): first.trainer.fit(EPOCHS)
        random.seed(99); torch.manual_seed(99)  # the world goes on in between
        second = build(recipe)
        second.train(checkpoint=path)
        assert fingerprint(second) == wanted
        tally('runs cut at an epoch, resumed bit for bit')


def test_killed_at_any_moment_and_resumed_bit_for_bit(processes, tmp_path, tally):
    dice, wanted = random.Random(0), {}
    for kill in range(KILLS):
        recipe = list(RECIPES)[kill % len(RECIPES)]
        if recipe not in wanted: wanted[recipe] = finish(*child(processes, recipe, tmp_path / f'whole {recipe}'))
        fingerprints, seconds = wanted[recipe]
        path = tmp_path / f'kill-{kill}'
        process, pipe = child(processes, recipe, path)
        process.join(dice.uniform(0, seconds))  # let it run for a while
        process.kill()
        process.join()
        if path.exists():
            done = len(load_file(path, 'checkpoint')['trainer']['history']['loss'])
            tally('  of these with a checkpoint, always whole')
            assert 1 <= done <= EPOCHS
        assert finish(*child(processes, recipe, path))[0] == fingerprints, f'{recipe}, kill {kill}'
        check_writable(path)
        tally('kills survived, resumed bit for bit')


def test_the_stop_button_keeps_what_there_is(tmp_path, capsys):
    wanted = build('per epoch')
    wanted.train()
    stopped = build('per epoch')
    stopped.begin()
    def press(trainer): len(trainer.history) == 2 and os.kill(os.getpid(), signal.SIGINT)
    stopped.trainer.callbacks = [AfterEpoch(press)]
    stopped.trainer.fit(EPOCHS)
    stopped.history = stopped.trainer.history
    assert stopped.trainer.interrupted and len(stopped.history) == 2
    assert 0 <= stopped.evaluate() <= 100
    stopped.train()
    assert fingerprint(stopped) == fingerprint(wanted)
    assert 'Going on after epoch 2' in capsys.readouterr().out


def test_a_killed_command_goes_on_from_its_checkpoint(tmp_path):
    "The command line, killed after its first epoch's line, then started again with the same words (stopped: `test_cli.py`)."
    path = tmp_path / 'run.checkpoint'
    words = ['-u', '-m', 'mnist_nb', 'train', '--data', 'sample', '--epochs', '3', '--num-filters', '4',
             '--hidden-size', '16', '--checkpoint', str(path), '--threads', '1', '--device', 'cpu']
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {'PYTHONPATH': str(ROOT)})
    for line in process.stdout:
        if line.startswith('Epoch 1/3'): break
    process.kill()
    process.communicate()
    kept = len(load_file(path, 'checkpoint')['trainer']['history']['loss']) if path.exists() else 0
    again = python(*words)
    assert again.returncode == 0, again.stderr
    assert 'Final Test Accuracy' in again.stdout
    epochs = [line.split(':')[0] for line in again.stdout.splitlines() if line.startswith('Epoch ')]
    assert epochs == [f'Epoch {n}/3' for n in range(kept + 1, 4)]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('file') / 'good.checkpoint'
    build('per epoch', epochs=2).train(checkpoint=path)
    return path


def test_a_flipped_bit_is_refused(checkpoint, tmp_path, tally):
    good, dice, path = checkpoint.read_bytes(), random.Random(0), tmp_path / 'flipped'
    last_line = range(8 * (len(good) - 110), 8 * len(good))
    for bit in [*(dice.randrange(8 * len(good)) for _ in range(FLIPS)), *(last_line if LONG else dice.sample(last_line, FLIPS))]:
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ValueError) as caught: load_file(path, 'checkpoint')
        assert str(path) in str(caught.value)
        tally('flipped bits refused')


class Hostile:
    def __init__(self, mark): self.mark = str(mark)
    def __reduce__(self): return os.mkdir, (self.mark,)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def sealed(content, kind='checkpoint', version=checkpoints.VERSIONS['checkpoint'], name=checkpoints.FORMAT, archive=None):
    "A file with any content and a correct fingerprint."
    data = (archive or saved(content)) + f'\n{name} {kind} {version} '.encode()
    return data + hashlib.sha256(data).hexdigest().encode()


def foreign_files(good, mark):
    "File name -> (bytes, part of the message)."
    content, foreign = torch.load(io.BytesIO(good), weights_only=True), 'was not written by mnist_nb'
    state = content['trainer']
    return {
        'empty': (b'', foreign), 'text': (b'not a checkpoint', foreign), 'four words': (b'this is no checkpoint', foreign),
        'page': (b'<html>Sign in to the network</html>', foreign),
        'half': (good[:len(good) // 2], foreign), 'tail lost': (good[:-1], 'damaged'), 'last line lost': (good.rpartition(b'\n')[0], foreign),
        'tail added': (good + b'x' * 70_000, 'damaged'), 'a line added': (good + b'\n', foreign),
        'pickle': (pickle.dumps(Hostile(mark)), foreign), 'hostile': (saved(Hostile(mark)), foreign),
        'hostile and sealed': (sealed(Hostile(mark)), 'nothing of it was run'),
        'hostile inside': (sealed({**content, 'config': Hostile(mark)}), 'nothing of it was run'),
        'hostile beside': (sealed({**content, 'more': [Hostile(mark)]}), 'nothing of it was run'),
        'state dict': (saved(state['model']), 'state dict'), 'number': (saved(3), foreign),
        'other format': (sealed(content, name='other'), foreign), 'other kind': (sealed(content, 'weights', 2), 'holds weights'),
        'newer': (sealed(content, version=4), 'version 4'), 'older': (sealed(content, version=2), 'version 2'),
        'altered': (good.replace(b'n', b'm', 1), 'fingerprint'), 'no archive': (sealed(None, archive=b'no archive'), 'nothing of it was run'),
        'another history': (sealed({**content, 'trainer': {**state, 'history': {'losses': [1.0]}}}), 'losses'),
    }


def test_foreign_and_hostile_files_are_refused_and_change_nothing(checkpoint, tmp_path, tally):
    good, mark = checkpoint.read_bytes(), tmp_path / 'the code inside ran'
    classifier = build('per epoch', epochs=2)
    classifier.train(checkpoint=tmp_path / 'mine')
    before = fingerprint(classifier)
    for name, (data, message) in foreign_files(good, mark).items():
        path = tmp_path / name
        path.write_bytes(data)
        for load in (classifier.load_checkpoint, classifier.load_model):
            with pytest.raises(ValueError) as caught: load(path)
            assert str(path) in str(caught.value)
            if load == classifier.load_checkpoint: assert message in str(caught.value), (name, str(caught.value))
            tally('foreign or hostile files refused')
        assert path.read_bytes() == data
    assert not mark.exists()
    assert fingerprint(classifier) == before
    with pytest.raises(FileNotFoundError, match='no such checkpoint'): classifier.load_checkpoint(tmp_path / 'no such checkpoint')


def test_a_checkpoint_of_another_architecture_is_refused(checkpoint):
    other = MNISTClassifier(**{**SMALL, 'epochs': 2, 'num_filters': 8, 'data': some_digits()}, augment=random_affine)
    other.set_scheduler('StepLR', step_size=2, gamma=0.5)
    before = digest(other.model.state_dict())
    with pytest.raises(ValueError, match='num_filters=4.*num_filters=8'): other.load_checkpoint(checkpoint)
    assert digest(other.model.state_dict()) == before


FORMAT_1 = Path(__file__).with_name('format-1.pt')


def test_a_checkpoint_of_format_1_is_refused_with_the_way_out():
    "It was written before the first release; its state has another form, and it has no last line."
    classifier = build('constant')
    with pytest.raises(ValueError, match='format-1.pt .* format version below 3.* save_weights'):
        classifier.load_checkpoint(FORMAT_1)


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_failing_disk_costs_no_more_than_the_last_epoch(call, code, tmp_path, monkeypatch, tally):
    path = tmp_path / 'run.checkpoint'
    classifier = build('constant')
    real = getattr(os, call)
    def failing(*args, **more):
        if len(classifier.history) >= 2 or classifier.trainer and len(classifier.trainer.history) >= 3: raise OSError(code, os.strerror(code))
        return real(*args, **more)
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError) as caught: classifier.train(checkpoint=path)
    monkeypatch.undo()
    assert caught.value.errno == code and str(path) in str(caught.value)
    assert len(load_file(path, 'checkpoint')['trainer']['history']['loss']) == 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name], 'something half-written was left'
    classifier = build('constant')
    classifier.train(checkpoint=path)
    assert len(classifier.history) == EPOCHS
    tally('disk failures survived')


def _write_without_space(path, pipe):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try: save_file({'weights': torch.zeros(10_000)}, path, 'weights')
    except OSError as error: pipe.send(str(error))


def test_a_disk_that_fills_up_while_writing_leaves_the_old_file(processes, tmp_path, tally):
    path = tmp_path / 'weights.pt'
    save_file({'weights': torch.ones(3)}, path, 'weights')
    here, there = processes.Pipe()
    process = processes.Process(target=_write_without_space, args=(path, there))
    process.start()
    assert str(path) in here.recv()
    process.join()
    assert load_file(path, 'weights')['weights'].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    tally('disk failures survived')


def _check_as_nobody(path, pipe):
    os.setuid(65534)
    try: check_writable(path)
    except OSError as error: pipe.send((type(error).__name__, str(error)))


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() != 0, reason='needs root, to become a user without rights')
def test_a_folder_without_rights_is_said_before_training(processes, tmp_path_factory):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        here, there = processes.Pipe()
        process = processes.Process(target=_check_as_nobody, args=(os.path.join(folder, 'run.checkpoint'), there))
        process.start()
        kind, message = here.recv()
        process.join()
    assert kind == 'PermissionError' and 'run.checkpoint' in message


@pytest.mark.parametrize('epochs, total_steps', [(0, 200), (2.5, 200), (EPOCHS, 20)])
def test_a_refused_training_leaves_the_trained_model(epochs, total_steps):
    classifier = build('constant')
    classifier.train()
    before = fingerprint(classifier)
    classifier.set_scheduler('OneCycleLR', max_lr=0.01, total_steps=total_steps)
    with pytest.raises((TypeError, ValueError)): classifier.train(epochs, resume=False)
    assert fingerprint(classifier) == before and len(classifier.history) == EPOCHS


@pytest.mark.parametrize('name, options', [('CosineAnnealingLR', {}), ('OneCycleLR', {}),
                                           ('OneCycleLR', dict(epochs=EPOCHS, steps_per_epoch=16, max_lr=0.01))])
def test_a_refused_continuation_leaves_the_best_weights(name, options):
    classifier = build('constant')
    classifier.set_scheduler(name, **options)
    classifier.train()
    before = fingerprint(classifier)['in the model']
    with pytest.raises(ValueError, match='for 5 epochs'): classifier.train(EPOCHS + 3)
    assert fingerprint(classifier)['in the model'] == before
    assert len(classifier.train(resume=True)) == EPOCHS, 'up to the planned end it may go on'


@pytest.mark.parametrize('name, options', [
    ('LambdaLR', dict(lr_lambda=lambda epoch: 0.9**epoch)), ('MultiplicativeLR', dict(lr_lambda=lambda epoch: 0.9)),
    ('CyclicLR', dict(base_lr=1e-4, max_lr=1e-2, scale_fn=lambda x: 1 / (1 + x), cycle_momentum=False)),
    ('MultiStepLR', dict(milestones=range(1, 3))), ('MultiStepLR', dict(milestones=np.array([1, 2]))), ('MultiStepLR', dict(milestones={1, 2}))],
    ids=lambda value: value if isinstance(value, str) else type(next(iter(value.values()))).__name__)
def test_schedulers_of_functions_and_arrays_are_kept_too(name, options, tmp_path):
    def run(epochs):
        classifier = build('constant', epochs=epochs)
        classifier.set_scheduler(name, **options)
        return classifier
    whole, first, second = run(3), run(2), run(3)
    whole.train()
    first.train(checkpoint=tmp_path / 'run')
    second.train(checkpoint=tmp_path / 'run')
    assert fingerprint(second) == fingerprint(whole)
    second.save_model(tmp_path / 'model.pt')
    assert MNISTClassifier.from_file(tmp_path / 'model.pt', data=some_digits()).evaluate() == second.evaluate()


def test_arguments_of_a_partial_function_belong_to_the_run(tmp_path):
    little, much = (build('constant', augment=partial(random_affine, degrees=degrees)) for degrees in (5, 60))
    little.train(checkpoint=tmp_path / 'run')
    with pytest.raises(ValueError, match='degrees=5.*degrees=60'): much.train(checkpoint=tmp_path / 'run')


def test_patience_may_be_chosen_anew_when_going_on(tmp_path):
    assert len(build('early stopping', min_delta=0.9).train(checkpoint=tmp_path / 'run')) < EPOCHS
    assert len(build('early stopping', patience=None).train(checkpoint=tmp_path / 'run')) == EPOCHS
    assert len(build('early stopping', patience=1, min_delta=0.9, epochs=40).train(checkpoint=tmp_path / 'run')) < 40


def test_a_loaded_model_is_ready_and_refuses_what_it_cannot_keep(tmp_path):
    classifier = build('constant')
    classifier.train()
    classifier.save_model(tmp_path / 'good.pt')
    loaded = MNISTClassifier.from_file(tmp_path / 'good.pt', data=some_digits())
    assert not loaded.model.training
    with pytest.raises(ValueError, match='no training to save'): loaded.save_checkpoint(tmp_path / 'run')
    assert len(loaded.history) == EPOCHS
    for name, config in (('history', {'recipe': classifier.recipe, 'history': 'long ago'}), ('recipe', {'recipe': 3}), ('network', {'recipe': {'epochs': 1}})):
        checkpoints.save_weights(build('per batch').model, tmp_path / 'odd.pt', config)
        before = digest(loaded.model.state_dict())
        for load in loaded.load_model, MNISTClassifier.from_file:
            with pytest.raises(ValueError, match=name): load(tmp_path / 'odd.pt')
        assert digest(loaded.model.state_dict()) == before
    with pytest.raises(FileNotFoundError, match='none.checkpoint'): build('constant').train(resume=True, checkpoint=tmp_path / 'none.checkpoint')


@pytest.mark.skipif(os.name != 'posix', reason='permissions as POSIX has them')
def test_a_file_keeps_its_permissions_and_strangers_keep_theirs(tmp_path):
    path, stranger = tmp_path / 'run', tmp_path / '.run.notes.tmp'
    save_file({}, path, 'weights')
    path.chmod(0o600)
    stranger.write_text('mine')
    os.utime(stranger, (0, 0))
    check_writable(path)
    save_file({}, path, 'weights')
    assert path.stat().st_mode & 0o777 == 0o600 and stranger.exists()


@pytest.mark.parametrize('path, kind', [('missing/run.checkpoint', FileNotFoundError), ('.', PermissionError)])
def test_a_place_that_cannot_be_written_is_said_before_training(path, kind, tmp_path):
    classifier = build('constant')
    with pytest.raises(kind): classifier.train(checkpoint=tmp_path / path)
    assert classifier.trainer is None, 'training had begun'


def test_two_writers_at_once_leave_a_whole_file(tmp_path):
    path, errors = tmp_path / 'shared.pt', []
    def write(value):
        try:
            for _ in range(20): save_file({'value': torch.full((1000,), float(value))}, path, 'weights')
        except Exception as error: errors.append(error)
    writers = [threading.Thread(target=write, args=(value,)) for value in range(3)]
    for writer in writers: writer.start()
    for writer in writers: writer.join()
    assert not errors
    assert len(load_file(path, 'weights')['value'].unique()) == 1


def test_a_loss_that_turns_nan_stops_with_the_last_good_state(tally):
    classifier = build('constant')
    classifier.begin()
    def poison(trainer):
        if len(trainer.history) == 2: trainer.optimizer.param_groups[0]['lr'] = float('inf')
    classifier.trainer.callbacks = [AfterEpoch(poison)]
    with pytest.raises(FloatingPointError, match='in epoch 3'): classifier.trainer.fit(EPOCHS)
    assert len(classifier.trainer.history) == 2
    assert digest(classifier.model.state_dict()) == digest(classifier.trainer.state['best_weights'])
    assert all(value.isfinite().all() for value in classifier.model.state_dict().values())
    tally('losses gone bad, stopped')
