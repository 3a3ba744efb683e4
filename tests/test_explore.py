"""The explorers: states, HTML, and the widgets pressed as a reader presses them, under whichever ipywidgets is installed.

What a still page does in a browser is in `test_browser_static.py`."""
import base64
import html
import json
import os
import re

import ipywidgets
import numpy as np
import pytest
from helpers import NASTY, ROOT, made_up_preds, widgets_of
from ipywidgets.widgets.widget import CallbackDispatcher

from mnist_nb import widgets
from mnist_nb.evaluation import confusion_matrix
from mnist_nb.marks import VERDICTS, Marks, read_marks
from mnist_nb.widgets import BrowserState, ErrorExplorer, PredictionBrowser, find_images

@pytest.fixture(autouse=True)
def callbacks_may_raise(monkeypatch):
    "ipywidgets catches what a callback raises and prints it; here it has to fail the test."
    def call(self, *args, **kwargs):
        for callback in self.callbacks: callback(*args, **kwargs)
    monkeypatch.setattr(CallbackDispatcher, '__call__', call)


@pytest.fixture
def preds(): return made_up_preds()


def test_a_callback_that_raises_fails_its_test():
    button = ipywidgets.Button()
    button.on_click(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError): button.click()


# ------------------------------------------------------------------------------------------------ PredictionBrowser

def shown(browser): return [int(re.match(r'image (\d+):', b.tooltip)[1]) for b in browser.tiles.grid.children]


def test_the_first_page_shows_the_largest_losses(preds):
    browser = PredictionBrowser(preds)
    worst = np.argsort(-preds.losses, kind='stable')[:20]
    assert shown(browser) == worst.tolist()
    assert f'Image {worst[0]}:' in browser.card.value and '500 of 500 images' in browser.heading.value
    assert [browser.tiles.buttons.index(b) for b in browser.tiles.buttons if 'mnb-chosen' in b._dom_classes] == [0]


@pytest.mark.parametrize('name, value, state', [
    ('true', 4, BrowserState(true=4)), ('predicted', 9, BrowserState(predicted=9)), ('outcome', 'right', BrowserState(outcome='right')),
    ('low', 50, BrowserState(low=0.5)), ('high', 99.9, BrowserState(high=0.999)), ('sort', 'confidence', BrowserState(sort='confidence')),
    ('reverse', True, BrowserState(reverse=True)), ('page', 3, BrowserState(page=2))])
def test_each_control_sets_its_field_and_shows_it(preds, name, value, state):
    browser = PredictionBrowser(preds)
    browser.controls[name].value = value
    assert browser.state == state
    assert shown(browser) == widgets.find_page(preds, state).positions.tolist()
    other = PredictionBrowser(preds, state)
    assert other.controls[name].value == value and shown(other) == shown(browser)


def test_a_filter_begins_on_its_first_page_and_can_be_taken_back(preds):
    browser = PredictionBrowser(preds)
    browser.steps[1].click()
    browser.steps[1].click()
    assert browser.state.page == 2 and browser.controls['page'].value == 3
    browser.controls['true'].value = 7
    assert browser.state == BrowserState(true=7) and browser.controls['page'].value == 1
    browser.controls['true'].value = -1
    assert browser.state == BrowserState()


def test_leafing_stops_at_both_ends(preds):
    browser = PredictionBrowser(preds, BrowserState(per_page=200))
    assert browser.steps[-1].disabled and not browser.steps[1].disabled
    for _ in range(5): browser.steps[1].click()
    assert browser.state.page == 2 and browser.steps[1].disabled and len(browser.tiles.grid.children) == 100
    for _ in range(5): browser.leaf(-1)
    assert browser.state.page == 0 and len(browser.tiles.grid.children) == 200


def test_choosing_an_image_opens_its_card_and_keeps_the_page(preds):
    browser = PredictionBrowser(preds, BrowserState(page=1))
    browser.tiles.buttons[5].click()
    i = find_images(preds, BrowserState())[25]
    assert browser.state == BrowserState(page=1, chosen=int(i)) and f'Image {i}:' in browser.card.value
    assert f'{preds.losses[i]:.2f}' in browser.card.value and browser.card.value.count('<tr') == 10
    assert 'mnb-chosen' in browser.tiles.buttons[5]._dom_classes and 'mnb-chosen' not in browser.tiles.buttons[0]._dom_classes


def test_a_press_that_comes_too_late_does_nothing(preds):
    browser = PredictionBrowser(preds)
    browser.update(high=0.0)
    browser.tiles.buttons[3].click()
    assert browser.state == BrowserState(high=0.0)


