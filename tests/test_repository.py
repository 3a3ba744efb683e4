"""What holds the repository together: notebooks, package, README and links say the same."""
import ast
import json
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, python

NOTEBOOKS = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(ROOT).parts))
ORDER = ['files', 'data', 'layers', 'model', 'training', 'processes', 'checkpoints', 'evaluation', 'pictures', 'handwriting', 'analysis', 'interpretation',
         'marks', 'widgets', 'classifier', 'bench', 'cli', 'exercises']  # each module may import those that stand before it
MODULES = sorted(p for p in (ROOT / 'mnist_nb').rglob('*.py') if not p.name.startswith('_'))


def test_the_readme_is_rendered():
    done = python('tools/render_readme.py', '--check', cwd=ROOT)
    assert done.returncode == 0, done.stderr


def module_text(path):
    "The source of a module without the address of its page, which nbdev 3 adds to the docstring."
    return re.sub(r'\n\nDocs: https://\S+(?=""")', '', path.read_text(encoding='utf-8'))


def test_the_package_is_what_the_notebooks_export(tmp_path):
    pytest.importorskip('nbdev')
    shutil.copytree(ROOT / 'nbs', tmp_path / 'nbs', ignore=shutil.ignore_patterns('images', '.ipynb_checkpoints'))
    shutil.copytree(ROOT / 'mnist_nb', tmp_path / 'mnist_nb', ignore=shutil.ignore_patterns('__pycache__', 'pretrained'))
    for name in 'settings.ini', 'pyproject.toml': shutil.copy(ROOT / name, tmp_path)  # nbdev 2.4 reads the one, nbdev 3 the other
    done = python('-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / 'mnist_nb').rglob('*.py'):
        name = path.relative_to(tmp_path)
        assert module_text(path) == module_text(ROOT / name), f'{name}: run nbdev_export'


def place(path):
    "Where a module stands in the order: its own name, or that of its subpackage."
    return path.relative_to(ROOT / 'mnist_nb').parts[0].removesuffix('.py')


def modules_of(froms, here=''):
    "The modules of the package that these imports name; `here` is the subpackage that they stand in."
    names = set()
    for node in froms:
        home = 'mnist_nb.exercises' if here == 'exercises' and node.level == 1 else 'mnist_nb'
        path = f'{home}.{node.module or ""}'.rstrip('.') if node.level else node.module
        package, _, module = path.partition('.')
        if package != 'mnist_nb': continue
        names |= {module.split('.')[0]} if module else {alias.name for alias in node.names} & {*ORDER}
    return names


def test_the_order_names_every_module():
    assert sorted(ORDER) == sorted({place(path) for path in MODULES})


@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_imports_run_one_way(path):
    "Each module imports only those before it in the order, and nothing heavy at its top."
    tree = ast.parse(path.read_text())
    froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    allowed = ORDER[:ORDER.index(place(path)) + (place(path) == 'exercises')]
    assert modules_of(froms, place(path)) <= set(allowed), f'{path.stem} imports {modules_of(froms, place(path)) - set(allowed)}'
    if path.stem == 'classifier':  # the widgets load only where the classifier shows them
        at_top = modules_of(n for n in tree.body if isinstance(n, ast.ImportFrom))
        assert 'widgets' not in at_top, 'classifier imports widgets outside a function'
    top = {a.name.split('.')[0] for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    top |= {n.module.split('.')[0] for n in tree.body if isinstance(n, ast.ImportFrom) and not n.level}
    light = {*sys.stdlib_module_names, 'numpy', 'torch', 'fastcore', 'mnist_nb'}
    if place(path) == 'exercises': light |= {'scipy', 'sklearn'}  # they are loaded with a lesson, not with the package
    assert top <= light, f'{path.stem} imports {top} at its top'
    assert not any(a.name == '*' for n in froms for a in n.names), 'a star import'


def test_a_name_lives_in_one_module():
    homes = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            patched = [d for d in getattr(node, 'decorator_list', []) if 'patch' in ast.unparse(d)]
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_') and not patched:
                homes.setdefault(node.name, []).append(path.stem)
    assert {n: h for n, h in homes.items() if len(h) > 1} == {}


def notebook_of(path):
    "The notebook that a module is written from."
    return ROOT / 'nbs' / re.search(r'File to edit: (?:\.\./)+nbs/(\S+\.ipynb)', path.read_text())[1]


def functions(tree):
    "Functions and methods of a module but for solutions of exercises: name and node; `@patch` has the class of its self."
    for node in tree.body:
        if any('exercise(' in ast.unparse(decorator) for decorator in getattr(node, 'decorator_list', [])): continue
        if isinstance(node, ast.ClassDef):
            yield from ((f'{node.name}.{part.name}', part) for part in node.body if isinstance(part, ast.FunctionDef))
        if isinstance(node, ast.FunctionDef):
            patched = any('patch' in ast.unparse(decorator) for decorator in node.decorator_list)
            yield (f'{ast.unparse(node.args.args[0].annotation)}.' if patched else '') + node.name, node


def is_public(name): return all(part[0] != '_' or part[:2] == part[-2:] == '__' for part in name.split('.'))


@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_public_functions_are_annotated(path):
    "The site's tables, and editors, say what each parameter is and what comes back."
    lacking = []
    for name, node in functions(ast.parse(path.read_text())):
        arguments = [*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
        bare = [a.arg for a in arguments if a and not a.annotation and a.arg not in ('self', 'cls')]
        if is_public(name) and (bare or node.returns is None): lacking.append((name, bare or 'what it returns'))
    assert not lacking


@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_the_site_can_evaluate_annotations(path):
    "nbdev evaluates them in the notebook, where what the module imports for type checkers only must be imported, too."
    names = {alias.asname or alias.name for node in ast.parse(path.read_text()).body
             if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
             for part in node.body for alias in part.names}
    for cell in nbformat.read(notebook_of(path), as_version=4).cells:
        if cell.cell_type != 'code' or not names: continue
        if cell.source.startswith('#| export') and 'TYPE_CHECKING' not in cell.source: break  # definitions begin
        if cell.source.startswith('#| export'): continue
        code = ast.parse(re.sub(r'^(\s*)[%!].*', r'\1pass', cell.source, flags=re.M))
        imports = [node for node in ast.walk(code) if isinstance(node, (ast.Import, ast.ImportFrom))]
        names -= {alias.asname or alias.name for node in imports for alias in node.names}
    assert not names, f'{notebook_of(path).name} imports them too late or never'


@pytest.mark.parametrize('path', [path for path in MODULES if place(path) != 'exercises'], ids=lambda p: p.stem)
def test_lines_of_the_package_are_short(path):
    "Up to 120 characters, but for what nbdev writes and for style sheets."
    text, free = path.read_text(), set()
    for node in ast.parse(text).body:
        written = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__'
        sheet = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        if written or sheet: free |= set(range(node.lineno, node.end_lineno + 1))
    assert not [f'{n}: {line}' for n, line in enumerate(text.splitlines(), 1) if len(line) > 120 and n not in free]


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


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_that_only_check_are_collapsed_and_have_a_title(path):
    "In JupyterLab and in Colab; the site leaves them out."
    for cell in nbformat.read(path, as_version=4).cells:
        if not re.match(r'#\|\s*hide\s*$', cell.source, re.M): continue
        assert cell.metadata == {'cellView': 'form', 'jupyter': {'source_hidden': True}}, cell.source[:80]
        assert re.search(r'^#@title \w', cell.source, re.M), cell.source[:80]


RETIRED = {  # words that the course gave up: what it says instead
    r'(?<!standard )deviations?': 'standard deviation', r'shares? of': 'fraction of', r'first weights': 'initial weights',
    r'dice': 'random number generator', r'twins?': 'static export', r'leaf(?:s|ed|ing)? through': 'page through',
    r'bravado': 'overconfident', r'modesty': 'underconfident', r'whoever|whom|somebody': 'anyone, or who is meant',
    r'anew': 'again', r'hence': 'so', r'shall': 'must, or will', r'(?:is|are) none|are no(?! longer| more)': 'no ... is, or there is no',
    r"(?:can't|cannot) be meant": 'what is refused, and why',
    r'grey\w*|colour\w*|centre[ds]?|neighbour\w*|labelled|labelling|'
    r'(?:normal|initial|general|visual|final|serial|special|recogn|optim|minim|maxim|summar|organ)is(?:e[ds]?|ing|ation)':
        'American spelling'}


def retired_words(text):
    "Pairs of a retired word, not as a part of a name, and what to say instead."
    for words, better in RETIRED.items():
        for hit in re.finditer(rf'(?<![\w.#-])(?:{words})(?![\w-])', text, re.I): yield hit[0], better


def prose_of_notebook(path):
    "The text of markdown cells without code and addresses."
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == 'markdown': yield f'cell {number}', re.sub(r'```.*?```|`[^`]*`|(?<=\])\([^)]*\)', '', cell.source, flags=re.S)


def prose_of_module(path):
    "Docstrings, messages and comments, which say on the site what a parameter means."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        sheet = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count('\n') > 20
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not sheet: yield f'line {node.lineno}', node.value
    with path.open(encoding='utf-8') as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT: yield f'line {token.start[0]}', token.string


def test_retired_words_are_found():
    text = 'Whoever sees a grey twin measures the deviation, not the standard deviation; a share of the share memory.'
    assert sorted(word for word, _ in retired_words(text)) == ['Whoever', 'deviation', 'grey', 'share of', 'twin']


@pytest.mark.parametrize('path', [*NOTEBOOKS, *MODULES, ROOT / 'README.md'], ids=lambda p: str(p.relative_to(ROOT)))
def test_retired_words_are_gone(path):
    "One word for one thing: the glossary of the index is the list. The widgets follow when they are rebuilt."
    if path.stem == 'widgets': pytest.skip('the explorers are rebuilt by an issue of their own')
    texts = {'.ipynb': prose_of_notebook, '.py': prose_of_module}.get(path.suffix, lambda p: [('text', p.read_text(encoding='utf-8'))])
    found = [f'{place}: {word!r}, say {better}' for place, text in texts(path) for word, better in retired_words(text)]
    assert not found, '\n'.join(found)


def test_words_of_the_glossary_occur_in_the_lessons():
    index = '\n'.join(cell.source for cell in nbformat.read(ROOT / 'nbs/index.ipynb', as_version=4).cells)
    words = re.findall(r'^\| ([^|]+?) \|', index.split('## Glossary')[1].split('## If')[0], re.M)[1:]
    lessons = ' '.join(text for path in NOTEBOOKS if path.name[0] == '0' and path.parent.name == 'nbs'
                       for _, text in prose_of_notebook(path)).lower()
    missing = [term for row in words for term in row.split(', ') if term.removeprefix('its ').rstrip('s') not in lessons]
    assert len(words) > 30
    assert missing == []


@pytest.mark.parametrize('name', ['09_explore', 'library/marks', 'library/widgets'])
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
    if not (ROOT / '.git').exists(): pytest.skip('only a checkout knows what is committed')
    listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in {'.png', '.pt'} or not path.is_file() or path == Path(__file__).resolve(): continue
        found = re.search(r'/(home|root|Users|work|opt)/\w+', path.read_text(encoding='utf-8'))
        assert not found, f'{name}: {found[0]}'
