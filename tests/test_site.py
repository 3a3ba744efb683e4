"""The site without Quarto: nbdev makes a page of every notebook, and the page keeps what readers need."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest

pytest.importorskip('nbdev')
yaml = pytest.importorskip('yaml')  # comes with nbdev

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / 'nbs'
NAMES = sorted(str(p.relative_to(NBS)) for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
EACH = pytest.mark.parametrize('name', NAMES)
SKIPPED = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
OPTION = re.compile(r'^#\|[ \t]*(.*)$', re.M)
EXPORTED = re.compile(r'^#\|\s*export[si]?\b', re.M)
PROCESS = '''
import nbdev.quarto
nbdev.quarto._ensure_quarto = lambda: None  # it would be installed
nbdev.quarto.nbdev_proc_nbs.__wrapped__(n_workers=2)
'''


@cache
def source(name):
    "The cells of a notebook, which is a valid one."
    nbformat.validate(nb := nbformat.read(NBS / name, as_version=4))
    return nb.cells


def without_links(text): return re.sub(r'\[(`[^`]+`)\]\([^)]*\)', r'\1', text)  # nbdev links names in backticks


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "A copy of the project after `nbdev_proc_nbs`, and what the command said."
    home = tmp_path_factory.mktemp('site')
    for folder in ('nbs', 'mnist_nb'): shutil.copytree(ROOT / folder, home / folder, ignore=SKIPPED)
    for file in ('settings.ini', 'pyproject.toml', 'README.md'): shutil.copy(ROOT / file, home)
    done = subprocess.run([sys.executable, '-c', PROCESS], cwd=home, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                          capture_output=True, text=True)
    return home, done.stderr


@pytest.fixture
def page(site, name):
    "The cells of one page."
    home, said = site
    assert (home / '_proc' / name).exists(), said
    return json.loads((home / '_proc' / name).read_text(encoding='utf-8'))['cells']


@EACH
def test_the_first_cell_holds_title_and_subtitle_and_nothing_else(name):
    "nbdev makes front matter of it and drops the rest."
    first = source(name)[0]
    assert first.cell_type == 'markdown' and re.fullmatch(r'# .+\n\n> .+', first.source), first.source


@EACH
def test_the_badge_stands_in_a_line_of_text(name):
    "Alone in its paragraph it would become a figure with a caption."
    lines = [line for line in source(name)[1].source.split('\n') if 'colab-badge' in line]
    assert len(lines) == 1 and re.search(r'\w', re.sub(r'\[!\[.*?\]\(.*?\)\]\(.*?\)', '', lines[0])), lines


@EACH
def test_every_option_line_is_yaml_and_texts_are_quoted(name):
    for cell in source(name):
        for line in OPTION.findall(cell.source if cell.cell_type == 'code' else ''):
            yaml.safe_load(line)
            assert re.match(r'(?!fig-)|[\w-]+: ["\']', line), f'quote the value of: {line}'


@pytest.mark.parametrize('name', [n for n in NAMES if n != 'index.ipynb'])  # which exports nothing: nbdev runs no cell
def test_imports_have_a_cell_of_their_own(name):
    "nbdev runs every cell with an import, but not the cells that it needs; starter cells of exercises need none."
    for cell in source(name):
        if cell.cell_type != 'code' or EXPORTED.search(cell.source) or 'from mnist_nb.exercises import' in cell.source: continue
        try: tree = ast.parse(cell.source)
        except SyntaxError: continue  # magics: nbdev does not run them
        imports = [any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(line)) for line in tree.body]
        assert all(imports) or not any(imports), f'imports and other code in one cell:\n{cell.source}'


@EACH
def test_a_page_keeps_title_subtitle_and_introduction(name, page):
    first, introduction = source(name)[:2]
    title, subtitle = re.fullmatch(r'# (.+)\n\n> (.+)', first.source).groups()
    front = yaml.safe_load(''.join(page[0]['source']).strip().strip('-'))
    assert (front['title'], front['description']) == (title, subtitle)
    assert without_links(introduction.source) in [without_links(''.join(cell['source'])) for cell in page]


@EACH
def test_no_output_of_a_page_is_an_error_or_a_warning(page):
    outputs = [output for cell in page for output in cell.get('outputs', [])]
    assert [o for o in outputs if o['output_type'] == 'error' or o.get('name') == 'stderr'] == []


@EACH
def test_quarto_can_read_the_options_of_a_page(page):
    for cell in page:
        lines = OPTION.findall(''.join(cell['source'])) if cell['cell_type'] == 'code' else []
        assert not lines or isinstance(yaml.safe_load('\n'.join(lines)), dict), lines


def test_quarto_finds_its_settings(site):
    settings = yaml.safe_load((site[0] / '_proc/_quarto.yml').read_text())
    named = [*settings['metadata-files'], *settings['filters'], settings['format']['html']['css']]
    assert [file for file in named if not (site[0] / '_proc' / file).exists()] == []


def test_the_sidebar_lists_the_notebooks_in_the_order_of_the_index(site):
    "Lessons first; nbdev makes a section of each folder, in alphabetical order."
    listed = re.findall(r'^\| \[.+?\]\((\S+\.ipynb)\)', '\n'.join(cell.source for cell in source('index.ipynb')), re.M)
    lessons, library = ([name for name in listed if name.startswith('library/') is folder] for folder in (False, True))
    others = {folder: [name for name in NAMES if name.startswith(folder)] for folder in ('exercises', 'recipes')}
    assert listed == lessons + library and {'index.ipynb', *listed, *sum(others.values(), [])} == {*NAMES}
    sidebar = yaml.safe_load((site[0] / '_proc/sidebar.yml').read_text())
    folders = [{'section': name, 'contents': contents} for name, contents in sorted({**others, 'library': library}.items())]
    assert sidebar['website']['sidebar']['contents'] == ['index.ipynb', *lessons, *folders]


def test_making_the_pages_leaves_the_readme_alone(site):
    assert (site[0] / 'README.md').read_text() == (ROOT / 'README.md').read_text()
