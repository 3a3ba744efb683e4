"""Render `nbs/index.ipynb` to `README.md` and its pictures to `nbs/images/`.

    python tools/render_readme.py           write them
    python tools/render_readme.py --check   exit with 1 if they are not what the notebook says

nbdev's own command needs Quarto; nbconvert, which the tests install anyway, is enough for one page.
"""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = re.compile(r'^#\|\s*(hide|default_exp)\b', re.M)
NO_SOURCE = re.compile(r'^#\|\s*echo:\s*false\b', re.M)
DIRECTIVE = re.compile(r'^#\|.*\n?', re.M)
ALT = re.compile(r'^#\|\s*fig-alt:\s*(.+)$', re.M)


def for_reading(nb):
    "The notebook as the page shows it: no hidden cells, no directives, a source only where it is meant to be seen."
    nb.metadata['language_info'] = {'name': 'python'}
    nb.cells = [c for c in nb.cells if c.cell_type == 'markdown' or not HIDDEN.search(c.source)]
    for cell in nb.cells:
        alt = ALT.search(cell.source)
        if cell.cell_type == 'code':
            if NO_SOURCE.search(cell.source): cell.metadata['transient'] = {'remove_source': True}
            cell.metadata['alt'] = alt[1].strip('\'"') if alt else ''
            cell.source = DIRECTIVE.sub('', cell.source)
        cell.source = re.sub(r'\]\((?!https?://|#)([\w/]+)\.ipynb\)', r'](nbs/\1.ipynb)', cell.source)
    return nb


def render():
    "The README's text and its pictures, a dict of path to bytes."
    nb = for_reading(nbformat.read(ROOT / 'nbs/index.ipynb', as_version=4))
    alts = [c.metadata['alt'] for c in nb.cells if c.cell_type == 'code'
            for o in c.outputs if 'image/png' in o.get('data', {})]
    text, resources = MarkdownExporter().from_notebook_node(nb)
    pictures = {}
    for number, (name, data) in enumerate(sorted(resources['outputs'].items())):
        path = f'nbs/images/index-{number}.png'
        text = re.sub(rf'!\[[^\]]*\]\({re.escape(name)}\)', lambda _, to=f'![{alts[number]}]({path})': to, text)
        pictures[path] = data
    return re.sub(r'\n(\s*\n)+', '\n\n', text).strip() + '\n', pictures


def main():
    text, pictures = render()
    files = {'README.md': text.encode(), **pictures}
    stale = [name for name, data in files.items() if not (ROOT / name).is_file() or (ROOT / name).read_bytes() != data]
    if '--check' in sys.argv:
        if stale: sys.exit(f"{', '.join(stale)}: not what nbs/index.ipynb says; run python tools/render_readme.py")
        return
    for name in stale:
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(files[name])
    print('written: ' + ', '.join(stale) if stale else 'up to date')


if __name__ == '__main__': main()
