"The command line as a user meets it: lines, files, statuses, and no traceback."
import inspect
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import ROOT, python, python_code, same_weights
from PIL import Image

from mnist_nb.classifier import MNISTClassifier
from mnist_nb.cli import RECIPE, build_parser, main
from mnist_nb.data import load_sample

SMALL = ['--data', 'sample', '--num-filters', '2', '--hidden-size', '16', '--device', 'cpu']


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv('TQDM_DISABLE', '1')
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    "Run a command line; gives (status, lines on stdout, lines on stderr)."
    def command(*args):
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()
    return command


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A small trained model in a file."
    path = tmp_path_factory.mktemp('model') / 'small.pt'
    os.environ['TQDM_DISABLE'] = '1'
    assert main(['train', *SMALL, '--epochs', '3', '--save', str(path)]) == 0
    return path


@pytest.fixture
def digits(tmp_path):
    "Three pictures of digits, dark on light, larger than 28x28."
    paths = [tmp_path / f'digit-{i}.png' for i in range(3)]
    for path, image in zip(paths, load_sample('test').images): Image.fromarray(255 - image).resize((140, 140)).save(path)
    return paths


def test_options_are_the_keywords_of_the_classifier():
    "Each has an option, and what is not given is not passed; the notebook compares their defaults."
    parameters = inspect.signature(MNISTClassifier).parameters
    others = {'device', 'data', 'mixed_precision', 'augment'}
    assert set(parameters) - set(RECIPE) - others == {'model', 'transform'}, 'objects, which no command line can give'
    given = vars(build_parser().parse_args(['train', '--batch-size', '32']))
    assert given['batch_size'] == 32 and not set(given) & (set(RECIPE) - {'batch_size'})


@pytest.mark.parametrize('command', ['train', 'evaluate', 'predict'])
def test_every_option_has_help_and_default(command):
    parser = build_parser()._subparsers._group_actions[0].choices[command]
    for action in parser._actions:
        assert action.help, action.option_strings
        if action.option_strings and action.dest != 'help': assert '(default: ' in action.help, action.option_strings


def test_help_is_quick_and_light():
    code = ("import sys; from mnist_nb.cli import main; main(['train', '--help']); "
            "print([m for m in ('torch', 'torchvision', 'matplotlib', 'ipywidgets', 'numpy') if m in sys.modules])")
    assert python_code(code).splitlines()[-1] == '[]'


def test_train_prints_the_lines_of_the_card(run, tmp_path):
    status, out, err = run('train', *SMALL, '--epochs', 2, '--save', tmp_path / 'digits.pt')
    assert status == 0
    assert re.fullmatch(r'Images: 1,150 train, 287 valid, 360 test \(digits sample test\)', out[0])
    for epoch in 1, 2: assert re.fullmatch(rf'Epoch {epoch}/2: Train Loss: \d\.\d{{3}}, Val Acc: \d+\.\d%', out[epoch])
    assert re.fullmatch(r'Final Test Accuracy: \d+\.\d%', out[3]) and len(out) == 4
    assert len(err) == 1 and 'mnist_nb predict --model' in err[0]
    loaded = MNISTClassifier.from_file(tmp_path / 'digits.pt', data='sample')
    assert f'{loaded.evaluate():.1f}' == out[3].split()[-1].rstrip('%') and len(loaded.history) == 2


def test_train_json_is_one_object(run):
    status, out, err = run('train', *SMALL, '--epochs', 1, '--json', '--scheduler', 'StepLR', 'step_size=5', 'gamma=0.5')
    assert status == 0 and len(out) == 1
    result = json.loads(out[0])
    assert result['recipe']['scheduler_options'] == {'step_size': 5, 'gamma': 0.5} and result['recipe']['num_filters'] == 2
    assert len(result['history']['val_accuracy']) == 1 and result['best_epoch'] == 1
    low, high = result['interval']
    assert low < result['accuracy'] < high and result['images'] == 360
    assert any(line.startswith('Epoch 1/1') for line in err), 'the lines for people go to stderr'


