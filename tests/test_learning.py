"""Does it learn, and from what? On the embedded sample, against plain PyTorch and torchvision.

`tools/mutation_check.py` breaks the package on purpose and looks whether these tests notice.
"""
import random
import sys
import traceback
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import AfterEpoch, Recorder, numbered, numbers, same_weights
from PIL import Image
from torch import nn
from torch.optim import lr_scheduler
from torchvision import transforms

import mnist_nb
from mnist_nb.classifier import MNISTClassifier, image_batch
from mnist_nb.data import MEAN, STD, Batches, load_data, normalize, random_affine, split_train_valid
from mnist_nb.evaluation import predict
from mnist_nb.model import MNISTNet
from mnist_nb.training import EarlyStopping, Trainer

SAMPLE = load_data('sample')
SMALL = dict(num_filters=8, hidden_size=32, batch_size=32, learning_rate=0.003, device='cpu', mixed_precision=False)


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch): monkeypatch.setenv('TQDM_DISABLE', '1')


# ------------------------------------------------------------------------------------- the same in plain PyTorch

def plain_pytorch(train, epochs, seed):
    "The training of a classifier, written out: the weights after the last epoch, and the history."
    step = transforms.Normalize((0.1307,), (0.3081,))
    images, labels = step(torch.from_numpy(train.images)[:, None] / 255), torch.from_numpy(train.labels)
    torch.manual_seed(seed)
    model = MNISTNet(SMALL['num_filters'], SMALL['hidden_size'], 0.25, 0.5)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    learn, check = order[:round(0.8 * len(labels))], order[round(0.8 * len(labels)):]
    optimizer = torch.optim.Adam(model.parameters(), lr=SMALL['learning_rate'])
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    torch.manual_seed(seed)
    history = {name: [] for name in ('loss', 'accuracy', 'val_loss', 'val_accuracy')}
    for _ in range(epochs):
        model.train()
        loss_sum = hits = 0
        for rows in learn[torch.randperm(len(learn))].split(SMALL['batch_size']):
            optimizer.zero_grad()
            output = model(images[rows])
            loss = F.cross_entropy(output, labels[rows])
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(rows)
            hits += (output.argmax(1) == labels[rows]).sum().item()
        scheduler.step()
        model.eval()
        with torch.no_grad(): output = model(images[check])
        history['loss'].append(loss_sum / len(learn))
        history['accuracy'].append(hits / len(learn))
        history['val_loss'].append(F.cross_entropy(output, labels[check]).item())
        history['val_accuracy'].append((output.argmax(1) == labels[check]).float().mean().item())
    return model.state_dict(), history


def test_training_equals_a_loop_in_plain_pytorch_weight_for_weight():
    train, seed = SAMPLE[0][:400], 3
    classifier = MNISTClassifier(**SMALL, epochs=2, seed=seed, data=(train, SAMPLE[1]))
    classifier.set_scheduler('ExponentialLR', gamma=0.5)
    classifier.train()
    weights, history = plain_pytorch(train, 2, seed)
    torch.testing.assert_close(classifier.trainer.state['model'], weights)
    ours = vars(classifier.history)
    for name, values in history.items(): assert ours[name] == pytest.approx(values, rel=1e-5), name


# ------------------------------------------------------------------------------------- which images, in which order

def watch(epochs=2, **options):
    "Train a recorder on numbered images; gives the classifier, what it learned from and what it was asked."
    data = numbered(100), numbered(20, start=1000)
    classifier = MNISTClassifier(model=Recorder(), batch_size=16, epochs=epochs, device='cpu', data=data, **options)
    classifier.train()
    shown = classifier.model.shown[1:]  # before training it was tried on two black images
    learned, asked = ([images for training, images in shown if training == wanted] for wanted in (True, False))
    return classifier, learned, asked


def by_epoch(batches): return [sum(map(numbers, batches[start:start + 5]), []) for start in range(0, len(batches), 5)]


def test_training_and_validation_images_are_disjoint_and_together_the_whole():
    data = numbered(500, n_classes=500)
    train, valid = split_train_valid(data, 0.7, seed=3)
    assert sorted([*train.labels, *valid.labels]) == list(range(500)) and len(train) == 350
    for part in train, valid: assert numbers(part.images) == part.labels.tolist()
    assert (split_train_valid(data, 0.7, seed=3)[1].labels == valid.labels).all()
    assert set(split_train_valid(data, 0.7, seed=4)[1].labels) != set(valid.labels)
    assert set(valid.labels) != set(range(350, 500)), 'not drawn at random'


