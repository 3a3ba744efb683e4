"""Do the tests notice? Breaks the package in one way after another and requires a failing test for each.

    python tools/mutation_check.py              all of them, two at a time
    python tools/mutation_check.py dropout      only those with this word in their name
    python tools/mutation_check.py --jobs 4

Each mutation replaces one text of one module, in a copy, and runs the test file that should notice, without MNIST.
Exit status: 0 if all were noticed, 1 if one survived, 2 if the check itself no longer works (a text is not there).
"""
import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = [  # imported once, before the processes are forked
    'pytest', 'pandas', 'PIL.Image', 'scipy.ndimage', 'scipy.stats', 'sklearn.calibration', 'sklearn.datasets',
    'sklearn.neighbors', 'torch', 'torchvision.transforms', 'tqdm.auto', 'ipywidgets']
COPIED = ['mnist_nb', 'tests', 'mnist_nb.py', 'pyproject.toml']


class Mutation(NamedTuple):
    name: str    # what is broken
    module: str  # where
    old: str     # text that stands there once
    new: str     # what takes its place
    tests: str   # the test file that has to notice


MUTATIONS = [Mutation(*mutation) for mutation in [
    # training
    ('the optimizer never steps', 'training', 'self.scaler.step(self.optimizer)', 'pass', 'learning'),
    ('gradients add up', 'training', 'self.optimizer.zero_grad()', 'pass', 'learning'),
    ('SGD in place of Adam', 'classifier', 'partial(ADAM, lr=self', 'partial(torch.optim.SGD, lr=self',
     'learning'),
    ('the learning rate is not the one given', 'classifier', 'partial(ADAM, lr=self.learning_rate)',
     'partial(ADAM, lr=0.001)', 'learning'),
    ('evaluation mode while training', 'training', 'self.model.train()', 'self.model.eval()', 'learning'),
    ('training mode while validating', 'training', 'self.model.eval()\n    with self.a',
     'self.model.train()\n    with self.a', 'learning'),
    ('no dropout after the convolutions', 'layers', 'relu_dropout(features, p1)', 'F.relu(features)', 'learning'),
    ('no dropout before the last layer', 'layers', 'relu_dropout(hidden, p2)', 'F.relu(hidden)', 'learning'),
    ('a gradient passes where dropout dropped', 'layers', 'torch.gt(output, 0', 'torch.ge(output, 0', 'layers'),
    ('the gradient of dropout is not scaled', 'layers', '.mul_(slope).mul_(ctx.scale)', '.mul_(slope)', 'layers'),
    ('dropout keeps one in 256 more', 'layers', 'round(256 * p), out', 'round(256 * p) - 1, out', 'layers'),
    ('bytes for a probability of 0.3', 'layers', ' and 256 * p % 1 == 0', '', 'layers'),
    ('dropout that is switched off is on', 'layers', 'dropout.p * dropout.training', 'dropout.p', 'layers'),
    ('half of each word is not random', 'layers', 'random_(-2**63, None)', 'random_(0, 2**32)', 'layers'),
    ('dropout is not as strong as asked', 'model', 'nn.Dropout(dropout2)', 'nn.Dropout(dropout1)', 'learning'),
    ('the scheduler never steps at an epoch', 'training',
     'self.scheduler, PER_BATCH): self.scheduler.step()\n    self.h', 'self.scheduler, PER_BATCH): pass\n    self.h',
     'learning'),
    ('the scheduler never steps at a batch', 'training',
     'if isinstance(self.scheduler, PER_BATCH): self.scheduler.step()', 'if False: pass', 'learning'),
    ('the plateau is sought in the accuracy', 'training', "val_accuracy if self.scheduler.mode == 'max' else val_loss",
     'val_accuracy', 'learning'),
    ('the best weights do not come back', 'training', "self.model.load_state_dict(self.state['best_weights'])", 'pass',
     'learning'),
    ('the worst epoch counts as the best', 'training', 'ranks.index(max(ranks))', 'ranks.index(min(ranks))',
     'learning'),
    ('training never stops early', 'training', 'return waited >= self.patience', 'return False', 'learning'),
    ('training stops an epoch late', 'training', 'waited >= self.patience', 'waited > self.patience', 'learning'),
    ('min_delta is ignored', 'training', 'best + self.min_delta', 'best', 'learning'),
    ('the seed is ignored in training', 'classifier', ', seed=self.seed)', ')', 'learning'),
    ('the seed is ignored for the first weights', 'classifier', 'with random_numbers(seed):', 'with random_numbers(0):',
     'learning'),
    # several processes
    ('unequal parts of a batch count alike', 'processes', 'bucket.buffer().mul_(batches.fraction)',
     'bucket.buffer().div_(dist.get_world_size())', 'processes'),
    ('each process computes on all images', 'processes', 'part = rows[rank::n]', 'part = rows', 'processes'),
    ('processes draw the same dropout', 'processes', 'if rank: set_seed(', 'if False: set_seed(', 'processes'),
    # data
    ('the order is never shuffled', 'data', 'torch.randperm(n) if self.shuffle', 'torch.arange(n) if self.shuffle',
     'learning'),
    ('the order is shuffled once for all epochs', 'data', 'torch.randperm(n) if self.shuffle',
     'torch.randperm(n, generator=torch.Generator().manual_seed(0)) if self.shuffle', 'learning'),
    ('labels are shifted against images', 'data', 'self.labels[rows]',
     'self.labels[rows.roll(1)]', 'learning'),
    ('the last batch is dropped', 'data', 'in self._parts(order.to(self.device)):',
     'in self._parts(order)[:max(1, n // self.batch_size)]:', 'learning'),
    ('validation images are training images', 'data', 'data[order[n_train:]]', 'data[order[:n_train]]', 'learning'),
    ('the split is not random', 'data', 'torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))',
     'torch.arange(len(data))', 'learning'),
    ('the seed of the split is ignored', 'data', 'torch.Generator().manual_seed(seed)',
     'torch.Generator().manual_seed(0)', 'learning'),
    ('validation on the training part', 'classifier', "Batches(splits['valid']", "Batches(splits['train']",
     'learning'),
    ('validation on the test set', 'classifier', "Batches(splits['valid']", "Batches(splits['test']",
     'learning'),
    ('training on all images', 'classifier', "'train': train, 'valid'", "'train': load_data(self.data)[0], 'valid'",
     'learning'),
    ('augmentation is ignored', 'data', 'if self.augment: images', 'if False: images', 'learning'),
    ('augmentation of validation images, too', 'classifier', "Batches(splits['valid']",
     "Batches(splits['valid'], augment=self.augment", 'learning'),
    ('the transform is ignored', 'data', 'if self.transform:', 'if False:', 'learning'),
    ('augmentation moves nothing', 'data', '(2 * torch.rand(len(images), 4) - 1)', '(0 * torch.rand(len(images), 4))',
     'learning'),
    ('augmentation moves all images alike', 'data', 'torch.rand(len(images), 4)',
     'torch.rand(1, 4).expand(len(images), 4)', 'learning'),
    ('nothing is normalized', 'data', '.sub(mean).div_(std)', '.sub(0)', 'learning'),
    ('another standard deviation', 'data', 'MEAN, STD = 0.1307, 0.3081', 'MEAN, STD = 0.1307, 0.3801', 'learning'),
    ('predictions are normalized in another way than training', 'classifier',
     '(images, self.normalize_mean, self.normalize_std), self', '(images, MEAN, STD), self', 'learning'),
    # files
    ('weights are saved in half precision', 'checkpoints', 'value.to(dtype) if dtype and', 'value.to(torch.float16) if',
     'learning'),
    ('weights are not loaded', 'checkpoints', "model.load_state_dict(content['model'])", 'pass', 'learning'),
    ('a resumed run forgets its optimizer', 'training', "'optimizer', 'scheduler', 'scaler'):",
     "'scheduler', 'scaler'):", 'cli'),
    ('a resumed run forgets its random numbers', 'training', "with random_numbers(self.state['random_state'])",
     'with random_numbers()', 'cli'),
    ('training disturbs the random numbers of others', 'training', 'finally: set_random_state(before)', 'finally: pass',
     'learning'),
    # the front door
    ('asking switches dropout off for the rest of an epoch', 'classifier', 'self.normalize_std), self._answering()',
     'self.normalize_std), self.model', 'front_door'),
    ('options can be set on the object', 'classifier',
     'if name in _OPTIONS:\n            raise', 'if False:\n            raise',
     'front_door'),
    ('other class names are scored, too', 'classifier', 'if data.class_names == self.class_names: return data',
     'return data', 'front_door'),
    ('a last image alone is a batch', 'data', 'len(parts[-1]) == 1 < self.batch_size', 'False', 'front_door'),
    ('files that were packed again count as broken', 'files', '_md5(_unzipped(path)) == md5',
     '_md5(Path(path).read_bytes()) == md5', 'download'),
    ('unpacked files are not looked for', 'files', "for ending in ('.gz', '')]", "for ending in ('.gz',)]", 'download'),
    ('other data under a name of MNIST is replaced', 'files', "raise ValueError(f\"{path} holds other data",
     "continue; raise ValueError(f\"{path} holds other data", 'download'),
    # predictions and scores
    ('softmax over the images', 'classifier', 'F.softmax(model(batch.to(self.device)).float(), dim=1)',
     'F.softmax(model(batch.to(self.device)).float(), dim=0)', 'scores'),
    ('dropout while predicting', 'classifier', 'with evaluation_mode(model), torch.no_grad():\n        for batch',
     'with torch.no_grad():\n        for batch', 'scores'),
    ('dropout while scoring', 'evaluation', 'with evaluation_mode(model), torch.no_grad()', 'with torch.no_grad()',
     'scores'),
    ('the least probable class', 'classifier', 'self.predict_proba(images).argmax(1)',
     'self.predict_proba(images).argmin(1)', 'scores'),
    ('the second most probable class', 'evaluation', 'self.probs.argmax(1)', 'self.probs.argsort(1)[:, -2]', 'scores'),
    ('predictions in another order', 'evaluation', '.reshape(len(data), -1)', '.reshape(len(data), -1)[::-1]',
     'scores'),
    ('accuracy as a fraction', 'classifier', '100 * self.predictions(data).accuracy', 'self.predictions(data).accuracy',
     'scores'),
    ('the loss of the predicted class', 'evaluation', 'np.arange(len(self)), self.labels]',
     'np.arange(len(self)), self.predicted]', 'scores'),
    ('precision and recall swapped', 'evaluation', "('precision', 'recall', 'f1', 'support')",
     "('recall', 'precision', 'f1', 'support')", 'scores'),
    ('the confusion matrix transposed', 'evaluation', '(preds.labels, preds.predicted), 1)',
     '(preds.predicted, preds.labels), 1)', 'scores'),
    ('shares of the predicted class', 'evaluation', 'counts.sum(1, keepdims=True)', 'counts.sum(0, keepdims=True)',
     'scores'),
    ('intervals too narrow', 'evaluation', 'inv_cdf((1 + confidence) / 2)', 'inv_cdf(confidence)', 'scores'),
    ('calibration in the wrong bin', 'evaluation', 'np.bincount(bins, minlength',
     'np.bincount(n_bins - 1 - bins, minlength', 'scores'),
    ('calibration gaps cancel out', 'evaluation', 'table.gap.abs()', 'table.gap', 'scores'),
    ('the better model is the worse one', 'evaluation', '(won - lost) / len(a)', '(lost - won) / len(a)',
     'scores'),
    # searches and maps
    ('the smallest losses first', 'analysis', 'np.argsort(-preds.losses',
     'np.argsort(preds.losses', 'scores'),
    ('confident hits among the mistakes', 'analysis', 'order[~preds.correct[order]]', 'order[preds.correct[order]]',
     'scores'),
    ('the threshold inverted', 'analysis', 'table.accuracy >= accuracy', 'table.accuracy <= accuracy', 'scores'),
    ('the threshold too high', 'analysis', 'float(enough.iloc[-1])', 'float(enough.iloc[0])', 'scores'),
    ('cross-validation on images that were learned', 'analysis', 'fit_predict(data[others]', 'fit_predict(data',
     'scores'),
    ('the least suspicious labels first', 'analysis', 'ascending=[True, False]', 'ascending=[False, True]', 'scores'),
    ('saliency of another class', 'interpretation', 'outputs.argmax(1) if targets', 'outputs.argmin(1) if targets',
     'scores'),
    ('saliency of a class that nobody asked about', 'interpretation', 'targets[batch].to(outputs.device)',
     'outputs.argmax(1)', 'scores'),
    ('occlusion the wrong way around', 'interpretation', 'before - log_odds(after, c.expand(len(after)))',
     'log_odds(after, c.expand(len(after))) - before', 'scores'),
    ('rotation the other way around', 'interpretation', 'dict(degrees=amount)', 'dict(degrees=-amount)', 'scores'),
    # handwriting
    ('dark ink stays dark', 'handwriting', '-differences if (differences**3).sum() < 0 else differences', 'differences',
     'scores'),
    ('digits are not centered', 'handwriting', 'np.ceil(13.5 - np.array(ndimage', 'np.ceil(9.5 - np.array(ndimage',
     'scores'),
    ('digits too large for their box', 'handwriting', 'round(side * size / max(ink.shape))',
     'round(side * 24 / max(ink.shape))', 'scores'),
    # explorers and marks
    ('the filter for mistakes shows hits', 'widgets', "preds.correct == (state.outcome == 'right')",
     "preds.correct != (state.outcome == 'right')", 'explore'),
    ('the mark lands on another image', 'marks', 'fingerprint(preds.data.images[i], label)',
     'fingerprint(preds.data.images[i - 1], label)', 'explore'),
    ('undo takes back the first mark', 'marks', 'journal[:-1]', 'journal[1:]', 'explore'),
    ('a cell opens the images of its mirror', 'widgets', 'on_open(true=cell[0], predicted=cell[1])',
     'on_open(true=cell[1], predicted=cell[0])', 'explore'),
    ('the drawing is read from the wrong step', 'widgets', 'predict_probs(list(steps.values())[-1])',
     'predict_probs(list(steps.values())[-2])', 'draw'),
    # command line
    ('failures end with status 0', 'cli', 'return _finish(_tell(_one_line(error), 1))',
     'return _finish(_tell(_one_line(error), 0))', 'cli'),
    ('unreadable pictures end with status 0', 'cli', "int(any('error' in answer for answer in answers))", '0', 'cli'),
    ('patterns are not expanded', 'cli', 'sorted(glob.glob(word)) or [word]', '[word]', 'cli'),
    ('the trained model is not saved', 'cli', 'classifier.save_model(save)', 'pass', 'cli'),
    ('the option --augment does nothing', 'cli', 'random_affine if options.augment else None', 'None', 'cli'),
    ('--scheduler does nothing', 'cli', 'classifier.set_scheduler(name, **settings)', 'pass', 'cli'),
]]


