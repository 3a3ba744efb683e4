"""Does the default number format of this machine cost accuracy? Trains each seed twice, in float32 and by default.

    python tools/compare_formats.py results.json              # five seeds, ten epochs each
    python tools/compare_formats.py results.json --seeds 2    # fewer

Both runs of a seed start from the same weights and see the same images in the same order. A finished run is kept in
the file, so that an interrupted comparison goes on where it was. The test images are scored once a run.
"""
import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from mnist_nb.bench import hardware
from mnist_nb.classifier import MNISTClassifier
from mnist_nb.files import write_atomic

FORMATS = {'float32': False, 'default': None}


def train(seed, mixed_precision, epochs):
    "Accuracies (percent) of one run."
    classifier = MNISTClassifier(seed=seed, epochs=epochs, mixed_precision=mixed_precision, data='mnist')
    history = classifier.train()
    return {'test': classifier.evaluate(), 'valid': 100 * max(history.val_accuracy)}


def report(runs):
    "A line a seed, then the mean of the paired differences."
    pairs = [(key, run['float32'], run['default']) for key, run in runs.items() if len(run) == len(FORMATS)]
    for part in 'valid', 'test':
        differences = [default[part] - float32[part] for _, float32, default in pairs]
        for (seed, float32, default), difference in zip(pairs, differences):
            print(f'{part:5} seed {seed}: {float32[part]:.2f} %, {default[part]:.2f} %, {difference:+.2f}')
        spread = f', standard deviation {stdev(differences):.3f}' if len(differences) > 1 else ''
        if pairs: print(f'{part:5} mean difference {mean(differences):+.3f} points{spread}, {len(pairs)} seeds')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path, help='JSON file that keeps the finished runs')
    parser.add_argument('--seeds', type=int, default=5, help='seeds to train (default: 5)')
    parser.add_argument('--epochs', type=int, default=10, help='epochs for each (default: 10)')
    options = parser.parse_args()
    found = json.loads(options.results.read_text()) if options.results.exists() else {}
    kept = found or {'epochs': options.epochs, 'hardware': hardware(), 'runs': {}}
    if kept['epochs'] != options.epochs:
        parser.error(f"{options.results} holds runs of {kept['epochs']} epochs; name another file for {options.epochs}")
    for seed in range(options.seeds):
        for name, mixed_precision in FORMATS.items():
            run = kept['runs'].setdefault(str(seed), {})
            if name in run: continue
            run[name] = train(seed, mixed_precision, options.epochs)
            write_atomic(json.dumps(kept, indent=1).encode(), options.results)
    report(kept['runs'])


if __name__ == '__main__': main()