@pytest.mark.parametrize('fraction', [0, 1, 1.5, -0.2, 0.0001])
def test_a_split_that_leaves_a_part_empty_is_refused(fraction):
    with pytest.raises(ValueError, match='leaves one part empty'): split_train_valid(SAMPLE[1], fraction)


def test_training_learns_from_one_part_validates_on_the_other_and_never_sees_the_test_set():
    classifier, learned, asked = watch()
    parts = classifier.splits()
    for epoch in by_epoch(learned): assert sorted(epoch) == sorted(numbers(parts['train'].images))
    for batch in asked: assert numbers(batch) == numbers(parts['valid'].images)
    assert len(asked) == 2
    assert not set(sum(map(numbers, learned + asked), [])) & set(numbers(parts['test'].images))


def test_the_order_changes_with_every_epoch_and_follows_the_seed():
    _, learned, _ = watch()
    first, second = by_epoch(learned)
    assert first != second and first != sorted(first)
    assert by_epoch(watch()[1]) == [first, second]
    assert by_epoch(watch(seed=1)[1])[0] != first


def test_the_whole_is_trained_in_training_mode_and_validated_in_evaluation_mode():
    classifier, *_ = watch()
    assert [training for training, _ in classifier.model.shown[1:]] == [*[True] * 5, False] * 2
    assert not classifier.model.training


@pytest.mark.parametrize('shuffle', [False, True])
def test_labels_belong_to_their_images(shuffle):
    torch.manual_seed(0)
    data = numbered(100)
    for augment in None, lambda images: images:
        batches, seen = Batches(data, 16, shuffle=shuffle, augment=augment), []
        for images, labels in batches:
            assert [number % 10 for number in numbers(images)] == labels.tolist()
            seen += numbers(images)
        assert sorted(seen) == list(range(100)) and (seen == sorted(seen)) == (not shuffle)


def test_the_last_batch_holds_the_rest():
    assert [len(labels) for _, labels in Batches(numbered(130), 64)] == [64, 64, 2]
    assert len(Batches(numbered(130), 64)) == 3 and len(Batches(numbered(5), 100)) == 1


@pytest.mark.parametrize('option, function', [('augment', torch.ones_like),
                                              ('transform', lambda picture: torch.full((1, 28, 28), -MEAN / STD))])
def test_augmentation_and_transform_reach_training_images_and_only_those(option, function):
    classifier, learned, asked = watch(**{option: function})
    wanted = (1 - MEAN) / STD if option == 'augment' else -MEAN / STD
    for batch in learned: torch.testing.assert_close(batch, torch.full_like(batch, wanted))
    for batch in asked: assert numbers(batch) == numbers(classifier.splits()['valid'].images)
    classifier.model.shown.clear()
    classifier.predictions('train'), classifier.predict_proba(SAMPLE[0].images[:4])
    later = torch.cat([batch for _, batch in classifier.model.shown])
    torch.testing.assert_close(later, normalize(np.concatenate([classifier.splits()['train'].images, SAMPLE[0].images[:4]])))