def give_up(reason):
    "The check itself no longer works."
    print(reason, file=sys.stderr)
    sys.exit(2)


def mutated(mutation):
    "The module with the mutation in it; says so if it no longer fits."
    source = (ROOT / 'mnist_nb' / f'{mutation.module}.py').read_text(encoding='utf-8')
    if (n := source.count(mutation.old)) != 1:
        give_up(f'{mutation.name}: {mutation.module}.py has {n} times, in place of once: {mutation.old}')
    source = source.replace(mutation.old, mutation.new)
    compile(source, mutation.module, 'exec')
    return source


def run_tests(tests, module=None, source=None):
    "In a process of its own, run a test file on a copy of the package with one source changed: (status, output)."
    import pytest
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        for name in COPIED:
            if (ROOT / name).is_file(): shutil.copy(ROOT / name, folder)
            else: shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
        if module: (folder / 'mnist_nb' / f'{module}.py').write_text(source, encoding='utf-8')
        os.chdir(folder)
        os.environ['MNIST_NB_DATA'] = str(folder / 'none')
        sys.path[0], sys.dont_write_bytecode = str(folder), True
        import mnist_nb
        assert Path(mnist_nb.__file__).is_relative_to(folder), f'the tests would run on {mnist_nb.__file__}'
        with redirect_stdout(StringIO()) as out, redirect_stderr(out):
            status = pytest.main(['-x', '-q', '--tb=line', '-p', 'no:cacheprovider', f'tests/test_{tests}.py'])
        return int(status), out.getvalue()