def test_an_empty_selection_says_so(preds):
    browser = PredictionBrowser(preds)
    browser.controls['high'].value = 10
    browser.controls['low'].value = 90
    assert 'No image' in browser.heading.value and '90% to 10% sure' in browser.heading.value
    assert not shown(browser) and browser.card.value == '' and browser.steps[1].disabled and browser.steps[-1].disabled
    browser.controls['low'].value = 0
    browser.controls['high'].value = 100
    assert len(shown(browser)) == 20 and 'Image' in browser.card.value


def test_setting_a_state_in_code_is_drawn_once(preds, monkeypatch):
    browser, drawn = PredictionBrowser(preds), []
    draw = PredictionBrowser._draw
    monkeypatch.setattr(PredictionBrowser, '_draw', lambda self: (drawn.append(self.state), draw(self))[1])
    browser.update(true=3, low=0.07, sort='index', page=1)
    assert drawn == [BrowserState(true=3, low=0.07, sort='index', page=1)]


def test_pictures_on_the_buttons_are_the_images(preds):
    browser = PredictionBrowser(preds)
    sheet = widgets.sprite_sheet(preds.data.images[find_images(preds, BrowserState())[:20]])
    assert widgets.png_uri(sheet) in browser.tiles.style.value
    scope = next(name for name in browser.widget._dom_classes if name.startswith('mnb-'))
    assert f'.{scope} .mnb-tile-19::before' in browser.tiles.style.value
    assert scope not in PredictionBrowser(preds).widget._dom_classes


def test_right_and_wrong_are_said_in_words_and_signs(preds):
    browser = PredictionBrowser(preds, BrowserState(outcome='wrong'))
    for button, i in zip(browser.tiles.grid.children, shown(browser)):
        assert button.description == f'{preds.labels[i]}→{preds.predicted[i]} ✗'
        assert button.tooltip.startswith(f'image {i}: true {preds.labels[i]}, predicted {preds.predicted[i]} ✗, ')
    browser.controls['outcome'].value = 'right'
    assert all(b.description.endswith(' ✓') for b in browser.tiles.grid.children)
    assert 'role="status"' in browser.heading.value and 'role="status"' in browser.card.value
    assert all(control.description for control in browser.controls.values())


# ------------------------------------------------------------------------------------------------ ErrorExplorer

def test_it_opens_on_the_most_frequent_mistake(preds):
    explorer, counts = ErrorExplorer(preds), confusion_matrix(preds)
    off = counts - np.diag(counts.diagonal())
    assert off[explorer.state.true, explorer.state.predicted] == off.max()
    assert [c for c, b in explorer.cells.items() if 'mnb-open' in b._dom_classes] == [(explorer.state.true, explorer.state.predicted)]


def test_every_cell_opens_its_images(preds):
    explorer, counts = ErrorExplorer(preds), confusion_matrix(preds)
    assert len(explorer.cells) == 100
    for (true, predicted), button in explorer.cells.items():
        assert button.disabled == (counts[true, predicted] == 0)
        assert button.description == (str(counts[true, predicted]) if counts[true, predicted] else '·')
        button.click()
        assert (explorer.state.true, explorer.state.predicted) == (true, predicted)
        images = shown(explorer)
        assert len(images) == min(10, counts[true, predicted])
        assert all(preds.labels[i] == true and preds.predicted[i] == predicted for i in images)
        if not images: assert 'No image' in explorer.heading.value and explorer.card.value == ''
        assert f'Class {true}</b>' in explorer.summary.value


def test_reasons_come_from_functions_or_dicts(preds):
    near = preds.data[:5]
    asked = []
    by_function = ErrorExplorer(preds, lambda image: (asked.append(image), np.ones((28, 28)))[1], lambda image: near)
    i = shown(by_function)[0]
    assert all(np.array_equal(image, preds.data.images[i]) for image in asked)
    by_dict = ErrorExplorer(preds, {i: np.ones((28, 28))}, {i: near})
    assert by_function.card.value == by_dict.card.value and by_dict.card.value.count('<img') == 7
    by_dict.tiles.buttons[1].click()
    assert by_dict.card.value.count('<img') == 1  # a dict that knows nothing about it: nothing is shown


@pytest.mark.parametrize('saliency, error', [(lambda image: image[0], 'a heatmap must be'), (lambda image: 1 / 0, 'division')])
def test_reasons_that_fail_fail_before_anything_is_drawn(preds, saliency, error):
    with pytest.raises((ValueError, ZeroDivisionError), match=error): ErrorExplorer(preds, saliency)


def test_where_all_is_right_everything_is_shown():
    preds = made_up_preds(sharpness=50)
    explorer = ErrorExplorer(preds)
    assert '500 of 500 images' in explorer.heading.value and explorer.summary.value == ''


# ------------------------------------------------------------------------------------------------ marks

def verdicts(explorer): return {name for name, button in explorer.judge.items() if button.button_style == 'primary'}