def test_random_affine_moves_each_image_by_its_own_amount_and_not_too_far():
    torch.manual_seed(0)
    dots = torch.zeros(400, 1, 28, 28)
    dots[:, 0, 10, 10] = 1
    where = random_affine(dots, degrees=0).flatten(1).argmax(1)  # up to a tenth of 28 pixels, so up to 3 after rounding
    rows, columns = where // 28 - 10, where % 28 - 10
    assert rows.abs().max() == columns.abs().max() == 3 and len(set(where.tolist())) > 30
    digits = torch.from_numpy(SAMPLE[0].images[:64])[:, None] / 255
    moved = random_affine(digits)
    assert ((moved - digits).abs().mean((1, 2, 3)) > 0.01).float().mean() > 0.9
    assert moved.min() >= 0 and moved.max() <= 1
    torch.testing.assert_close(random_affine(digits, degrees=0, translate=0), digits, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------- normalization

def test_normalization_is_the_published_one():
    "The values of MNIST's 60,000 training images, as PyTorch's own example normalizes them."
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = SAMPLE[0].images[:20]
    wanted = torch.stack([theirs(Image.fromarray(image)) for image in images])
    for ours in (normalize(images), normalize(images.astype(np.int64)), next(iter(Batches(SAMPLE[0], 20)))[0], image_batch(images),
                 next(iter(Batches(SAMPLE[0], 20, transform=theirs)))[0]):
        torch.testing.assert_close(ours, wanted)
    half = torch.full((2, 1, 28, 28), 0.5)
    assert (normalize(half, 0.5, 0.25) == 0).all() and (half == 0.5).all(), 'the given images have changed'


def test_another_normalization_reaches_training_validation_and_prediction():
    classifier, learned, asked = watch(normalize_mean=0.5, normalize_std=0.25)
    classifier.model.shown.clear()
    classifier.predictions('train'), classifier.predict_proba(classifier.splits()['train'].images)
    later = [images for _, images in classifier.model.shown]
    assert sum(map(len, later)) == 160
    for batch in learned + asked + later:
        assert set(numbers(batch, 0.5, 0.25)) <= set(range(100)) and batch.min() == -2


# ------------------------------------------------------------------------------------- dropout

def test_two_passes_differ_in_training_and_agree_in_evaluation():
    net, images = MNISTNet(8, 32), normalize(SAMPLE[0].images[:50])
    with torch.no_grad():
        net.train()
        assert not torch.equal(net(images), net(images))
        net.eval()
        assert torch.equal(net(images), net(images))


@pytest.mark.parametrize('options', [{'dropout1': 0.25, 'dropout2': 0.5}, {'dropout1': 0.6, 'dropout2': 0.1}])
def test_as_many_values_are_dropped_as_was_asked_and_the_rest_is_scaled_up(options):
    net, seen = MNISTClassifier(**SMALL, **options, data=SAMPLE).model, {}
    for name in 'pool', 'flatten', 'fc1', 'fc2':
        def keep(module, inputs, output, name=name): seen[name] = inputs[0], output
        getattr(net, name).register_forward_hook(keep)
    torch.manual_seed(0)
    net.train()(normalize(SAMPLE[0].images[:1000]))
    passed = {name: (F.relu(seen[before][1]), seen[after][0])
              for name, before, after in [('dropout1', 'pool', 'flatten'), ('dropout2', 'fc1', 'fc2')]}
    for name, fraction in options.items():
        before, after = passed[name]
        alive = before != 0  # after ReLU half of the values are zero anyway
        dropped = (after[alive] == 0).float().mean().item()
        standard_error = (fraction * (1 - fraction) / alive.sum().item()) ** 0.5
        assert abs(dropped - fraction) < 5 * standard_error
        torch.testing.assert_close(after[after != 0], before[after != 0] / (1 - fraction))


# ------------------------------------------------------------------------------------- learning rate

@pytest.mark.parametrize('name, options', [
    (None, {}), ('StepLR', {'step_size': 2, 'gamma': 0.5}), ('CosineAnnealingLR', {'T_max': 4}),
    ('OneCycleLR', {'max_lr': 0.01, 'total_steps': 20}),
    ('ReduceLROnPlateau', {'patience': 0, 'threshold': 0.9, 'factor': 0.3})],
    ids=lambda value: str(value) if not isinstance(value, dict) else '')
def test_the_rate_at_every_step_is_that_of_pytorchs_own_scheduler(name, options):
    epochs, n_batches, rates, data = 4, 5, [], (numbered(100), numbered(20))
    classifier = MNISTClassifier(model=Recorder(), batch_size=16, epochs=epochs, device='cpu', data=data)
    classifier.set_scheduler(name, **options)
    rate_of = lambda optimizer: optimizer.param_groups[0]['lr']
    def note(model, *_):
        if model.training: rates.append(rate_of(classifier.trainer.optimizer))
    classifier.model.register_forward_hook(note)
    history = classifier.train()

    optimizer, wanted = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.001), []
    scheduler = getattr(lr_scheduler, name)(optimizer, **options) if name else None
    for epoch in range(epochs):
        for _ in range(n_batches):
            wanted.append(rate_of(optimizer))
            optimizer.step()
            if name == 'OneCycleLR': scheduler.step()
        if name == 'ReduceLROnPlateau': scheduler.step(history.val_loss[epoch])
        elif name and name != 'OneCycleLR': scheduler.step()
    assert (len(set(wanted)) > 1) == (name is not None)
    assert rates == pytest.approx(wanted) and history.learning_rate == pytest.approx(wanted[::n_batches])


