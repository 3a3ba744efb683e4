"""What used to be answered wrongly without a word: each case is right now, or refused with the way out."""
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import numbered, same_weights
from PIL import Image
from torch import nn

from mnist_nb.classifier import MNISTClassifier
from mnist_nb.data import Batches, LabeledImages, load_sample, random_affine
from mnist_nb.handwriting import prepare_image
from mnist_nb.model import resnet18

TRAIN, TEST = load_sample('train')[:160], load_sample('test')[:60]
SMALL = dict(num_filters=4, hidden_size=16, batch_size=32, learning_rate=0.005, epochs=2, device='cpu', data=(TRAIN, TEST))


def linear(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


# ------------------------------------------------------------------------------------------------- options

@pytest.mark.parametrize('name, value', [('dropout1', 0.9), ('train_split', 0.5), ('seed', 7), ('hidden_size', 32), ('epochs', 9),
                                         ('data', (TEST, TEST)), ('model', linear()), ('device', 'cpu')])
def test_an_option_cannot_be_changed_on_the_object(name, value):
    classifier = MNISTClassifier(**SMALL)
    before = getattr(classifier, name)
    with pytest.raises(AttributeError, match=rf'{name} stays .* clone\({name}=...\)'): setattr(classifier, name, value)
    assert getattr(classifier, name) is before


@pytest.mark.parametrize('name, value, message', [
    ('hidden_size', 0, '1 or more, got 0'), ('hidden_size', 2.5, r'got 2.5 \(float\)'), ('num_filters', True, r'got True \(bool\)'),
    ('num_filters', '32', r"got '32' \(str\)"), ('dropout1', 1, 'below 1, got 1'), ('dropout2', -0.1, 'below 1, got -0.1'),
    ('dropout2', np.zeros(3), 'ndarray'), ('device', np.zeros(3), 'ndarray'), ('device', 0, 'int'),
    ('mixed_precision', torch.zeros(3), 'Tensor'), ('mixed_precision', 'half', 'str'), ('mixed_precision', torch.int8, 'int8')])
def test_an_option_that_cannot_work_is_refused_with_its_name(name, value, message):
    with pytest.raises((TypeError, ValueError), match=f'{name} must be .*{message}'): MNISTClassifier(**{name: value})


def test_a_clone_has_the_options_and_the_scheduler_and_starts_untrained():
    classifier = MNISTClassifier(**SMALL)
    classifier.set_scheduler('StepLR', step_size=1)
    classifier.train()
    clone = classifier.clone(hidden_size=32)
    assert clone.recipe == {**classifier.recipe, 'hidden_size': 32} and clone.model.fc1.out_features == 32
    assert len(clone.history) == 0
    assert clone.clone(hidden_size=16).train().loss == classifier.history.loss


def test_a_longer_run_continues_and_its_length_is_in_the_recipe_of_its_weights(tmp_path):
    whole, longer = MNISTClassifier(**{**SMALL, 'epochs': 4}), MNISTClassifier(**SMALL)
    whole.train()
    longer.train()
    assert longer.train(epochs=4).loss == whole.history.loss and same_weights(longer.model, whole.model)
    longer.save_model(tmp_path / 'longer.pt')
    assert MNISTClassifier.from_file(tmp_path / 'longer.pt', data=(TRAIN, TEST)).epochs == 4


def test_a_file_tells_how_its_weights_came_about_and_not_what_was_set_afterwards(tmp_path):
    classifier = MNISTClassifier(**SMALL)
    classifier.train()
    classifier.set_scheduler('StepLR', step_size=1)
    classifier.save_model(tmp_path / 'model.pt')
    other = MNISTClassifier(**{**SMALL, 'epochs': 7})
    other.load_model(tmp_path / 'model.pt')
    other.save_model(tmp_path / 'again.pt')
    again = MNISTClassifier.from_file(tmp_path / 'again.pt', data=(TRAIN, TEST))
    assert (again.scheduler, again.epochs) == (None, 2)


# ------------------------------------------------------------------------------------------------- asking while it trains

def test_asking_while_training_runs_changes_nothing_and_is_answered_by_the_last_finished_epoch():
    options = {**SMALL, 'mixed_precision': False}  # a hook asks in the midst of a step, where autocast would reach the answer, too
    alone, asked, answers = MNISTClassifier(**options), MNISTClassifier(**options), []
    alone.train()
    def ask(model, inputs):
        if not model.training: return
        answers.append(asked.predict_proba(TEST))
        assert model.training and model.dropout1.training
    asked.model.register_forward_pre_hook(ask)
    asked.train()
    assert asked.history.loss == alone.history.loss and same_weights(asked.model, alone.model)
    steps = len(asked.trainer.train_dl)
    assert len(answers) == 2 * steps
    for epoch in answers[:steps], answers[steps:]:
        for answer in epoch: np.testing.assert_array_equal(answer, epoch[0])
    np.testing.assert_array_equal(answers[0], MNISTClassifier(**options).predict_proba(TEST))  # nothing was finished yet
    first = MNISTClassifier(**{**options, 'epochs': 1})
    first.train()
    np.testing.assert_array_equal(answers[steps], first.predict_proba(TEST))


def test_another_thread_may_ask_while_training_runs():
    alone, asked, wrong = MNISTClassifier(**SMALL), MNISTClassifier(**SMALL), []
    alone.train()
    begun, done = threading.Event(), threading.Event()
    def ask():
        begun.wait()
        while not done.is_set():
            try: asked.evaluate()
            except Exception as error: wrong.append(error)
    asked.model.register_forward_pre_hook(lambda *_: begun.set())
    thread = threading.Thread(target=ask)
    thread.start()
    try: asked.train()
    finally: done.set(); begun.set(); thread.join()
    assert wrong == [] and asked.history.loss == alone.history.loss and same_weights(asked.model, alone.model)


# ------------------------------------------------------------------------------------------------- images and networks

def test_whole_numbers_of_zero_and_one_are_refused_everywhere_with_what_to_multiply_by():
    mask = np.uint8(TEST.images > 127)
    with pytest.raises(ValueError, match='multiply a mask by 255'): LabeledImages(mask, TEST.labels)
    classifier = MNISTClassifier(**SMALL)
    for images in mask, mask[0], mask.astype(np.int64), torch.from_numpy(mask):
        with pytest.raises(ValueError, match='multiply a mask by 255'): classifier.predict_batch(images)
    for picture in mask[0], Image.fromarray(mask[0]):
        with pytest.raises(ValueError, match='multiply a mask by 255'): prepare_image(picture)
    for picture in mask[0] > 0, Image.fromarray(mask[0] > 0): np.testing.assert_array_equal(prepare_image(picture), prepare_image(255 * mask[0]))
    with pytest.raises(ValueError, match='no digit found'): prepare_image(np.zeros((28, 28), int))
    white = replace(TEST, images=255 * mask)
    assert (classifier.predict_batch(white) == classifier.predict_batch(mask.astype(bool))).all()
    assert 100 * (classifier.predict_batch(255 * mask) == TEST.labels).mean() == pytest.approx(classifier.evaluate(white))


@pytest.mark.parametrize('wrap, message', [
    (lambda: nn.Sequential(linear(), nn.Softmax(1)), 'leave out its Softmax'), (lambda: nn.DataParallel(linear()), 'the network inside'),
    (lambda: torch.compile(linear()), 'the network inside'), (lambda: linear().double(), 'cannot take black images')])
def test_a_network_that_would_be_used_wrongly_is_refused(wrap, message):
    with pytest.raises((TypeError, ValueError), match=message): MNISTClassifier(**{**SMALL, 'model': wrap()})


def test_another_default_number_format_is_no_matter():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try: assert len(MNISTClassifier(**SMALL).train()) == 2
    finally: torch.set_default_dtype(before)


def test_three_images_or_one_in_color_is_not_guessed():
    classifier = MNISTClassifier(**SMALL)
    for three in TEST.images[:3], torch.from_numpy(TEST.images[:3]):
        with pytest.raises(ValueError, match='three gray images or one color image'): classifier.predict_batch(three)
    assert (classifier.predict_batch(TEST.images[:3, None]) == classifier.predict_batch(TEST[:3])).all()


def test_every_kind_of_whole_number_is_read_alike():
    classifier, wanted = MNISTClassifier(**SMALL), MNISTClassifier(**SMALL).predict_proba(TEST)
    for kind in np.uint16, '>u2', np.int32, np.int64: np.testing.assert_array_equal(classifier.predict_proba(TEST.images.astype(kind)), wanted)
    for kind in torch.uint16, torch.int16, torch.int32:
        np.testing.assert_array_equal(classifier.predict_proba(torch.from_numpy(TEST.images.astype(np.int64)).to(kind)), wanted)


def test_a_bad_image_in_a_list_is_named():
    classifier = MNISTClassifier(**SMALL)
    with pytest.raises(FileNotFoundError, match=r'image 1: .*no/such.png'): classifier.predict_batch([TEST.images[0], 'no/such.png'])
    with pytest.raises(ValueError, match='image 2: expected images of shape'): classifier.predict_batch([*TEST.images[:2], TEST.images[0, 0]])


# ------------------------------------------------------------------------------------------------- class names

def test_class_names_are_kept_and_other_ones_are_refused_with_both_lists(tmp_path):
    letters = tuple('abcdefghij')
    data = tuple(replace(part, class_names=letters) for part in (TRAIN, TEST))
    classifier = MNISTClassifier(**{**SMALL, 'data': data})
    classifier.train()
    classifier.save_model(tmp_path / 'letters.pt')
    reversed_ = tuple(replace(part, class_names=letters[::-1]) for part in data)
    with pytest.raises(ValueError, match="'a', 'b'.*'j', 'i'|'j', 'i'.*'a', 'b'"): classifier.evaluate(reversed_[1])
    with pytest.raises(ValueError, match='class_names'): MNISTClassifier.from_file(tmp_path / 'letters.pt', data=reversed_)
    assert MNISTClassifier.from_file(tmp_path / 'letters.pt', data=data).evaluate() == classifier.evaluate()


# ------------------------------------------------------------------------------------------------- training

@pytest.mark.parametrize('n, size, sizes', [(129, 64, [64, 65]), (130, 64, [64, 64, 2]), (65, 64, [65]), (5, 1, [1] * 5), (1, 64, [1])])
def test_a_last_image_alone_joins_the_batch_before_it(n, size, sizes):
    for shuffle in False, True:
        batches = Batches(numbered(n), size, shuffle=shuffle)
        assert [len(labels) for _, labels in batches] == sizes and len(batches) == len(sizes)


def test_batch_normalization_can_be_trained_whatever_the_number_of_images():
    classifier = MNISTClassifier(model=resnet18(), batch_size=33, epochs=1, device='cpu', data=(TRAIN[:84], TEST), train_split=67 / 84)
    assert len(classifier.splits()['train']) % 33 == 1 and len(classifier.train()) == 1


def test_another_function_without_a_name_is_another_run(tmp_path):
    build = lambda augment: MNISTClassifier(**SMALL, augment=augment)
    build(lambda images: images * 0.5).train(checkpoint=tmp_path / 'run')
    with pytest.raises(ValueError, match='augment=.<lambda'): build(lambda images: images * 0.25).train(checkpoint=tmp_path / 'run')
    assert len(build(lambda images: images * 0.5).train(3, checkpoint=tmp_path / 'run')) == 3
    with pytest.raises(ValueError, match='augment'): build(partial(random_affine, degrees=5)).train(checkpoint=tmp_path / 'run')


def test_a_run_keeps_its_number_format_and_another_one_that_is_asked_for_is_refused(tmp_path):
    begun = MNISTClassifier(**SMALL, mixed_precision=torch.bfloat16)
    begun.train(epochs=1, checkpoint=tmp_path / 'run')
    with pytest.raises(ValueError, match="number_format='torch.bfloat16', this classifier number_format='torch.float32'"):
        MNISTClassifier(**SMALL, mixed_precision=False).train(checkpoint=tmp_path / 'run')
    unasked = MNISTClassifier(**SMALL)
    unasked.train(checkpoint=tmp_path / 'run')
    assert unasked.trainer.amp_dtype == torch.bfloat16 and len(unasked.history) == 2


def test_memory_does_not_grow_with_the_number_of_images_to_predict():
    "As normalized floats the 24,000 more would take 75 MB, and as much for each step on the way there."
    from mnist_nb.bench import in_fresh_process
    few, many = in_fresh_process('growth', 'predict', [4000, 28_000], 'sample')
    if not many['memory'] > 0: pytest.skip('this system does not tell how much memory a process has held')
    assert many['memory'] - few['memory'] < 0.15, (few, many)  # GB; the images themselves take 0.02, the rest is chance
