"""What the import and the explorers cost on this machine: two tables, each figure the median of several runs.

    python tools/benchmark.py
"""
import subprocess
import sys
import time
from functools import partial
from statistics import median

import numpy as np

def seconds(act, n=7):
    "The median time of an act."
    times = []
    for _ in range(n):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return median(times)


def import_costs():
    "What each step loads, in a Python of its own."
    steps = {'python': 'pass', 'import mnist_nb': 'import mnist_nb', 'import torch': 'import torch',
             'MNISTClassifier': 'import torch, mnist_nb; mnist_nb.MNISTClassifier'}
    def run(code): subprocess.run([sys.executable, '-c', code], check=True)
    return {what: seconds(partial(run, code)) for what, code in steps.items()}


def made_up_preds(n=10_000, seed=0):
    "Predictions of nobody, on images of which as much is black as of a digit; about one in seven is wrong."
    from mnist_nb.data import LabeledImages
    from mnist_nb.evaluation import Predictions
    rng = np.random.default_rng(seed)
    images, labels, logits = np.zeros((n, 28, 28), np.uint8), rng.integers(0, 10, n), rng.normal(size=(n, 10))
    images[:, 4:24, 9:19] = rng.integers(0, 256, (n, 20, 10))
    probs = np.exp(logits + 4 * np.eye(10)[labels])
    return Predictions(LabeledImages(images, labels), np.float32(probs / probs.sum(1, keepdims=True)))


def explorer_costs():
    "The explorers on 10,000 images, in the kernel: what the browser needs comes on top."
    from mnist_nb.widgets import BrowserState, ErrorExplorer, PredictionBrowser, browser_html
    preds = made_up_preds()
    browser, explorer = PredictionBrowser(preds), ErrorExplorer(preds)
    flip = lambda: browser.update(true=7 if browser.state.true is None else None)
    acts = {
        'browser, first page': lambda: PredictionBrowser(preds), 'browser, next page': lambda: browser.leaf(1),
        'browser, another filter': flip, 'browser, another image': lambda: browser.tiles.buttons[3].click(),
        'explorer, first page': lambda: ErrorExplorer(preds),
        'explorer, another cell': lambda: explorer.cells[4, 4].click(),
        'still page (browser_html)': lambda: browser_html(preds, BrowserState())}
    return {what: seconds(act) for what, act in acts.items()}


if __name__ == '__main__':
    for title, costs in ('imports', import_costs()), ('explorers on 10,000 images', explorer_costs()):
        print(title)
        for what, cost in costs.items(): print(f'  {what:26} {1000 * cost:8.1f} ms')