def test_marks_survive_other_cells_and_a_second_run(preds, tmp_path):
    explorer = ErrorExplorer(preds, marks=tmp_path / 'marks.json')
    here = explorer.cells[explorer.state.true, explorer.state.predicted]
    explorer.judge['label wrong'].click()
    explorer.tiles.buttons[1].click()
    explorer.judge['ambiguous'].click()
    for cell in explorer.cells.values(): cell.click()
    here.click()
    for again in explorer, ErrorExplorer(preds, marks=tmp_path / 'marks.json'):  # the cell of the notebook runs twice
        assert '⚑ label wrong' in again.card.value and verdicts(again) == {'label wrong'}
        assert [b.description.endswith('⚑') for b in again.tiles.grid.children][:3] == [True, True, False]
        assert '2 marked' in again.total.value
    elsewhere = ErrorExplorer(preds[::-1], marks=again.marks)
    assert '2 marked' in elsewhere.total.value and '⚑' in elsewhere.card.value + elsewhere.tiles.buttons[1].description


def test_two_explorers_on_one_file_lose_nothing(preds, tmp_path):
    first, second = (ErrorExplorer(preds, marks=tmp_path / 'marks.json') for _ in range(2))
    for k in range(3):
        first.tiles.buttons[0].click(), first.judge['ambiguous'].click(), first.steps[1].click()
        second.cells[k, k].click(), second.judge['model wrong'].click()
    kept = Marks(tmp_path / 'marks.json')
    assert kept.counts['model wrong'] == 3 and kept.counts['ambiguous'] >= 1


def test_undo_goes_back_step_by_step(preds, tmp_path):
    explorer = ErrorExplorer(preds, marks=tmp_path / 'marks.json')
    assert explorer.undo.disabled
    for verdict in VERDICTS: explorer.judge[verdict].click()
    explorer.judge[''].click()
    assert '⚑ ' not in explorer.card.value and '0 marked' in explorer.total.value
    explorer = ErrorExplorer(preds, marks=tmp_path / 'marks.json')  # undo outlives the kernel, too
    for verdict in reversed(VERDICTS):
        explorer.undo.click()
        assert verdicts(explorer) == {verdict}
    explorer.undo.click()
    assert verdicts(explorer) == set() and explorer.undo.disabled and read_marks(tmp_path / 'marks.json') == []


def test_save_download_and_load(preds, tmp_path):
    explorer = ErrorExplorer(preds)
    assert 'in memory only' in explorer.total.value
    explorer.judge['ambiguous'].click()
    explorer.file.value = str(tmp_path / 'out.json')
    explorer.save.click()
    link = re.search(r'download="marks.json" href="data:application/json;base64,([^"]+)"', explorer.total.value)[1]
    assert json.loads(base64.b64decode(link)) == json.loads((tmp_path / 'out.json').read_text())
    other = ErrorExplorer(preds)
    other.file.value = str(tmp_path / 'out.json')
    other.load.click()
    other.load.click()
    assert len(other.marks) == len(other.marks.journal) == 1 and '⚑ ambiguous' in other.card.value
    entry, = read_marks(tmp_path / 'out.json')
    i = entry['position']
    assert entry | {'image': ''} == {'image': '', 'data': 'made up', 'position': i, 'true': str(preds.labels[i]),
                                     'predicted': str(preds.predicted[i]), 'verdict': 'ambiguous'}


def test_what_a_file_says_no_to_is_shown_and_nothing_is_lost(preds, tmp_path):
    explorer = ErrorExplorer(preds)
    explorer.judge['ambiguous'].click()
    (tmp_path / 'foreign.json').write_text('{"mine": 1}')
    for button, name, says in ((explorer.load, 'foreign.json', 'holds no marks'), (explorer.load, 'none.json', 'is not there'),
                               (explorer.save, 'no/such/folder.json', 'does not exist, make it first'), (explorer.load, '<b>.json', '&lt;b&gt;.json')):
        explorer.file.value = str(tmp_path / name)
        button.click()
        assert 'role="alert"' in explorer.message.value and says in explorer.message.value and len(explorer.marks) == 1
    with pytest.raises(ValueError, match='foreign.json holds no marks'): ErrorExplorer(preds, marks=tmp_path / 'foreign.json')
    assert (tmp_path / 'foreign.json').read_text() == '{"mine": 1}'
    explorer.judge['model wrong'].click()
    assert explorer.message.value == ''


