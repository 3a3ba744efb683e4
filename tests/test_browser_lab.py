"""The explorers in a real JupyterLab, driven by a real browser: what is on the screen after a click, a stroke, a file.

Slow (a minute or two), so it runs only where it is asked for: `MNIST_NB_BROWSER=1 pytest tests/test_browser_lab.py`.
Needs JupyterLab, Playwright (`pip install -e ".[browser]"`) and a Chromium on the PATH (Debian: `apt install chromium`).
"""
import json
import math
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec

import nbformat
import pytest
from helpers import CHROMIUM, ROOT, SHOTS, needs_browser

pytestmark = needs_browser(**{
    'MNIST_NB_BROWSER=1 in the environment': os.environ.get('MNIST_NB_BROWSER') == '1',
    'JupyterLab': find_spec('jupyterlab'), 'anywidget': find_spec('anywidget')})

PATIENCE = 300_000  # milliseconds: two slow cores, busy with other things
QUIET = {'notebook-extension/tracker': {'windowingMode': 'none', 'autoStartDefaultKernel': True},  # every cell is on the page, also below the fold
         'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False}}

PROMPTS = '[...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].map((prompt) => prompt.textContent)'
BEGUN = rf'() => {PROMPTS}.some((text) => /[\d*]/.test(text))'
DONE = rf'() => {PROMPTS}.some((text) => /\d/.test(text)) && !{PROMPTS}.some((text) => text.includes("*"))'


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "Address of a JupyterLab on a copy of the notebooks without their outputs, so that all on the screen is new."
    home = tmp_path_factory.mktemp('lab')
    (home / 'nbs').mkdir()
    notebook = nbformat.read(ROOT / 'nbs/09_explore.ipynb', as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == 'code': cell.outputs = []
    notebook.metadata.pop('widgets', None)
    for name in ('browser', 'errors', 'pad'): nbformat.write(notebook, home / f'nbs/{name}.ipynb')  # one for each test
    for name, settings in QUIET.items():
        file = home / f'settings/@jupyterlab/{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    token, ready, log = secrets.token_hex(16), threading.Event(), []
    folders = {'CONFIG_DIR': 'config', 'RUNTIME_DIR': 'runtime', 'DATA_DIR': 'data'}
    env = os.environ | {f'JUPYTER_{key}': str(home / name) for key, name in folders.items()} | {
        'JUPYTERLAB_SETTINGS_DIR': str(home / 'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(home / 'workspaces'),
        'IPYTHONDIR': str(home / 'ipython'), 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '2', 'TQDM_DISABLE': '1'}
    server = subprocess.Popen(
        [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1',
         f'--ServerApp.port={port}', '--ServerApp.port_retries=0', f'--IdentityProvider.token={token}',
         f'--ServerApp.root_dir={home / "nbs"}'],
        cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def listen():
        for line in server.stdout:
            log.append(line)
            if 'running at' in line: ready.set()
        ready.set()  # it has ended: nothing more to wait for
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert ready.wait(PATIENCE / 1000) and server.poll() is None, ''.join(log[-30:])
        yield lambda path: f'http://127.0.0.1:{port}/lab/tree/{path}?token={token}&reset'
    finally:
        server.terminate()
        try: server.wait(30)
        except subprocess.TimeoutExpired: server.kill()
        listener.join(10)


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import expect, sync_playwright
    expect.set_options(timeout=PATIENCE / 4)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, request):
    "A fresh page; an error that its own scripts raise fails the test."
    page = browser.new_page(viewport={'width': 1280, 'height': 1000})
    page.set_default_timeout(PATIENCE / 4)
    errors = []
    page.on('pageerror', lambda error: errors.append(error))
    yield page
    if SHOTS: page.screenshot(path=f'{SHOTS}/{request.node.name}.png')
    page.close()
    assert not errors, errors


def run_all(page, address):
    "Open a notebook, run it from the first cell to the last, and see that no cell raised and each widget is alive."
    from playwright.sync_api import TimeoutError, expect
    page.goto(address, timeout=PATIENCE)
    page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=PATIENCE)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=PATIENCE, state='attached')
    page.get_by_text('(ipykernel) | Idle').wait_for(timeout=PATIENCE)
    for _ in range(5):  # a kernel that is only just there may lose the first call
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        try: page.wait_for_function(BEGUN, timeout=PATIENCE / 10)
        except TimeoutError: continue
        break
    page.wait_for_function(DONE, timeout=PATIENCE)
    cells = page.locator('.jp-CodeCell').filter(has_not=page.locator('.jp-Placeholder'))  # a collapsed cell shows no number
    unrun = cells.filter(has_not=page.locator('.jp-InputPrompt', has_text=re.compile(r'\d')))
    assert unrun.count() == 0, f'a cell raised; the rest was not run:\n{cells.nth(cells.count() - unrun.count() - 1).inner_text()}'
    expect(page.get_by_text(re.compile('Error displaying widget|Failed to load model'))).to_have_count(0)


def draw(page, points):
    "Move the mouse along points [x, y], 0-1 from the left and top of the pad, with the button down."
    canvas = page.locator('.mnist-pad canvas').last
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box['x'] + x * box['width'], box['y'] + y * box['height']) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]: page.mouse.move(*place, steps=2)
    page.mouse.up()