def test_the_same_seed_gives_the_same_model(run, tmp_path):
    weights = []
    for name in 'first.pt', 'second.pt':
        run('train', *SMALL, '--epochs', 1, '--seed', 3, '--save', tmp_path / name)
        weights.append(MNISTClassifier.from_file(tmp_path / name).model)
    assert same_weights(*weights)


def test_augment_changes_the_training(run):
    losses = []
    for options in [], ['--augment']:
        status, out, _ = run('train', *SMALL, '--epochs', 5, '--json', *options)
        assert status == 0
        losses.append(json.loads(out[0])['history']['loss'][-1])
    assert losses[0] + 0.02 < losses[1], losses


def test_evaluate(run, model):
    status, out, err = run('evaluate', '--model', model, '--data', 'sample')
    assert status == 0 and not err
    assert out[0] == 'digits sample test: 360 images of 10 classes'
    assert re.fullmatch(r'Accuracy: \d+\.\d\d% \(95% interval \d+\.\d\d% to \d+\.\d\d%\), loss \d+\.\d{3}', out[1])
    assert out[2].split() == ['precision', 'recall', 'f1', 'support'] and len(out) == 14
    status, out, _ = run('evaluate', '--model', model, '--data', 'sample', '--json')
    result = json.loads(out[0])
    assert status == 0 and len(result['classes']) == 10 and sum(row['support'] for row in result['classes']) == 360


def test_evaluate_the_pretrained_model(run):
    "The sample comes from other writers and another scanner, so this is a weaker test than MNIST's."
    status, out, _ = run('evaluate', '--data', 'sample', '--json')
    assert status == 0 and json.loads(out[0])['accuracy'] > 80


def test_predict(run, digits, model):
    classifier = MNISTClassifier.from_file(model)
    expected = [classifier.predict(path) for path in digits]
    status, out, err = run('predict', '--model', model, *digits)
    assert status == 0 and not err
    assert [int(re.fullmatch(r'.*digit-\d\.png: (\d) \(\d+\.\d%\)', line)[1]) for line in out] == expected
    status, out, _ = run('predict', '--model', model, '--json', *digits)
    answers = json.loads(out[0])['images']
    assert status == 0 and [answer['digit'] for answer in answers] == expected
    assert all(sum(answer['probabilities']) == pytest.approx(1) for answer in answers)


def test_one_bad_picture_does_not_stop_the_others(run, digits, tmp_path):
    (tmp_path / 'text.png').write_text('no picture')
    Image.new('L', (50, 50), 255).save(tmp_path / 'blank.png')
    status, out, err = run('predict', tmp_path / 'text.png', digits[0], tmp_path / 'blank.png', tmp_path / 'missing.png')
    assert status == 1 and len(out) == 1 and len(err) == 3
    for line, name in zip(err, ('text', 'blank', 'missing')): assert line.startswith('mnist_nb: ') and f'{name}.png' in line
    status, out, _ = run('predict', '--json', digits[0], tmp_path / 'blank.png')
    answers = json.loads(out[0])['images']
    assert status == 1 and 'digit' in answers[0] and 'no digit found' in answers[1]['error']


def test_patterns_are_expanded_where_no_shell_does(run, digits):
    "On Windows `*.png` arrives as it was typed."
    Path('digit-[0].png').write_bytes(digits[0].read_bytes())  # a name that looks like a pattern
    status, out, err = run('predict', 'digit-?.png', 'digit-[0].png', digits[2])
    assert status == 0 and not err
    assert [line.split(':')[0] for line in out[:-1]] == ['digit-0.png', 'digit-1.png', 'digit-2.png', 'digit-[0].png']
    status, out, err = run('predict', 'scan*.jpg', 'digit-[12].png')
    assert status == 1 and [line.split(':')[0] for line in out] == ['digit-1.png', 'digit-2.png']
    assert len(err) == 1 and err[0] == 'mnist_nb: no file matches the pattern scan*.jpg'
    status, out, _ = run('predict', '--json', 'scan*.jpg')
    assert status == 1 and [sorted(answer) for answer in json.loads(out[0])['images']] == [['error', 'image']]


