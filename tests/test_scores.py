"""Scores, searches and maps against scikit-learn, SciPy and PyTorch, on made-up predictions whose answer is known."""
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import made_up_preds, numbered, numbers
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.neighbors import NearestNeighbors
from torch import nn

from mnist_nb import analysis, evaluation, interpretation
from mnist_nb.classifier import MNISTClassifier
from mnist_nb.data import LabeledImages, load_sample, normalize
from mnist_nb.evaluation import Predictions, predict
from mnist_nb.handwriting import prepare_image

PREDS = made_up_preds(400, sharpness=2.5)
SAMPLE = load_sample('test')[:100]


@pytest.fixture
def linear():
    "A linear model, whose every answer NumPy can compute, too."
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def by_numpy(linear, data):
    "Probabilities from the definition of the softmax."
    weight, bias = (parameter.detach().numpy().astype(float) for parameter in linear.parameters())
    return softmax((data.images.reshape(-1, 784) / 255 - 0.1307) / 0.3081 @ weight.T + bias, axis=1)


# ------------------------------------------------------------------------------------- predicting

def test_probabilities_are_the_softmax_over_the_classes_in_the_order_of_the_images(linear):
    wanted = by_numpy(linear, SAMPLE)
    for batch_size in 1000, 7: np.testing.assert_allclose(predict(linear, SAMPLE, batch_size).probs, wanted, atol=1e-5)
    np.testing.assert_allclose(predict(linear, SAMPLE[::-1]).probs, wanted[::-1], atol=1e-5)
    with_log = nn.Sequential(linear, nn.LogSoftmax(1))
    np.testing.assert_allclose(predict(with_log, SAMPLE).probs, wanted, atol=1e-5)
    classifier = MNISTClassifier(model=linear, data=(SAMPLE, SAMPLE), device='cpu')
    np.testing.assert_allclose(classifier.predict_proba(SAMPLE), wanted, atol=1e-5)
    assert classifier.predict_batch(SAMPLE).tolist() == wanted.argmax(1).tolist()
    assert [classifier.predict(image) for image in SAMPLE.images[:10]] == wanted[:10].argmax(1).tolist()


def test_prediction_switches_dropout_off_and_leaves_every_mode_as_it_was(linear):
    linear = nn.Sequential(linear, nn.Dropout(0.5)).train()
    linear[0].eval()
    modes = [module.training for module in linear.modules()]
    np.testing.assert_allclose(predict(linear, SAMPLE).probs, by_numpy(linear, SAMPLE), atol=1e-5)
    assert [module.training for module in linear.modules()] == modes
    classifier = MNISTClassifier(model=linear.train(), data=(SAMPLE, SAMPLE), device='cpu')
    np.testing.assert_allclose(classifier.predict_proba(SAMPLE), by_numpy(linear, SAMPLE), atol=1e-5)


def test_evaluate_is_the_percentage_of_right_answers(linear):
    classifier = MNISTClassifier(model=linear, data=(SAMPLE, SAMPLE), device='cpu')
    wanted = metrics.accuracy_score(SAMPLE.labels, by_numpy(linear, SAMPLE).argmax(1))
    assert classifier.evaluate() == pytest.approx(100 * wanted)
    assert classifier.predictions().accuracy == pytest.approx(wanted)


# ------------------------------------------------------------------------------------- scores

def test_scores_are_those_of_scikit_learn():
    labels, predicted, probs = PREDS.labels, PREDS.predicted, PREDS.probs.astype(float)
    assert PREDS.accuracy == metrics.accuracy_score(labels, probs.argmax(1))
    assert PREDS.loss == pytest.approx(metrics.log_loss(labels, probs / probs.sum(1, keepdims=True)), rel=1e-4)
    report = metrics.classification_report(labels, predicted, output_dict=True)
    ours = evaluation.class_report(PREDS)
    for name in PREDS.data.class_names:
        for measure, value in report[name].items():
            assert ours.loc[name, measure.removesuffix('-score')] == pytest.approx(value), (name, measure)


def test_rows_of_the_confusion_matrix_are_true_classes():
    wanted = metrics.confusion_matrix(PREDS.labels, PREDS.predicted)
    assert (wanted != wanted.T).any() and (evaluation.confusion_matrix(PREDS) == wanted).all()
    by_row = metrics.confusion_matrix(PREDS.labels, PREDS.predicted, normalize='true')
    np.testing.assert_allclose(evaluation.confusion_matrix(PREDS, normalize=True), by_row)


