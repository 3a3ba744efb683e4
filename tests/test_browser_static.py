"""The static twins, opened from disk in a real browser without kernel, server or network, and clicked."""
import numpy as np
import pytest
from helpers import CHROMIUM, NASTY, SHOTS, made_up_preds, needs_browser

from mnist_nb.data import LabeledImages
from mnist_nb.evaluation import confusion_matrix
from mnist_nb.widgets import (
    BrowserState,
    browser_twin,
    confidence_bars,
    error_twin,
    find_images,
    image_text,
    save_static,
    worst_cell,
)

pytestmark = needs_browser()


@pytest.fixture(scope='module')
def preds():
    "Made up, with a class whose name would be a program if it weren't text; each image is one gray, which says which it is."
    images = np.repeat(17 * (np.arange(400) % 16), 28 * 28).reshape(-1, 28, 28).astype(np.uint8)
    return made_up_preds(400, names=(NASTY, *'123456789'), images=images)


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, request):
    "A page that may only read the disk; an error of its script, a dialog or a request fails the test."
    page, trouble = browser.new_page(viewport={'width': 900, 'height': 640}), []
    page.on('pageerror', lambda error: trouble.append(error))
    page.on('dialog', lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on('request', lambda request: trouble.append(request.url) if request.url.split(':')[0] not in ('file', 'data') else None)
    yield page
    if SHOTS: page.screenshot(path=f'{SHOTS}/{request.node.name}.png')
    page.close()
    assert not trouble, trouble


def caption(preds, i): return image_text(preds, i).replace('image', 'Image', 1)


def gray(page, locator):
    "The gray level in the middle of what stands on the screen, 0-255."
    from io import BytesIO

    from PIL import Image
    picture = Image.open(BytesIO(locator.screenshot())).convert('L')
    return picture.getpixel((picture.width // 2, picture.height // 2))


def test_every_cell_opens_its_images_and_every_image_its_card(preds, page, tmp_path):
    path = save_static(error_twin(preds, n=6), tmp_path / 'errors.html')
    assert path.stat().st_size < 400_000
    page.goto(path.as_uri())
    counts, begin = confusion_matrix(preds), worst_cell(preds)
    assert page.locator('[data-group]').count() == (counts > 0).sum()
    assert page.locator('[data-group][aria-pressed=true]').get_attribute('data-group') == f'{begin.true}-{begin.predicted}'
    for true, predicted in np.argwhere(counts).tolist():
        cell = page.locator(f'[data-group="{true}-{predicted}"]')
        assert cell.inner_text() == str(counts[true, predicted])
        cell.click()
        found = find_images(preds, BrowserState(true, predicted))[:6]
        tiles = page.locator('.mnb-tiles button')
        assert [tile.get_attribute('aria-label') for tile in tiles.all()] == [image_text(preds, i) for i in found]
        assert page.locator('.mnb-line').inner_text() == caption(preds, found[0])
        assert page.locator('.mnb-title').inner_text().startswith(f'true {preds.data.class_names[true]}, predicted ')


def test_the_card_says_what_python_says(preds, page, tmp_path):
    page.goto(save_static(error_twin(preds), tmp_path / 'errors.html').as_uri())
    tile = page.locator('.mnb-tiles button').last
    tile.click()
    i = int(tile.get_attribute('aria-label').split(':')[0].split()[1])
    assert page.locator('.mnb-line').inner_text() == caption(preds, i)
    ours = page.locator('.mnb-bars').inner_text()
    page.set_content(confidence_bars(preds.probs[i], preds.data.class_names, preds.labels[i]))
    assert [line.split() for line in page.locator('table').inner_text().splitlines()] == [line.split() for line in ours.splitlines()]


def test_reasons_stand_beside_a_mistake(preds, page, tmp_path):
    i, other = find_images(preds, BrowserState(outcome='wrong'))[:2].tolist()
    near = LabeledImages(np.full((5, 28, 28), 255, np.uint8), np.array([3, 1, 4, 1, 5]))
    cell = f'{preds.labels[i]}-{preds.predicted[i]}'
    heatmap = np.zeros((28, 28)); heatmap[10:18] = 1
    page.goto(save_static(error_twin(preds, 10, {i: heatmap}, {i: near}), tmp_path / 'errors.html').as_uri())
    page.locator(f'[data-group="{cell}"]').click()
    page.get_by_label(image_text(preds, i)).first.click()
    assert page.locator('.mnb-near figcaption').all_inner_texts() == ['3', '1', '4']
    assert page.get_by_role('img', name='saliency map of the prediction').count() == 1
    assert gray(page, page.get_by_role('img', name='training image, a 4')) == 255
    page.locator(f'[data-group="{preds.labels[other]}-{preds.labels[other]}"]').click()
    assert page.locator('.mnb-near').count() == page.get_by_role('img', name='saliency').count() == 0


def test_the_browser_goes_by_class(preds, page, tmp_path):
    page.goto(save_static(browser_twin(preds, n=8), tmp_path / 'browser.html').as_uri())
    assert page.locator('[data-group][aria-pressed=true]').inner_text() == 'all'
    for c in 'all', *range(10):
        page.locator(f'[data-group="{c}"]').click()
        found = find_images(preds, BrowserState(true=None if c == 'all' else c))[:8]
        tiles = page.locator('.mnb-tiles button')
        assert [tile.get_attribute('aria-label') for tile in tiles.all()] == [image_text(preds, i) for i in found]
        tiles.nth(5).click()
        assert page.locator('.mnb-line').inner_text() == caption(preds, found[5])
        assert tiles.nth(5).get_attribute('aria-pressed') == 'true' and tiles.nth(0).get_attribute('aria-pressed') == 'false'


def test_the_right_picture_is_on_each_button(preds, page, tmp_path):
    page.goto(save_static(browser_twin(preds, n=20), tmp_path / 'browser.html').as_uri())
    for c in 3, 8:
        page.locator(f'[data-group="{c}"]').click()
        for k, i in enumerate(find_images(preds, BrowserState(true=c))[:20]):
            assert gray(page, page.locator('.mnb-tiles button .mnb-s').nth(k)) == preds.data.images[i, 0, 0]
    page.locator('.mnb-tiles button').nth(7).click()
    assert gray(page, page.locator('.mnb-card > .mnb-s')) == preds.data.images[find_images(preds, BrowserState(true=8))[7], 0, 0]


def test_the_keyboard_is_enough(preds, page, tmp_path):
    page.goto(save_static(browser_twin(preds, n=8), tmp_path / 'browser.html').as_uri())
    for _ in range(2): page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    assert page.locator('.mnb-title').inner_text().startswith(f'true {NASTY}')
    for _ in range(12): page.keyboard.press('Tab')
    page.keyboard.press('Space')
    assert page.locator('.mnb-tiles button[aria-pressed=true]').count() == 1
    i = find_images(preds, BrowserState(true=0))[2]
    assert page.locator('.mnb-line').inner_text() == caption(preds, i)


def test_two_twins_live_on_one_page(preds, page, tmp_path):
    both = browser_twin(preds, n=4) + error_twin(preds, n=4)
    page.goto(save_static(both, tmp_path / 'both.html').as_uri())
    first, second = page.locator('.mnb-twin').nth(0), page.locator('.mnb-twin').nth(1)
    before = second.inner_text()
    first.locator('[data-group="5"]').click()
    assert second.inner_text() == before and first.locator('.mnb-title').inner_text().startswith('true 5')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_can_be_read_in_both_schemes(preds, page, tmp_path, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(save_static(error_twin(preds), tmp_path / 'errors.html').as_uri())
    color = lambda selector, what: page.locator(selector).first.evaluate(f'e => getComputedStyle(e).{what}')
    bright = scheme == 'dark'
    for selector in '.mnb-line', '.mnb-title', '.mnb-cell', '.mnb-bars th', '.mnb-tiles button':
        levels = [int(n) for n in color(selector, 'color')[4:-1].split(',')[:3]]
        assert (min(levels) > 200) if bright else (max(levels) < 60), (selector, levels)