WRONG_USAGE = {
    '': 'COMMAND', 'learn': 'invalid choice', 'train --epochs -1': 'epochs must be a whole number, 1 or more, got -1',
    'train --epochs ten': '--epochs', 'train --dropout1 1.5': 'dropout1', 'train --train-split 1': 'train_split',
    'train --learning-rate nan': 'learning_rate', 'train --batch-size 0': 'batch_size', 'train --seed -1': 'seed',
    'train --data nist': '--data', 'train --device gpu': 'device', 'train --threads 0': '--threads',
    'train --scheduler Nope': 'unknown scheduler', 'train --scheduler StepLR': 'step_size',
    'train --scheduler StepLR step_size': 'NAME=VALUE', 'train --resume': '--checkpoint', 'train --color red': '--color',
    'predict': 'IMAGE', 'evaluate --epochs 3': '--epochs',
}


@pytest.mark.parametrize('line', WRONG_USAGE)
def test_wrong_usage_is_status_2_and_one_line(line, run):
    status, out, err = run(*line.split())
    assert status == 2 and not out and len(err) == 1, err
    assert WRONG_USAGE[line] in err[0] and err[0].startswith('mnist_nb') and '--help' in err[0]


def test_failures_are_status_1_and_one_line(run, model, tmp_path, monkeypatch):
    (tmp_path / 'broken.pt').write_bytes(model.read_bytes()[:1000])
    (tmp_path / 'foreign.pt').write_text('hello')
    cases = [(['evaluate', '--model', 'missing.pt', '--data', 'sample'], 'missing.pt'),
             (['evaluate', '--model', 'broken.pt', '--data', 'sample'], 'broken.pt'),
             (['predict', '--model', 'foreign.pt', 'x.png'], 'foreign.pt'),
             (['train', *SMALL, '--save', 'no/such/folder.pt'], 'folder'),
             (['train', *SMALL, '--checkpoint', str(model)], 'weights'),
             (['train', *SMALL, '--epochs', '2', '--learning-rate', '1e30'], 'learning')]
    for args, told in cases:
        status, out, err = run(*args)
        assert status == 1 and len(err) == 1 and told in err[0], (args, err)
    monkeypatch.setenv('MNIST_NB_DATA', str(tmp_path / 'none'))
    monkeypatch.setattr('mnist_nb.files.MNIST_MIRRORS', ())
    status, out, err = run('evaluate', '--data', 'mnist')
    assert status == 1 and len(err) == 1 and 'MNIST_NB_DATA' in err[0]
    status, out, err = run('evaluate', '--data', 'auto', '--model', model)
    assert status == 0 and 'going on with the embedded sample' in out[0], 'said in one line'


def test_checkpoint_goes_on_and_refuses_another_recipe(run):
    train = ['train', *SMALL, '--checkpoint', 'run.pt', '--epochs']
    assert run(*train, 1)[0] == 0
    torch.manual_seed(99), random.seed(99)  # the world goes on in between
    status, out, _ = run(*train, 2)
    assert status == 0 and 'Going on after epoch 1 of 2.' in out
    assert run('train', *SMALL, '--epochs', 2, '--save', 'whole.pt')[0] == 0
    assert run(*train, 2, '--save', 'parts.pt')[0] == 0
    whole, parts = (MNISTClassifier.from_file(name).model for name in ('whole.pt', 'parts.pt'))
    assert same_weights(whole, parts), 'stopped and resumed is the same as unbroken'
    status, _, err = run(*train, 2, '--learning-rate', 0.01)
    assert status == 1 and 'learning_rate=0.001, this classifier learning_rate=0.01' in err[0]
    status, out, _ = run(*train, 1, '--learning-rate', 0.01, '--no-resume')
    assert status == 0 and out[1].startswith('Epoch 1/1')


