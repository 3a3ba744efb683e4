"""What holds the repository together: notebooks, package, README and links say the same."""
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, python

NOTEBOOKS = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(ROOT).parts))
ROOMS = ['data', 'handwriting', 'model', 'training', 'checkpoints', 'evaluation', 'analysis', 'interpretation',
         'explore', 'mistakes', 'draw', 'classifier', 'cli']
MAY_IMPORT = {
    'data': set(), 'handwriting': {'data'}, 'model': {'data'}, 'training': {'data', 'model'},
    'checkpoints': {'training'}, 'evaluation': {'data'}, 'analysis': {'data', 'evaluation'},
    'interpretation': {'data', 'evaluation'}, 'explore': {'evaluation', 'checkpoints'},
    'mistakes': {'evaluation', 'checkpoints', 'analysis', 'explore'},
    'draw': {'data', 'handwriting', 'explore'},
    'classifier': {'data', 'handwriting', 'model', 'training', 'checkpoints', 'evaluation', 'analysis'},
    'cli': {'data', 'handwriting', 'evaluation', 'classifier', 'training', 'checkpoints'},
}
MODULES = sorted(p for p in (ROOT / 'mnist_nb').glob('*.py') if not p.name.startswith('_'))


@pytest.mark.parametrize('script', ['render_readme.py', 'set_owner.py'])
def test_nothing_is_stale(script):
    if script == 'render_readme.py': pytest.importorskip('nbconvert')
    done = python(f'tools/{script}', '--check', cwd=ROOT)
    assert done.returncode == 0, done.stderr


def exported(path):
    "The source of a module without the address of its page, which nbdev 3 adds to the docstring."
    return re.sub(r'\n\nDocs: https://\S+(?=""")', '', path.read_text(encoding='utf-8'))


def test_the_package_is_what_the_notebooks_export(tmp_path):
    pytest.importorskip('nbdev')
    shutil.copytree(ROOT / 'nbs', tmp_path / 'nbs', ignore=shutil.ignore_patterns('images', '.ipynb_checkpoints'))
    shutil.copytree(ROOT / 'mnist_nb', tmp_path / 'mnist_nb', ignore=shutil.ignore_patterns('__pycache__', 'pretrained'))
    for name in 'settings.ini', 'pyproject.toml': shutil.copy(ROOT / name, tmp_path)  # nbdev 2.4 reads the one, nbdev 3 the other
    done = python('-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / 'mnist_nb').glob('*.py'):
        assert exported(path) == exported(ROOT / 'mnist_nb' / path.name), f'{path.name}: run nbdev_export'


@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_imports_run_one_way(path):
    "Each room imports only from those that DESIGN allows, and nothing heavy at the top of a module."
    tree = ast.parse(path.read_text())
    froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    inside = {n.module.split('.')[1] for n in froms if n.module and n.module.startswith('mnist_nb.')}
    inside |= {n.module.split('.')[0] for n in froms if n.level and n.module}
    assert inside <= MAY_IMPORT[path.stem], f'{path.stem} imports {inside - MAY_IMPORT[path.stem]}'
    top = {a.name.split('.')[0] for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    top |= {n.module.split('.')[0] for n in tree.body if isinstance(n, ast.ImportFrom) and not n.level}
    assert top <= {*sys.stdlib_module_names, 'numpy', 'torch', 'fastcore', 'mnist_nb'}, f'{path.stem} imports {top} at its top'
    assert not any(a.name == '*' for n in froms for a in n.names), 'a star import'


def test_a_name_lives_in_one_room():
    homes = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            patched = [d for d in getattr(node, 'decorator_list', []) if 'patch' in ast.unparse(d)]
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_') and not patched:
                homes.setdefault(node.name, []).append(path.stem)
    assert {n: h for n, h in homes.items() if len(h) > 1} == {}


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_clean(path):
    "Outputs from one clean run: none of them an error, a warning, too large, or residue of a progress bar."
    nbformat.validate(nb := nbformat.read(path, as_version=4))
    assert path.stat().st_size < 500_000
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != 'code': continue
        assert cell.execution_count is None, f'cell {i} has an execution count: run nbdev_clean'
        assert len(json.dumps(cell.outputs)) < 100_000, f'cell {i}: a large output'
        for output in cell.outputs:
            assert output.output_type != 'error', f'cell {i} ends in an error'
            assert output.get('name') != 'stderr', f'cell {i} writes to stderr: {output.text[:200]}'
        if any('image/png' in o.get('data', {}) for o in cell.outputs):
            assert re.search(r'^#\|\s*(fig-alt|hide)', cell.source, re.M), f'cell {i}: a figure without alternative text'
    assert all('state' in w for w in nb.metadata.get('widgets', {}).values()), 'GitHub would not show it'


@pytest.mark.parametrize('name', ['05_explore', '05b_mistakes', '05c_draw'])
def test_the_notebook_saves_twins_and_no_widgets(name):
    notebook = nbformat.read(ROOT / f'nbs/{name}.ipynb', as_version=4)
    assert 'widgets' not in notebook.metadata, 'drop metadata.widgets: the site shows the static twins'
    for cell in notebook.cells:
        for output in cell.get('outputs', []):
            assert 'application/vnd.jupyter.widget-view+json' not in output.get('data', {}), f'clear the output of: {cell.source[:60]}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_links_between_notebooks_lead_somewhere(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r'\]\(((?!https?://|#)[^)\s]+)\)', cell.source if cell.cell_type == 'markdown' else ''):
            assert target.startswith('attachment:') or (path.parent / target.split('#')[0]).exists(), target


def test_no_secret_of_a_machine():
    "No path of somebody's machine is in what we commit."
    listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in {'.png', '.pt'} or not path.is_file() or path == Path(__file__).resolve(): continue
        found = re.search(r'/(home|root|Users|work|opt)/\w+', path.read_text(encoding='utf-8'))
        assert not found, f'{name}: {found[0]}'