def arc(x, y, radius, start, stop, n=20):
    "Points on a part of a circle; angles in turns, clockwise from the right."
    angles = [2 * math.pi * (start + (stop - start) * i / (n - 1)) for i in range(n)]
    return [[x + radius * math.cos(a), y + radius * math.sin(a)] for a in angles]


THREE = arc(.48, .33, .17, -.45, .25) + arc(.48, .67, .17, -.25, .45)


def picture(path, points):
    "A file with a drawing, as somebody would upload it."
    from PIL import Image

    from mnist_nb.widgets import strokes_image
    Image.fromarray(strokes_image([points])).save(path)
    return path


def test_the_pad_reads_what_the_mouse_draws(lab, page, tmp_path):
    from playwright.sync_api import expect
    run_all(page, lab('pad.ipynb'))
    pad = page.locator('.jp-OutputArea-child', has=page.locator('.mnist-pad canvas')).last
    words, canvas = pad.locator('p[role=status], p[role=alert]'), pad.locator('canvas')
    expect(words).to_have_text('Nothing drawn yet.')
    expect(pad.get_by_text('draw a digit')).to_be_visible()

    draw(page, THREE)
    expect(words).to_have_text(re.compile(r'Reads as 3 \(\d+\.\d%\)'))
    expect(pad.locator('img')).to_have_count(6)
    expect(pad.locator('tr', has_text='predicted').locator('th')).to_have_text('3')
    expect(pad.locator('[aria-live]')).to_have_text(words.inner_text())  # what a screen reader says
    expect(pad.get_by_text('draw a digit')).to_be_hidden()
    ink = canvas.evaluate('c => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v).length')
    assert 0.03 < ink / canvas.evaluate('c => c.width * c.height') < 0.3  # the line is on the screen, too
    if SHOTS: pad.screenshot(path=f'{SHOTS}/pad-three.png')

    first = words.inner_text()
    draw(page, [[.05, .1], [.05, .9], [.3, .95]])
    expect(words).not_to_have_text(first)
    pad.get_by_role('button', name='Undo').click()
    expect(words).to_have_text(first)
    canvas.focus()
    cells = page.locator('.jp-Cell').count()
    canvas.press('Backspace')
    expect(words).to_have_text('Nothing drawn yet.')
    draw(page, THREE)
    expect(words).to_have_text(first)
    canvas.press('Delete')
    expect(words).to_have_text('Nothing drawn yet.')
    for key in 'ddxz': canvas.press(key)  # JupyterLab's own keys for cells: not from the pad
    assert page.locator('.jp-Cell').count() == cells

    for file, answer in [(picture(tmp_path / 'three.png', THREE), re.compile('Reads as 3')),
                         (tmp_path / 'letter.txt', "✗ 'letter.txt' is not a picture")]:
        if not file.exists(): file.write_text('Dear model')
        with page.expect_file_chooser() as chooser: pad.get_by_role('button', name='Upload a picture').click()
        chooser.value.set_files(file)
        expect(words).to_contain_text(answer)
    if SHOTS: pad.screenshot(path=f'{SHOTS}/pad-error.png')
    pad.get_by_role('button', name='Clear').click()
    expect(words).to_have_text('Nothing drawn yet.')


def test_the_browser_opens_what_is_clicked(lab, page):
    from playwright.sync_api import expect
    run_all(page, lab('browser.ipynb'))
    outputs = page.locator('.jp-OutputArea-child')

    browser = outputs.filter(has=page.locator('.jupyter-button', has_text='Next')).filter(has=page.locator('select')).last
    expect(browser).to_contain_text(re.compile(r'page 1 of [\d,]+'))
    before = browser.locator('.mnb-tile').first.get_attribute('title')
    browser.get_by_role('button', name='Next').click()
    expect(browser).to_contain_text(re.compile(r'page 2 of [\d,]+'))
    tiles = browser.locator('.mnb-tile')
    expect(tiles.first).not_to_have_attribute('title', before)
    tiles.nth(2).click()
    expect(browser.locator('.mnb-card img').first).to_have_attribute('alt', tiles.nth(2).get_attribute('title'))
    expect(browser.locator('.mnb-bars tr')).to_have_count(10)
    browser.get_by_role('button', name='Previous').click()
    expect(browser).to_contain_text(re.compile(r'page 1 of [\d,]+'))
    browser.locator('select').nth(2).select_option(label='✓ right')
    expect(browser).to_contain_text('✓ right')
    expect(tiles.first).to_contain_text('✓')
    if SHOTS: browser.screenshot(path=f'{SHOTS}/browser.png')