def test_a_mark_that_could_not_be_written_is_made_up_for(preds, tmp_path, monkeypatch):
    explorer = ErrorExplorer(preds, marks=tmp_path / 'marks.json')
    explorer.judge['ambiguous'].click()
    with monkeypatch.context() as full:
        full.setattr(os, 'replace', lambda *paths: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
        explorer.tiles.buttons[1].click()
        explorer.judge['label wrong'].click()
        assert 'the disk is full' in explorer.message.value and 'not saved yet' in explorer.total.value
    assert len(read_marks(tmp_path / 'marks.json')) == 1 and [p.name for p in tmp_path.iterdir()] == ['marks.json']
    explorer.tiles.buttons[2].click()
    explorer.judge['model wrong'].click()
    assert [line['verdict'] for line in read_marks(tmp_path / 'marks.json')] == ['ambiguous', 'label wrong', 'model wrong']


# ------------------------------------------------------------------------------------------------ names, wrong input

def test_class_names_are_text_wherever_they_stand():
    preds = made_up_preds(100, names=(NASTY, *'123456789'), sharpness=1)
    state = BrowserState(true=0)
    pages = [widgets.browser_html(preds, state), widgets.browser_twin(preds), widgets.error_twin(preds),
             *(part.value for part in (lambda e: (e.heading, e.summary, e.card))(ErrorExplorer(preds)))]
    explorer = ErrorExplorer(preds)
    explorer.update(true=0, predicted=0)
    pages += [explorer.heading.value, explorer.summary.value, explorer.card.value]
    for page in pages: assert NASTY not in page and '<b>"' not in page
    assert html.escape(NASTY) in explorer.heading.value + explorer.card.value


@pytest.mark.parametrize('draw', [PredictionBrowser, ErrorExplorer, widgets.browser_twin, widgets.error_twin,
                                  lambda preds: widgets.browser_html(preds, BrowserState())],
                         ids=['PredictionBrowser', 'ErrorExplorer', 'browser_twin', 'error_twin', 'browser_html'])
def test_wrong_input_raises_before_anything_is_drawn(draw, preds, monkeypatch):
    for name in 'card_html', 'heading_html', 'static_twin':
        monkeypatch.setattr(widgets, name, lambda *_: pytest.fail('drawn'))
    with pytest.raises(ValueError, match='empty'): draw(preds[:0])
    with pytest.raises(TypeError, match='expected Predictions'): draw(preds.data)


@pytest.mark.parametrize('state, message', [(dict(true=10), 'true must be a class'), (dict(predicted=-2), 'predicted must be a class'),
                                            (dict(chosen=500), 'chosen must be a position')])
def test_a_state_that_does_not_fit_raises(preds, state, message):
    with pytest.raises(ValueError, match=message): PredictionBrowser(preds, BrowserState(**state))


# ------------------------------------------------------------------------------------------------ display, cost

def test_an_explorer_displays_its_widget(preds, monkeypatch):
    seen = []
    monkeypatch.setattr('IPython.display.display', lambda *objects, **_: seen.extend(objects))
    for explorer in PredictionBrowser(preds), ErrorExplorer(preds):
        explorer._ipython_display_()
        assert seen.pop() is explorer.widget


def test_neither_output_nor_interact():
    source = (ROOT / 'mnist_nb/widgets.py').read_text()
    assert not re.search(r'\b(Output|interact)\b', source)


def test_twins_are_small_and_the_same_each_time():
    preds = made_up_preds(10_000, sharpness=6)
    for twin in widgets.browser_twin, widgets.error_twin:
        page = twin(preds)
        assert len(page.encode()) < 400_000 and page == twin(preds) and not re.search(r'https?://|src="(?!data:)', page)


@pytest.mark.parametrize('explorer, turn', [
    (PredictionBrowser, lambda browser: browser.update(true=7)), (PredictionBrowser, lambda browser: browser.leaf(1)),
    (PredictionBrowser, lambda browser: browser.tiles.buttons[3].click()), (ErrorExplorer, lambda explorer: explorer.cells[4, 4].click())],
    ids=['another filter', 'next page', 'another image', 'another cell'])
def test_a_change_makes_no_widget_and_sends_little(explorer, turn):
    "What crosses the network at a click: each tile three times at most, a handful of other widgets, and one picture for all tiles."
    images = np.zeros((10_000, 28, 28), np.uint8)
    images[:, 4:24, 9:19] = np.random.default_rng(0).integers(0, 256, (10_000, 20, 10))  # as much black as in a digit
    explorer = explorer(made_up_preds(10_000, sharpness=4, images=images))
    known, sent = {*widgets_of(explorer.widget), *explorer.tiles.buttons}, []
    for widget in widgets_of(explorer.widget): widget.observe(lambda change: sent.append(change.new), names=list(widget.keys))
    turn(explorer)
    assert set(widgets_of(explorer.widget)) <= known
    assert 0 < len(sent) <= 3 * len(explorer.tiles.buttons) + 12
    assert sum(len(value) for value in sent if isinstance(value, str)) < 30_000