def test_ctrl_c_keeps_the_checkpoint(run, tmp_path):
    "A real process, a real signal: status 130, no traceback, and the same command goes on."
    train = ['train', *SMALL, '--checkpoint', 'run.pt', '--save', 'digits.pt', '--threads', '1']
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores Ctrl-C, and its children too
    process = subprocess.Popen([sys.executable, '-u', '-m', 'mnist_nb', *train, '--epochs', '500'], text=True, preexec_fn=listen,
                               cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    guard = threading.Timer(80, process.kill)
    guard.start()
    for line in process.stdout:
        if line.startswith('Epoch 2/'): break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    guard.cancel()
    assert process.returncode == 130 and 'Traceback' not in err, err
    done = int(re.search(r'interrupted after (\d+) of 500 epochs; the same command goes on', err)[1])
    assert done >= 2 and (tmp_path / 'digits.pt').exists()
    status, out, _ = run(*train, '--epochs', done + 1)
    assert status == 0 and f'Going on after epoch {done} of {done + 1}.' in out


def test_module_and_script_are_the_command():
    for start in (['-m', 'mnist_nb'], ['mnist_nb.py']):
        done = python(*start, '--version', cwd=ROOT)
        assert done.returncode == 0 and re.fullmatch(r'mnist_nb \d+\.\d+\.\d+\n', done.stdout)


def test_one_file_for_two_purposes_is_wrong_usage(run, tmp_path):
    status, out, err = run('train', *SMALL, '--save', tmp_path / 'a', '--checkpoint', tmp_path / 'x' / '..' / 'a')
    assert status == 2 and 'name the same file' in err[0] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('option', ['--save', '--checkpoint'])
def test_an_empty_name_is_refused_before_training(run, option):
    status, out, err = run('train', *SMALL, option, '')
    assert status == 1 and 'is a folder' in err[-1] and not any('Epoch' in line for line in out)


def test_a_picture_that_fails_does_not_stop_the_others(run, digits, tmp_path):
    odd = Path('~seven.png')
    odd.write_bytes(digits[0].read_bytes())
    status, out, err = run('predict', '~nobody-here/a.png', odd, digits[1])
    assert status == 1 and len(out) == 2 and out[0].startswith('~seven.png: ') and '~nobody-here/a.png' in err[0]


@pytest.mark.parametrize('options', [{'PYTHONIOENCODING': 'ascii'}, {}], ids=['ascii', 'utf-8'])
def test_a_name_in_other_letters_can_be_printed(options, digits, tmp_path):
    name = tmp_path / 'sieben-ü-七.png'
    name.write_bytes(digits[0].read_bytes())
    done = python('-m', 'mnist_nb', 'predict', name, text=False, env=os.environ | {'PYTHONPATH': str(ROOT)} | options)
    assert done.returncode == 0 and done.stdout.count(b'\n') == 1 and done.stderr == b''


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_a_full_disk_or_a_closed_pipe_behind_stdout_gives_no_traceback(digits):
    command = '-m', 'mnist_nb', 'predict', digits[0], '--json'
    with open('/dev/full', 'w') as full: done = python(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and done.stderr.splitlines()[1:] == ['mnist_nb: No space left on device']
    reader, writer = os.pipe()
    os.close(reader)
    done = python(*command, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1  # the line for people, and no complaint


def test_bench_compares_three_sides_and_the_fastest_recipe(run):
    status, out, err = run('bench', '--data', 'sample', '--rounds', 1, '--seeds', 2, '--threads', 1, '--json')
    assert status == 0
    result = json.loads(out[0])
    sides = {row['side']: row for row in result['summary']}
    assert list(sides) == ['textbook loop', 'mnist_nb, float32', 'mnist_nb, default', 'fastest']
    assert sides['textbook loop']['ratio'] == 1 and [row['runs'] for row in sides.values()] == [1, 1, 1, 2]
    for run_ in result['runs']:
        row = sides[run_['side']]
        assert run_['images'] == (1437 if run_['side'] == 'fastest' else 1150) and run_['seconds'] > 0 and run_['cold'] > run_['seconds']
        assert row['images/s'] == pytest.approx(run_['images'] / row['seconds'])
        assert 0 < run_['memory'] < 2
    assert sides['fastest']['accuracy'] > 50 and result['hardware']['torch'] == torch.__version__
    assert any('textbook loop' in line for line in err)


def test_bench_refuses_no_rounds(run):
    status, out, err = run('bench', '--rounds', 0)
    assert status == 2 and '--rounds' in err[0]
