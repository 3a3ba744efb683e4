"What the package tells pip and PyPI: requirements, extras, version, and a README whose links work away from the repository."
import re
import subprocess
import sys
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mnist_nb

ROOT = Path(__file__).resolve().parents[1]


def wanted(extra=''):
    "Names that installing the package with this extra brings in."
    rows = [Requirement(row) for row in requires('mnist_nb')]
    return {row.name for row in rows if row.marker is None or row.marker.evaluate({'extra': extra})}


def test_users_and_tests_get_any_fastcore_and_no_nbdev():
    assert 'nbdev' not in wanted('test') and {'pytest', 'anywidget'} <= wanted('test')
    assert {'nbdev', 'execnb', 'ghapi'} <= wanted('nbdev')
    assert Requirement(next(row for row in requires('mnist_nb') if row.startswith('fastcore') and 'extra' not in row)).specifier.contains('2.2')


def test_every_library_that_the_package_imports_is_required():
    code = '\n'.join(path.read_text(encoding='utf-8') for path in (ROOT / 'mnist_nb').glob('*.py'))
    imported = set(re.findall(r'^\s*(?:from|import) (\w+)', code, re.M)) - set(sys.stdlib_module_names) - {'mnist_nb'}
    names = {'PIL': 'pillow', 'sklearn': 'scikit-learn', 'IPython': 'ipywidgets', 'traitlets': 'ipywidgets'}  # the last two come with it
    assert {names.get(name, name) for name in imported} <= wanted('draw')


def test_the_readme_on_pypi_has_no_relative_link_and_each_file_that_it_links_is_there():
    text = metadata('mnist_nb').get_payload() or metadata('mnist_nb')['Description']
    assert re.findall(r'\]\((?!https?://|#)[^)]*', text) == []
    linked = re.findall(rf"\]\(https://github\.com/[\w.-]+/mnist_nb/(?:blob|raw)/v{re.escape(version('mnist_nb'))}/([^)#]+)", text)
    assert len(linked) > 10 and [path for path in linked if not (ROOT / path).exists()] == []


def test_version_is_one():
    assert version('mnist_nb') == mnist_nb.__version__


@pytest.mark.parametrize('arguments, message', [
    (['--check'], ''), (['--tag', 'v9.9.9'], 'the tag is v9.9.9')])
def test_settings_changelog_citation_and_tag_tell_one_story(arguments, message):
    done = subprocess.run([sys.executable, 'tools/metadata.py', *arguments], cwd=ROOT, capture_output=True, text=True)
    assert message in done.stderr and (done.returncode == 0) == (not message), done.stderr
