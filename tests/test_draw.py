"""The drawing pad: strokes in, a reading and a page out; under ipywidgets 7 and 8, with anywidget and without."""
import io
import json
import math
import sys
from datetime import datetime, timezone
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip('ipywidgets')
import ipywidgets
from helpers import widgets_of
from PIL import Image

from mnist_nb.widgets import DrawPad, pad_twin, probs_function, read_pad, reading_html, stroke_canvas, strokes_image

SEVEN = ipywidgets.__version__.startswith('7.')


def arc(x, y, radius, start, stop, n=20):
    "Points on part of a circle; angles in turns, clockwise from the right."
    angles = [2 * math.pi * (start + (stop - start) * i / (n - 1)) for i in range(n)]
    return [[round(x + radius * math.cos(a), 3), round(y + radius * math.sin(a), 3)] for a in angles]


THREE = arc(.48, .33, .17, -.45, .25) + arc(.48, .67, .17, -.25, .45)
DASH = [[.2, .9], [.8, .9]]


class Model:
    "Always three, and counts how often it was asked."
    asked = 0

    def predict_proba(self, image):
        assert image.shape == (28, 28) and image.dtype == np.uint8
        self.asked += 1
        return np.full((1, 10), .01) + .9 * np.eye(10)[3:4]


def picture(strokes=(THREE,), kind='PNG'):
    Image.fromarray(strokes_image(strokes)).save(file := io.BytesIO(), kind)
    return file.getvalue()


def upload(pad, name, content):
    "What the browser sends when somebody chooses a file, in the words of this version of ipywidgets."
    about = {'name': name, 'type': 'image/png', 'size': len(content), 'lastModified': 1_700_000_000_000}
    if SEVEN: pad.upload.set_state({'metadata': [about], 'data': [memoryview(content)], '_counter': pad.upload._counter + 1})
    else: pad.upload.set_state({'value': [about | {'last_modified': about['lastModified'], 'content': memoryview(content)}]})


@pytest.fixture(params=[True, False], ids=['anywidget', 'no anywidget'])
def pad(request, monkeypatch):
    if request.param: pytest.importorskip('anywidget')
    else: monkeypatch.setitem(sys.modules, 'anywidget', None)
    return DrawPad(Model())


class Tags(HTMLParser):
    "Collects tags and sees that each is closed."
    def __init__(self, page):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ('img', 'br'): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag

    def all(self, wanted): return [attrs for tag, attrs in self.seen if tag == wanted]


def test_an_empty_pad_says_so(pad):
    assert pad.reading.message == 'Nothing drawn yet.' and pad.reading.probs is None
    assert 'Nothing drawn yet.' in pad.result.value and '<img' not in pad.result.value
    assert pad.predict_probs and not Tags(pad.result.value).all('table')


def test_strokes_become_a_page(pad):
    pad.canvas.strokes = [THREE]
    assert pad.reading.message == 'Reads as 3 (91.0%).' == pad.canvas.answer
    page = Tags(pad.result.value)
    assert [attrs['alt'].split(':')[0] for attrs in page.all('img')] == [
        'step 1, gray', 'step 2, even light', 'step 3, ink', 'step 4, cropped', 'step 5, 20x20 box', 'step 6, centered']
    assert all(attrs['src'].startswith('data:image/png;base64,') for attrs in page.all('img'))
    assert len(page.all('tr')) == 10 and '91.0%' in pad.result.value
    assert 'predicted' in pad.result.value  # a word, not only a color
    assert pad.reading.steps['centered'].shape == (28, 28)


def test_undo_and_clear(pad):
    pad.canvas.strokes = [THREE, DASH]
    both = pad.result.value
    pad.undo_button.click()
    assert pad.canvas.strokes == [THREE] and pad.result.value != both
    pad.undo_button.click()
    pad.undo_button.click()  # nothing left: no error
    assert pad.canvas.strokes == [] and pad.reading.message == 'Nothing drawn yet.'
    pad.canvas.strokes = [THREE, DASH]
    pad.clear_button.click()
    assert pad.canvas.strokes == [] and 'Nothing drawn yet.' in pad.result.value


def test_the_state_is_plain(pad):
    pad.canvas.strokes = [THREE, DASH]
    text = json.dumps(pad.canvas.strokes)
    again = DrawPad(Model(), strokes=json.loads(text))
    assert again.canvas.strokes == [THREE, DASH] and again.result.value == pad.result.value
    assert DrawPad(Model(), strokes=(np.array(DASH),)).canvas.strokes == [DASH]
    with pytest.raises(ValueError, match='a stroke is a list of points'): DrawPad(Model(), strokes=[[.1, .2]])


def test_an_uploaded_file_is_read_like_a_drawing(pad):
    upload(pad, 'three.png', picture())
    assert pad.reading.message == 'Reads as 3 (91.0%).'
    assert np.array_equal(pad.reading.steps['centered'], read_pad([THREE], None, pad.predict_probs).steps['centered'])
    pad.clear_button.click()
    assert pad.reading.message == 'Nothing drawn yet.' and not pad.upload.value
    upload(pad, 'three.png', picture())  # the same file once more is a change again
    assert pad.reading.probs is not None


@pytest.mark.parametrize('name, content', [
    ('letter.txt', b'Dear model'), ('empty.png', b''), ('cut.png', picture()[:300]), ('<b>evil</b>.png', b'GIF89a')])
def test_a_bad_upload_says_what_is_wrong(pad, name, content):
    upload(pad, name, content)
    assert repr(name) in pad.reading.message and 'not a picture that Pillow can read' in pad.reading.message
    page = Tags(pad.result.value)
    assert {'role': 'alert', 'style': 'font-size:17px'} in page.all('p') and not page.all('b')
    assert pad.reading.probs is None and not page.all('img')


