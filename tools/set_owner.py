"""Carry the owner's name from `settings.ini` into the links of the notebooks and the citation.

    python tools/set_owner.py           rewrite them
    python tools/set_owner.py --check   exit with 1 if a link names somebody else

`user` and `repo` in `settings.ini` are the only place where a person writes them.
"""
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r'(github\.com/|colab\.research\.google\.com/github/)[\w.-]+/mnist_nb\b')


def main():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    owner = config['DEFAULT']['user']
    stale = []
    for path in [ROOT / 'README.md', *sorted((ROOT / 'nbs').rglob('*.ipynb'))]:
        text = path.read_text(encoding='utf-8')
        new = LINK.sub(rf'\g<1>{owner}/mnist_nb', text)
        if new == text: continue
        stale.append(str(path.relative_to(ROOT)))
        if '--check' not in sys.argv: path.write_text(new, encoding='utf-8')
    if '--check' in sys.argv and stale: sys.exit(f"links of another owner than {owner} in: {', '.join(stale)}")
    print('rewritten: ' + ', '.join(stale) if stale else f'every link names {owner}')


if __name__ == '__main__': main()