@pytest.mark.parametrize('confidence', [0.8, 0.95, 0.99])
def test_intervals_are_wilsons(confidence):
    for hits, n in ((0, 10), (3, 10), (57, 100), (100, 100)):
        wanted = binomtest(hits, n).proportion_ci(confidence, method='wilson')
        assert evaluation.wilson_interval(hits, n, confidence) == pytest.approx(tuple(wanted), abs=1e-9)
    wanted = binomtest(int(PREDS.correct.sum()), len(PREDS)).proportion_ci(confidence, method='wilson')
    assert evaluation.accuracy_interval(PREDS, confidence) == pytest.approx(tuple(wanted), abs=1e-9)


@pytest.mark.parametrize('n_bins', [1, 10, 17])
def test_calibration_is_that_of_scikit_learn(n_bins):
    accuracy, confidence = calibration_curve(PREDS.correct, PREDS.confidence, n_bins=n_bins)
    table = evaluation.calibration_table(PREDS, n_bins).dropna()
    np.testing.assert_allclose(table.accuracy, accuracy)
    np.testing.assert_allclose(table.confidence, confidence, rtol=1e-5)
    assert ((table.low < table.confidence) & (table.confidence <= table.high)).all()
    assert table['count'].sum() == len(PREDS)
    wanted = np.average(abs(accuracy - confidence), weights=table['count'])
    assert evaluation.expected_calibration_error(PREDS, n_bins) == pytest.approx(wanted, rel=1e-4)


def test_two_models_are_compared_image_by_image():
    other = Predictions(PREDS.data, made_up_preds(400, seed=1, sharpness=1).probs)
    table = pd.crosstab(PREDS.correct, other.correct)
    comparison = evaluation.compare_models(PREDS, other)
    assert (comparison.both_right, comparison.both_wrong) == (table.loc[True, True], table.loc[False, False])
    assert (comparison.only_first, comparison.only_second) == (table.loc[True, False], table.loc[False, True])
    assert comparison.difference == pytest.approx(other.accuracy - PREDS.accuracy)
    wanted = binomtest(comparison.only_first, comparison.only_first + comparison.only_second).pvalue
    assert comparison.p_value == pytest.approx(wanted)


# ------------------------------------------------------------------------------------- searches

def test_searches_put_the_worst_first():
    losses = -np.log(PREDS.probs[range(len(PREDS)), PREDS.labels])
    assert analysis.top_losses(PREDS, 5).tolist() == sorted(range(len(PREDS)), key=lambda i: -losses[i])[:5]
    wrong, right = (np.flatnonzero(PREDS.correct == wanted).tolist() for wanted in (False, True))
    sureness = PREDS.probs.max(1)
    assert analysis.confident_mistakes(PREDS, 5).tolist() == sorted(wrong, key=lambda i: -sureness[i])[:5]
    assert analysis.unsure_hits(PREDS, 5).tolist() == sorted(right, key=lambda i: sureness[i])[:5]
    for name, found in analysis.worst_of_class(PREDS, 3).items():
        of_class = np.flatnonzero(PREDS.labels == int(name)).tolist()
        assert found.tolist() == sorted(of_class, key=lambda i: -losses[i])[:3]


def test_the_most_confused_pair_and_the_errors_of_each_class_are_counted_from_the_matrix():
    matrix = metrics.confusion_matrix(PREDS.labels, PREDS.predicted)
    off = matrix - np.diag(matrix.diagonal())
    pairs = analysis.confused_pairs(PREDS)
    assert pairs.both.iloc[0] == np.triu(off + off.T).max() and pairs.both.is_monotonic_decreasing
    first, second = map(int, pairs.index[0].split('-'))
    assert (pairs.first_as_second.iloc[0], pairs.second_as_first.iloc[0]) == (off[first, second], off[second, first])
    errors = analysis.class_errors(PREDS)
    assert errors.errors.tolist() == off.sum(1).tolist() and errors.support.tolist() == matrix.sum(1).tolist()


def test_with_the_threshold_the_answers_given_are_as_accurate_as_wanted_and_no_lower_one_does():
    threshold = analysis.threshold_for(PREDS, 0.9)
    answered = lambda level: PREDS.correct[PREDS.confidence >= level].mean()
    assert PREDS.accuracy < 0.9 <= answered(threshold)
    assert all(answered(level) < 0.9 for level in PREDS.confidence if level < threshold)


def test_wrong_labels_are_found_by_models_that_did_not_see_them():
    data, held_out_before = numbered(60), []
    def fit_predict(train, held_out):
        assert sorted(numbers(train.images) + numbers(held_out.images)) == list(range(60)) and len(held_out) == 12
        assert max(np.bincount(held_out.labels)) <= 2, 'each fold has its part of each class'
        held_out_before.extend(numbers(held_out.images))
        return np.eye(10)[[number % 10 for number in numbers(held_out.images)]] * 0.91 + 0.009
    labels = data.labels.copy()
    labels[[7, 33]] = [2, 9]
    preds = analysis.cross_val_probs(LabeledImages(data.images, labels), fit_predict, n_folds=5)
    assert sorted(held_out_before) == list(range(60)) and preds.predicted.tolist() == data.labels.tolist()
    suspicious = analysis.suspicious_labels(preds)
    assert sorted(suspicious.index[:2]) == [7, 33]
    assert (suspicious.label != suspicious.suggested).tolist() == [True] * 2 + [False] * 58
    assert suspicious.loc[33, ['label', 'suggested']].tolist() == ['9', '3']