# ------------------------------------------------------------------------------------- best weights, early stopping

def follow(monkeypatch, scores, *callbacks):
    "Train while validation gives these accuracies (or pairs: accuracy, loss); the trainer, and its weights by epoch."
    scores, by_epoch = iter([(score, 1.0) if isinstance(score, float) else score for score in scores]), []
    monkeypatch.setattr(Trainer, 'validate', lambda self: next(scores)[::-1])
    torch.manual_seed(0)
    train, valid = Batches(SAMPLE[0][:64], 32, shuffle=True), Batches(SAMPLE[1][:10])
    keep = AfterEpoch(lambda trainer: by_epoch.append(deepcopy(trainer.model.state_dict())))
    trainer = Trainer(Recorder(), train, valid, callbacks=[keep, *callbacks])
    trainer.fit(6, verbose=False)
    return trainer, by_epoch


@pytest.mark.parametrize('best, scores', [
    (1, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), (4, [0.5, 0.6, 0.7, 0.9, 0.8, 0.1]), (6, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
    (3, [(0.9, 0.3), (0.9, 0.2), (0.9, 0.1), (0.9, 0.2), (0.8, 0.0), (0.9, 0.4)])],
    ids=['first', 'fourth', 'last', 'of equals'])
def test_the_weights_of_the_best_epoch_come_back(best, scores, monkeypatch):
    "Of epochs with one accuracy the one with the lowest loss is the best."
    trainer, by_epoch = follow(monkeypatch, scores)
    assert trainer.history.best_epoch == best and len(by_epoch) == 6
    assert same_weights(trainer.model, by_epoch[best - 1])
    assert sum(same_weights(trainer.model, weights) for weights in by_epoch) == 1, 'training moved nothing'


@pytest.mark.parametrize('stops, patience, min_delta, scores', [
    (6, None, 0.0, [0.5] * 6),                          # nobody asked for it
    (2, 1, 0.0, [0.5, 0.5, 0.6, 0.7, 0.8, 0.9]),        # as good as before is no progress
    (4, 2, 0.0, [0.5, 0.7, 0.6, 0.7, 0.8, 0.9]),
    (6, 2, 0.0, [0.5, 0.4, 0.6, 0.5, 0.7, 0.6]),        # progress begins the count anew
    (3, 2, 0.25, [0.5, 0.75, 0.625, 0.5, 0.9, 0.9]),    # a gain of min_delta is not above it
    (6, 2, 0.125, [0.25, 0.25, 0.5, 0.5, 0.75, 0.75])])
def test_early_stopping_stops_at_the_right_epoch(stops, patience, min_delta, scores, monkeypatch):
    trainer, _ = follow(monkeypatch, scores, *[EarlyStopping(patience, min_delta)] * (patience is not None))
    assert len(trainer.history) == stops


# ------------------------------------------------------------------------------------- seed, beginning anew

def test_the_seed_decides_first_weights_split_and_training():
    def run(seed):
        classifier = MNISTClassifier(**SMALL, epochs=1, seed=seed, data=(SAMPLE[0][:200], SAMPLE[1]))
        start = {name: value.clone() for name, value in classifier.model.state_dict().items()}
        classifier.train()
        return start, numbers(classifier.splits()['valid'].images[:, 10:, 10:]), classifier.model.state_dict()
    first, again, other = run(0), run(0), run(1)
    for part in 0, 2:
        assert same_weights(first[part], again[part]) and not same_weights(first[part], other[part])
    assert first[1] == again[1] != other[1]
    assert not same_weights(first[0], first[2]), 'training moved nothing'


def test_training_once_more_begins_anew_and_more_epochs_go_on():
    few = dict(SMALL, data=(SAMPLE[0][:200], SAMPLE[1]))
    classifier = MNISTClassifier(**few, epochs=1)
    with pytest.raises(ValueError, match='nothing to go on with'): classifier.train(resume=True)
    losses = classifier.train().loss
    weights = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    assert classifier.train().loss == losses and same_weights(classifier.model, weights)
    assert classifier.train(epochs=2).loss[:1] == losses and len(classifier.history) == 2
    assert len(classifier.train(resume=True)) == 2, 'there was nothing left to train'
    stopped = MNISTClassifier(**few, epochs=9, patience=1, min_delta=0.9)
    assert len(stopped.train()) == len(stopped.train()) == 2, 'stopped early: begins anew'


# ------------------------------------------------------------------------------------- a trained network

@pytest.fixture(scope='module')
def trained():
    "A small network after four epochs on the sample."
    classifier = MNISTClassifier(**SMALL, epochs=4, data=SAMPLE)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of an accuracy near chance: the tests below say it
        classifier.train()
    return classifier


def test_training_on_the_sample_beats_ninety_percent(trained):
    assert trained.evaluate('test') > 90 and trained.evaluate('valid') > 90


def test_the_loss_falls(trained):
    assert trained.history.loss[-1] < trained.history.loss[0] / 2
    assert trained.history.val_loss[-1] < trained.history.val_loss[0] / 2


def test_validation_gives_the_mean_loss_and_the_accuracy_and_draws_no_random_numbers(trained):
    valid, state = SAMPLE[1][:50], torch.get_rng_state()
    loss, accuracy = Trainer(trained.model, Batches(valid, 10), Batches(valid, 20)).validate()
    assert torch.equal(torch.get_rng_state(), state)
    preds = predict(trained.model, valid)
    assert (loss, accuracy) == (pytest.approx(preds.loss, rel=1e-4), preds.accuracy)


def test_saved_and_loaded_weights_are_equal(trained, tmp_path):
    trained.save_model(tmp_path / 'model.pt')
    loaded = MNISTClassifier.from_file(tmp_path / 'model.pt', data=SAMPLE)
    assert same_weights(loaded.model, trained.model) and loaded.history == trained.history
    assert (loaded.predict_proba(SAMPLE[1]) == trained.predict_proba(SAMPLE[1])).all()
    fresh = MNISTClassifier(**SMALL, seed=5, data=SAMPLE)
    fresh.load_model(tmp_path / 'model.pt')
    assert same_weights(fresh.model, trained.model)
    trained.save_model(tmp_path / 'half.pt', dtype=torch.float16)
    half = MNISTClassifier.from_file(tmp_path / 'half.pt', data=SAMPLE).model.state_dict()
    for name, value in trained.model.state_dict().items(): assert torch.equal(half[name], value.half().float())


def test_training_leaves_the_random_numbers_of_others_alone():
    "A loop that draws a bootstrap sample with NumPy and trains on it draws another sample each time."
    def draw(): return random.random(), np.random.random(), torch.rand(1).item()
    def states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    before, drawn = states(), []
    for _ in range(2):
        MNISTClassifier(**SMALL, epochs=1, data=(SAMPLE[0][:64], SAMPLE[1][:10]), augment=random_affine).train()
        assert states() == before
        drawn.append(draw())
        before = states()
    assert all(one != two for one, two in zip(*drawn))


# ------------------------------------------------------------------------------------- how far the loop is from the door

def test_the_first_step_is_near_the_front_door(monkeypatch):
    "At the first optimizer step: at most 8 of our frames on the stack, 200 of our calls before it, one optimizer built."
    package, calls, frames, built = str(Path(mnist_nb.__file__).parent), [], [], []
    ours = lambda frame: frame.f_code.co_filename.startswith(package)
    real_step, real_init = torch.optim.Adam.step, torch.optim.Adam.__init__
    def step(self, *args, **more):
        if not frames:
            sys.setprofile(None)
            frames.extend(frame.f_code.co_name for frame, _ in traceback.walk_stack(None) if ours(frame))
        return real_step(self, *args, **more)
    def init(self, *args, **more): built.append(self); real_init(self, *args, **more)
    monkeypatch.setattr(torch.optim.Adam, 'step', step)
    monkeypatch.setattr(torch.optim.Adam, '__init__', init)
    classifier = MNISTClassifier(**SMALL, epochs=1, data=(SAMPLE[0][:100], SAMPLE[1][:10]))
    sys.setprofile(lambda frame, event, _: event == 'call' and ours(frame) and calls.append(frame.f_code.co_name))
    try: classifier.train()
    finally: sys.setprofile(None)
    print(f'{len(frames)} frames, {len(calls)} calls')  # pytest -s shows it
    assert frames[0] == 'train_step' and len(frames) <= 8 and len(calls) <= 200 and len(built) == 1