def test_a_picture_without_a_digit_says_what_is_wrong(pad):
    upload(pad, 'blank.png', picture([]))
    assert pad.reading.message.startswith('✗ no digit found')


def test_the_newer_of_strokes_and_upload_counts(pad):
    pad.canvas.strokes = [DASH]
    upload(pad, 'three.png', picture())
    assert pad.canvas.strokes == [] and pad.reading.probs is not None
    pad.canvas.strokes = [DASH]
    assert not pad.upload.value and pad.canvas.strokes == [DASH]


def test_each_change_asks_the_model_once():
    pad = DrawPad(model := Model())
    for asked, change in enumerate([
            lambda: setattr(pad.canvas, 'strokes', [THREE]), lambda: setattr(pad.canvas, 'strokes', [THREE, DASH]),
            pad.undo_button.click, lambda: upload(pad, 'a.png', picture()), lambda: setattr(pad.canvas, 'strokes', [DASH])], 1):
        change()
        assert model.asked == asked
    pad.clear_button.click()
    assert model.asked == 5


def test_what_the_model_raises_is_on_the_page(pad):
    def broken(image): raise RuntimeError('out of <power>')
    pad.predict_probs = probs_function(broken)
    pad.canvas.strokes = [THREE]
    assert 'RuntimeError: out of &lt;power&gt;' in pad.result.value
    assert len(Tags(pad.result.value).all('img')) == 6  # the steps went well, and stay
    pad.predict_probs = probs_function(lambda image: [1, 1])
    pad.canvas.strokes = [THREE, DASH]
    assert 'ten probabilities that sum to 1' in pad.result.value


def test_without_anywidget_the_upload_stands_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, 'anywidget', None)
    pad = DrawPad(Model())
    shown = list(widgets_of(pad.widget))
    assert 'pip install "mnist_nb[draw]"' in pad.canvas.value
    assert pad.upload in shown and pad.clear_button in shown and pad.undo_button not in shown


def test_with_anywidget_the_browser_gets_all_it_needs():
    anywidget = pytest.importorskip('anywidget')
    pad = DrawPad(Model(), strokes=[THREE])
    assert isinstance(pad.canvas, anywidget.AnyWidget)
    sent = pad.canvas.get_state()
    assert sent['strokes'] == [THREE] and (sent['side'], sent['pen']) == (280, .06) and sent['answer'] == 'Reads as 3 (91.0%).'
    for word in ('aria-label="Drawing pad', 'tabindex="0"', 'setPointerCapture', 'aria-live'): assert word in sent['_esm']
    for word in ('touch-action: none', 'focus-visible'): assert word in sent['_css']
    assert stroke_canvas(side=200).side == 200
    pad.canvas.set_state({'strokes': [THREE, DASH]})  # as the browser sends it
    assert pad.reading.message in pad.result.value and np.array_equal(pad.reading.steps['gray'], strokes_image([THREE, DASH]))
    shown = list(widgets_of(pad.widget))
    assert {pad.canvas, pad.undo_button, pad.clear_button, pad.upload, pad.result} <= set(shown)
    assert all(button.tooltip for button in (pad.undo_button, pad.clear_button))
    assert not any(isinstance(widget, ipywidgets.Output) for widget in shown)


def test_any_strokes_give_a_reading():
    "Whatever a hand, or a broken page, may send: a reading comes back, never an exception."
    random = np.random.default_rng(0)
    ask = probs_function(Model())
    for _ in range(25):
        strokes = [random.normal(.5, random.choice([.01, .3, 3]), (random.integers(1, 30), 2)).tolist()
                   for _ in range(random.integers(1, 5))]
        Tags(reading_html(read_pad(strokes, None, ask)))
    for strokes in ([[[.5, .5]]], [[[9, 9], [10, 10]]], [[]], [None], ['abc'], [[[.1, None]]], [[[1e308, 1e308]]]):
        reading = read_pad(strokes, None, ask)
        assert reading.probs is not None or reading.message.startswith('✗ '), strokes


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF', 'BMP'])
def test_both_forms_of_an_upload(kind):
    content, ask = picture(kind=kind), probs_function(Model())
    seven = {'digit': {'metadata': {}, 'content': content}}
    eight = ({'name': 'digit', 'content': memoryview(content), 'last_modified': datetime.now(timezone.utc)},)
    for value in (seven, eight): assert read_pad([], value, ask).message == 'Reads as 3 (91.0%).'


def test_the_twin_stands_alone():
    page = pad_twin([THREE, DASH], probs_function(Model()))
    tags = Tags(page)
    assert [('open' in attrs) for attrs in tags.all('details')] == [False, True]
    assert len(tags.all('img')) == 12 and all(attrs['alt'] for attrs in tags.all('img'))
    assert 'a stroke is a list' in pad_twin([[.1]], probs_function(Model())), 'it says what is wrong, as the pad does'
    assert not tags.all('script') and not tags.all('link') and 'http' not in page and len(page) < 400_000


def test_the_pretrained_model_reads_a_three_of_any_size_anywhere():
    from mnist_nb.classifier import MNISTClassifier
    ask = probs_function(MNISTClassifier.pretrained())
    for scale, x, y in [(1, .5, .5), (.5, .5, .5), (.5, .3, .3), (.5, .7, .7)]:
        stroke = [[x + scale * (a - .5), y + scale * (b - .5)] for a, b in THREE]
        assert read_pad([stroke], None, ask).probs.argmax() == 3, (scale, x, y)