# ------------------------------------------------------------------------------------- interpretation

@pytest.mark.parametrize('target', [None, 3])
def test_saliency_is_the_slope_of_the_log_odds_of_the_class_asked_about(linear, target):
    "By the chain rule: log(p / (1 - p)) of class c rises by w_c - sum of w_k p_k / (1 - p_c) over the others."
    probs, weight = by_numpy(linear, SAMPLE), linear[1].weight.detach().numpy()
    for image_map, p in zip(interpretation.saliency(linear, SAMPLE, target), probs):
        c = p.argmax() if target is None else target
        others = np.delete(np.arange(10), c)
        wanted = (weight[c] - p[others] @ weight[others] / (1 - p[c])) / 0.3081
        np.testing.assert_allclose(image_map.reshape(784), wanted, atol=1e-5)


def test_occlusion_is_the_log_odds_that_a_square_takes_away(linear):
    logit = lambda p: np.log(p / (1 - p))
    hidden = interpretation.occlusion(linear, SAMPLE[:2], size=5)
    for image, label, lost in zip(SAMPLE.images[:2], SAMPLE.labels, hidden):
        p = lambda image: by_numpy(linear, LabeledImages(image[None], np.array([label])))[0]
        for row, column in (14, 14), (0, 27), (10, 18):
            covered = image.copy()
            covered[max(row - 2, 0):row + 3, max(column - 2, 0):column + 3] = 0
            c = p(image).argmax()
            assert lost[row, column] == pytest.approx(logit(p(image)[c]) - logit(p(covered)[c]), abs=1e-4)


def test_neighbors_are_the_nearest_in_the_features_of_the_layer(linear):
    features = interpretation.features(linear, SAMPLE, '1')
    np.testing.assert_allclose(features, linear(normalize(SAMPLE.images)).detach(), atol=1e-5)
    distances, nearest = interpretation.nearest_neighbors(features[:5], features[5:], k=3)
    wanted = NearestNeighbors(n_neighbors=3).fit(features[5:]).kneighbors(features[:5])
    np.testing.assert_allclose(distances, wanted[0], rtol=1e-4)
    assert (nearest == wanted[1]).all()


@pytest.mark.parametrize('kind, amount, wanted', [
    ('rotation', 90, lambda images: np.rot90(images, -1, axes=(1, 2))), ('inversion', 1, lambda images: 255 - images),
    ('shift', 3, lambda images: np.pad(images, ((0, 0), (0, 0), (3, 0)))[:, :, :28])])
def test_corruptions_do_what_their_names_say(kind, amount, wanted):
    assert (interpretation.corrupt(SAMPLE.images, kind, amount) == wanted(SAMPLE.images)).all()


# ------------------------------------------------------------------------------------- handwriting

def page(image, top=40, left=25, ink_is_dark=True):
    "A digit enlarged four times on a sheet of paper, away from its middle."
    sheet = np.zeros((190, 170), np.uint8)
    sheet[top:top + 112, left:left + 112] = image.repeat(4, 0).repeat(4, 1)
    return 255 - sheet if ink_is_dark else sheet


def test_a_digit_on_paper_becomes_the_digit_it_was():
    for image in SAMPLE.images[:20]:
        dark, light = (prepare_image(page(image, ink_is_dark=ink_is_dark)) for ink_is_dark in (True, False))
        assert np.corrcoef(dark.reshape(784), image.reshape(784))[0, 1] > 0.8
        assert abs(dark.astype(int) - light).mean() < 2, 'dark on light and light on dark differ'
        assert (dark == prepare_image(page(image, top=10, left=50))).all(), 'the place on the page matters'
        rows, columns = np.nonzero(dark)
        assert max(np.ptp(rows), np.ptp(columns)) == 19, 'the longer side has 20 pixels'
        for axis in 0, 1: assert abs(np.average(np.arange(28), weights=dark.sum(1 - axis)) - 14) <= 0.5


def test_the_shipped_network_reads_digits_on_paper():
    classifier = MNISTClassifier.pretrained(device='cpu')
    as_they_are = classifier.predict_batch(SAMPLE)
    on_paper = np.array([classifier.predict(prepare_image(page(image))) for image in SAMPLE.images])
    assert (as_they_are == SAMPLE.labels).mean() > 0.8 and (on_paper == as_they_are).mean() > 0.8