def test_the_error_explorer_opens_what_is_clicked(lab, page):
    from playwright.sync_api import expect
    run_all(page, lab('errors.ipynb'))
    outputs = page.locator('.jp-OutputArea-child')
    explorer = outputs.filter(has=page.locator('.jupyter-button.mnb-cell')).last
    cell = explorer.locator('.mnb-cell[class*=mnb-miss]:not(.mnb-open)').first
    name = cell.get_attribute('title')  # true 4, predicted 9: 12 images
    true, predicted, n = re.fullmatch(r'true (\d), predicted (\d): ([\d,]+) images?', name).groups()
    cell.click()
    expect(explorer).to_contain_text(re.compile(rf'{n} of [\d,]+ images?: true {true}, predicted {predicted}'))
    tiles = explorer.locator('.mnb-tile')
    expect(tiles).to_have_count(min(10, int(n)))
    expect(tiles.first).to_have_text(f'{true}→{predicted} ✗')
    tiles.last.click()
    expect(explorer).to_contain_text(re.compile(rf'Image \d+: true {true}, predicted {predicted} ✗'))
    expect(explorer.locator('.mnb-bars tr')).to_have_count(10)
    expect(explorer.get_by_alt_text('saliency')).to_be_visible()
    expect(explorer.get_by_alt_text('training image').first).to_be_visible()
    explorer.get_by_role('button', name='Ambiguous').click()
    expect(explorer).to_contain_text('⚑ ambiguous')
    if SHOTS: explorer.screenshot(path=f'{SHOTS}/explorer.png')
    explorer.get_by_role('button', name='Undo').click()
    expect(explorer).not_to_contain_text('⚑ ambiguous')
    expect(explorer).to_contain_text('0 marked')


@pytest.fixture(scope='module')
def predictions():
    from mnist_nb.classifier import MNISTClassifier
    from mnist_nb.data import load_sample
    return MNISTClassifier.pretrained().predictions(load_sample('test'))


def open_alone(page, path):
    "A page from disk; whatever else it asks for fails the test."
    asked = []
    page.on('request', lambda request: asked.append(request.url) if not request.url.startswith(('file:', 'data:')) else None)
    page.goto(path.as_uri())
    return asked


def test_the_still_browser_opens_from_disk(page, tmp_path, predictions):
    from playwright.sync_api import expect

    from mnist_nb.widgets import browser_twin, save_static
    asked = open_alone(page, save_static(browser_twin(predictions), tmp_path / 'browser.html'))
    page.locator('button[data-group="3"]').click()
    expect(page.locator('.mnb-title')).to_contain_text('3: the ')
    page.locator('.mnb-tiles button').nth(1).click()
    expect(page.locator('.mnb-line')).to_contain_text('true 3')
    expect(page.locator('.mnb-card .mnb-bars tr')).to_have_count(10)
    assert asked == []


def test_the_still_error_explorer_opens_from_disk(page, tmp_path, predictions):
    from playwright.sync_api import expect

    from mnist_nb.widgets import error_twin, save_static
    asked = open_alone(page, save_static(error_twin(predictions), tmp_path / 'errors.html'))
    cell = page.locator('button[class*=mnb-miss]').last
    true, predicted = re.search(r'true (\d), predicted (\d)', cell.get_attribute('aria-label')).groups()
    cell.click()
    expect(cell).to_have_attribute('aria-pressed', 'true')
    expect(page.locator('.mnb-line')).to_contain_text(f'true {true}, predicted {predicted} ✗')
    assert asked == []


def test_the_still_pad_opens_from_disk(page, tmp_path):
    from playwright.sync_api import expect

    from mnist_nb.widgets import pad_twin, save_static
    twin = pad_twin([THREE, [[.2, .95], [.8, .95]]], lambda image: [.1] * 10)
    asked = open_alone(page, save_static(twin, tmp_path / 'pad.html'))
    assert page.locator('img').evaluate_all('all => all.every((one) => one.complete && one.naturalWidth > 0)')
    first = page.locator('details').first
    expect(first.locator('img').first).to_be_hidden()
    first.locator('summary').click()
    expect(first.locator('img').first).to_be_visible()
    expect(page.locator('details').last.locator('.mnb-bars tr')).to_have_count(10)
    assert asked == []