def check(mutation):
    "(was it noticed?, a row of the table)"
    start = time.perf_counter()
    status, out = run_tests(mutation.tests, mutation.module, mutated(mutation))
    failed = re.search(r'^FAILED tests/(.+?)(?: - .*)?$', out, re.M)
    noticed = status == 1 and failed is not None  # any other status: the tests could not run
    by = failed[1] if noticed else f'SURVIVED test_{mutation.tests}.py (status {status})'
    return noticed, f'{mutation.name:52} {time.perf_counter() - start:5.1f} s  {by}'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('words', nargs='*', help='only mutations with one of these words in their name')
    parser.add_argument('--jobs', type=int, default=2, help='how many at a time (default: 2)')
    options = parser.parse_args()
    wanted = lambda name: not options.words or any(word in name for word in options.words)
    chosen = [mutation for mutation in MUTATIONS if wanted(mutation.name)]
    if not chosen: parser.error(f'no mutation has {" or ".join(options.words)} in its name')
    start = time.perf_counter()
    for mutation in MUTATIONS: mutated(mutation)  # does each still fit?
    survived = []
    os.environ |= {'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore:resource_tracker'}  # progress bars leave a lock
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(LIBRARIES)
    with context.Pool(options.jobs, maxtasksperchild=1) as pool:
        for status, out in pool.imap(run_tests, sorted({mutation.tests for mutation in chosen})):
            if status: give_up(f'a test fails without any mutation:\n{out}')
        for mutation, (noticed, row) in zip(chosen, pool.imap(check, chosen)):
            print(row, flush=True)
            if not noticed: survived.append(mutation.name)
    print(f'{len(chosen) - len(survived)} of {len(chosen)} mutations were noticed, {time.perf_counter() - start:.0f} s')
    for name in survived: print(f'survived: {name}', file=sys.stderr)
    return 1 if survived else 0


if __name__ == '__main__': sys.exit(main())
