"""Two real processes, started by torchrun, train one model: the same as one process, and nothing is said or written twice."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, digest

from mnist_nb.checkpoints import load_file
from mnist_nb.classifier import MNISTClassifier

pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or sys.platform == 'win32',
                                reason='this PyTorch cannot train with several processes')
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
SMALL = dict(num_filters=4, hidden_size=16, device='cpu', data='sample', mixed_precision=False)
SAME = dict(SMALL, batch_size=21, learning_rate=0.003, dropout1=0.0, dropout2=0.0)  # 54 batches of 21, one of 16
RANDOM = dict(SMALL, batch_size=48, learning_rate=0.003, seed=1)
TRAIN = ['-m', 'mnist_nb', 'train', '--data', 'sample', '--device', 'cpu', '--num-filters', '4', '--hidden-size', '16',
         '--no-mixed-precision']
SIZES = [(83, 15), (83, 16), (85, 16), (81, 20), (40, 64), (96, 16)]  # last batch: 8, 3, 5, 1, all, 16
PROGRAM = f'''
import json, sys
from pathlib import Path
import torch
from helpers import Recorder, digest, numbered, numbers
from mnist_nb.classifier import MNISTClassifier
from mnist_nb.data import Batches, load_sample, random_affine
from mnist_nb.processes import DistributedTrainer, process_group

folder, report = Path(sys.argv[1]), {{}}
with process_group() as rank:
    same = MNISTClassifier(**{SAME})
    history = same.train(epochs=1)
    report['same'] = {{'weights': {{name: value.tolist() for name, value in same.model.state_dict().items()}}, **vars(history)}}

    report['seen'] = []
    for n, batch_size in {SIZES}:
        trainer = DistributedTrainer(Recorder(), Batches(numbered(n), batch_size, shuffle=True), Batches(numbered(9)))
        trainer.fit(2, verbose=False)
        report['seen'].append([numbers(images) for training, images in trainer.model.shown if training])

    def random(): return MNISTClassifier(**{RANDOM}, augment=random_affine, patience=9)
    unbroken = random()
    unbroken.train(epochs=3)
    report['unbroken'] = digest({{name: value for name, value in unbroken.trainer.state.items() if name != 'history'}})
    report['losses'] = unbroken.history.loss
    report['weights'] = digest(unbroken.model.state_dict())
    report['random state'] = digest(unbroken.trainer.state['random_state'])
    for epochs in 1, 2: random().train(epochs=epochs, checkpoint=folder / 'run.pt')
    norm = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(784), torch.nn.Linear(784, 10))
    DistributedTrainer(norm, Batches(numbered(83), 16, shuffle=True), Batches(numbered(9))).fit(1, verbose=False)
    report['batch norm'] = digest(norm.state_dict())

    data = load_sample('train'), load_sample('test')
    if rank: data = data[0][:1000], data[1]
    try: MNISTClassifier(**{{**{RANDOM}, 'data': data}}).train(epochs=1)
    except (ValueError, RuntimeError) as error: report['other data'] = str(error)
    (folder / f'{{rank}}.json').write_text(json.dumps(report))
'''


def torchrun(*words, **options):
    "Start two processes with these words after `torchrun`."
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')]), 'OMP_NUM_THREADS': '1',
           'TQDM_DISABLE': '1', 'PYTHONUNBUFFERED': '1'}
    return subprocess.Popen([*TORCHRUN, *map(str, words)], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            **options)


def finish(process):
    "Status, stdout, and the lines of our command on stderr, without those of torchrun."
    out, err = process.communicate(timeout=50)
    ours = 'mnist_nb:', 'mnist_nb train:', 'process '
    return process.returncode, out, [line for line in err.splitlines() if line.startswith(ours)]


@pytest.fixture(scope='module')
def reports(tmp_path_factory):
    "What each of two processes reports of itself, and the folder with their checkpoint."
    folder = tmp_path_factory.mktemp('processes')
    (folder / 'program.py').write_text(PROGRAM)
    process = torchrun(folder / 'program.py', folder)
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in range(2)], folder


def test_two_processes_learn_what_one_learns(reports):
    "Without dropout the gradients are the same but for rounding: batches of 21 are cut into 11 and 10."
    ours, theirs = (report['same'] for report in reports[0])
    assert ours['weights'] == theirs['weights']
    alone = MNISTClassifier(**SAME)
    history = alone.train(epochs=1)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(torch.tensor(ours['weights'][name]), value, atol=1e-4, rtol=0)
    for name in 'loss', 'accuracy', 'val_loss', 'val_accuracy':
        assert ours[name] == theirs[name] == pytest.approx(getattr(history, name), rel=1e-4), name


@pytest.mark.parametrize('case', range(len(SIZES)), ids=map(str, SIZES))
def test_each_image_is_seen_once_an_epoch(reports, case):
    n, batch_size = SIZES[case]
    one, other = (report['seen'][case] for report in reports[0])
    steps = len(one) // 2
    assert len(one) == len(other) == 2 * steps, 'one process took more steps'
    batches = [a + b for a, b in zip(one, other)]
    for epoch in batches[:steps], batches[steps:]: assert sorted(sum(epoch, [])) == list(range(n))
    assert batches[:steps] != batches[steps:], 'no new order'
    assert all(len(a) - len(b) in (0, 1) and len(b) >= 2 for a, b in zip(one, other))
    assert steps == -(-n // batch_size) - (n % batch_size == 1), 'as many steps as one process takes'


def test_processes_agree_and_draw_their_own_random_numbers(reports):
    ours, theirs = reports[0]
    for what in 'losses', 'weights', 'batch norm': assert ours[what] == theirs[what], what
    assert ours['random state'] != theirs['random state']


def test_other_images_in_one_process_are_refused(reports):
    assert "rank 0 has training_images='1,150 images" in reports[0][1]['other data']
    assert "this classifier training_images='800 images" in reports[0][1]['other data']


def test_a_stopped_run_is_resumed_bit_for_bit_and_speaks_once(reports, tmp_path):
    "The checkpoint of two epochs, written by two processes, goes on in two new ones from the command line."
    (ours, _), folder = reports
    seen = set(folder.iterdir())
    status, out, err = finish(torchrun(
        *TRAIN, '--batch-size', 48, '--learning-rate', 0.003, '--seed', 1, '--augment', '--epochs', 3, '--patience', 9,
        '--checkpoint', folder / 'run.pt', '--save', tmp_path / 'model.pt', '--json'))
    assert status == 0, err
    result = json.loads(out)  # one object and nothing else
    assert result['history']['loss'] == ours['losses'] and result['saved'] == str(tmp_path / 'model.pt')
    state = load_file(folder / 'run.pt', 'checkpoint')['trainer']
    assert digest({name: value for name, value in state.items() if name != 'history'}) == ours['unbroken']
    assert len([line for line in err if line.startswith('mnist_nb: next:')]) == len(err) == 1
    assert set(folder.iterdir()) == seen and [path.name for path in tmp_path.iterdir()] == ['model.pt']


@pytest.mark.parametrize('words, message', [
    (['--dropout1', '1.5'], 'mnist_nb: dropout1 must be'),
    (['--batch-size', '6'], 'mnist_nb: 2 processes cannot share batches of 6 images')])
def test_an_error_is_told_once(words, message):
    status, _, err = finish(torchrun(*TRAIN, *words))
    assert status != 0 and len(err) == 1 and err[0].startswith(message), err


def workers(process):
    "The processes that torchrun has started, in the order of their ranks."
    return [int(pid) for pid in Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()]


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='looks for processes as Linux lists them')
@pytest.mark.parametrize('event', ['stop', 'kill'])
def test_stopped_or_killed_nothing_hangs_and_the_checkpoint_is_whole(event, tmp_path):
    process = torchrun(*TRAIN, '--epochs', 100_000, '--checkpoint', tmp_path / 'run.pt', '--save', tmp_path / 'model.pt')
    lines = iter(process.stdout.readline, '')
    assert any(line.startswith('Epoch 3/') for line in lines)
    if event == 'stop': process.send_signal(signal.SIGINT)  # torchrun passes it on, as with Ctrl-C
    else: os.kill(workers(process)[1], signal.SIGKILL)
    status, out, err = finish(process)
    assert status != 0
    state = load_file(tmp_path / 'run.pt', 'checkpoint')['trainer']
    assert len(state['history']['loss']) >= 3
    if event == 'stop':
        assert 'Stopped after' in out and (tmp_path / 'model.pt').exists()
        assert len(err) == 1 and err[0].startswith('mnist_nb: interrupted after'), err
