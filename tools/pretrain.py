#!/usr/bin/env python
"""Train the classifier that ships with the package, and measure the numbers on its card.

    python tools/pretrain.py                          # three seeds, ten epochs each
    python tools/pretrain.py --seeds 0 --epochs 1     # a quick provisional one
    python tools/pretrain.py --time 2                 # only time two epochs anew, on a machine that is otherwise idle

Each seed trains the default recipe on real MNIST. The seed with the best validation accuracy
is shipped; the test images are scored once a seed, after its training, and decide nothing.
A finished seed is kept in the folder of --out, so that an interrupted run goes on where it was.
"""
import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import mean, median, stdev

import torch

from mnist_nb.classifier import PRETRAINED, MNISTClassifier

CARD = PRETRAINED / 'card.json'


def cpu_name():
    "What the processor calls itself."
    info = Path('/proc/cpuinfo')
    names = [line.split(':', 1)[1].strip() for line in info.read_text().splitlines()
             if line.startswith('model name')] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def hardware(device):
    "What the numbers were measured on."
    found = {'cpu': cpu_name(), 'cores': os.cpu_count(), 'threads': torch.get_num_threads(), 'device': device.type}
    if device.type == 'cuda': found['gpu'] = torch.cuda.get_device_name(device)
    return found


def peak_memory():
    "The most memory that this process has held so far, in MB."
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == 'darwin' else 1e3))


def train_seed(seed, epochs, out):
    "Train one seed and measure it, or read what an earlier run of the same recipe measured."
    results, weights = out / f'seed-{seed}.json', out / f'seed-{seed}.pt'
    classifier = MNISTClassifier(seed=seed, epochs=epochs, data='mnist')
    if results.exists() and weights.exists():
        result = json.loads(results.read_text())
        if result['recipe'] == classifier.recipe: return result
    history = classifier.train(checkpoint=out / f'seed-{seed}.checkpoint')
    if classifier.trainer.interrupted: raise KeyboardInterrupt
    classifier.save_model(weights)
    result = {'seed': seed, 'recipe': classifier.recipe, 'epochs': len(history), 'best_epoch': history.best_epoch,
              'timing': timing(classifier)}
    for split in 'train', 'valid', 'test':
        preds = classifier.predictions(split)
        result[split] = {'images': len(preds), 'accuracy': round(preds.accuracy, 6), 'loss': round(preds.loss, 6)}
    results.write_text(json.dumps(result, indent=1))
    return result


def timing(classifier):
    "What the training of a classifier took, and where."
    return {'seconds_per_epoch': round(median(classifier.history.seconds), 1), 'peak_memory_mb': peak_memory(),
            'hardware': hardware(classifier.device)}


def ship(result, out):
    "Write the shipped weights in half precision; gives their accuracy on the test images."
    PRETRAINED.mkdir(exist_ok=True)
    trained = MNISTClassifier.from_file(out / f"seed-{result['seed']}.pt")
    trained.save_model(PRETRAINED / 'weights.pt', dtype=torch.float16)
    size = (PRETRAINED / 'weights.pt').stat().st_size
    if size > 2.5e6: raise ValueError(f'the weights file is {size:,} bytes, at most 2,500,000 may ship')
    preds = MNISTClassifier.from_file(PRETRAINED / 'weights.pt', data='mnist').predictions()
    return {'bytes': size, 'accuracy': round(preds.accuracy, 6), 'loss': round(preds.loss, 6)}


def table(results):
    "The measured numbers, a line a seed."
    print(f"{'seed':>4} {'epochs':>6} {'best':>4} {'s/epoch':>7} "
          f"{'train':>8} {'valid':>8} {'test':>8} {'test loss':>9}")
    for r in results:
        print(f"{r['seed']:4} {r['epochs']:6} {r['best_epoch']:4} {r['timing']['seconds_per_epoch']:7.1f} "
              + ' '.join(f"{r[split]['accuracy']:8.2%}" for split in ('train', 'valid', 'test'))
              + f" {r['test']['loss']:9.4f}")
    scores = [r['test']['accuracy'] for r in results]
    if len(scores) > 1:
        print(f'test accuracy: mean {mean(scores):.2%}, deviation {stdev(scores):.2%}, least {min(scores):.2%}')


def time_again(epochs):
    "Train a little, only to see how long it takes, and put that on the card."
    classifier = MNISTClassifier(epochs=epochs, data='mnist')
    classifier.train()
    card, measured = json.loads(CARD.read_text()), timing(classifier)
    card['timing'] = [other for other in card['timing'] if other['hardware'] != measured['hardware']] + [measured]
    CARD.write_text(json.dumps(card, indent=1) + '\n')
    print(measured)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds to train (default: 0 1 2)')
    parser.add_argument('--epochs', type=int, default=10, help='epochs for each (default: 10)')
    parser.add_argument('--out', type=Path, default=Path(tempfile.gettempdir()) / 'mnist_nb_pretrain',
                        help='folder for finished seeds and checkpoints (default: one in the temporary folder)')
    parser.add_argument('--time', type=int, metavar='EPOCHS', help='only time so many epochs and put that on the card')
    options = parser.parse_args()
    if options.time: return time_again(options.time)
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in options.seeds:
        results.append(train_seed(seed, options.epochs, options.out))
        table(results)
    best = max(results, key=lambda result: (result['valid']['accuracy'], -result['valid']['loss']))
    shipped = ship(best, options.out)
    card = {'shipped_seed': best['seed'], 'chosen_by': 'validation accuracy', 'recipe': best['recipe'],
            'shipped': shipped, 'hardware': best['timing']['hardware'], 'timing': [best['timing']],
            'versions': {'python': platform.python_version(), 'torch': torch.__version__},
            'date': date.today().isoformat(),
            'seeds': [{name: value for name, value in r.items() if name not in ('recipe', 'timing')} for r in results]}
    CARD.write_text(json.dumps(card, indent=1) + '\n')
    print(f"shipped: seed {best['seed']}, {shipped['bytes']:,} bytes, "
          f"test accuracy as shipped {shipped['accuracy']:.2%}")


if __name__ == '__main__':
    try: main()
    except KeyboardInterrupt: sys.exit('interrupted: the same command goes on from the last finished epoch')
