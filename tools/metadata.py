"""Carry owner, version and repository from `settings.ini` to the other places that must name them.

    python tools/metadata.py                 rewrite them
    python tools/metadata.py --check         exit with 1 if a place says something else
    python tools/metadata.py --tag v0.1.0    the same, and exit with 1 unless this version is ready to be published

A version is published when its section of CHANGELOG.md has a date, CITATION.cff has the same date, and a tag `v` +
version names the commit. Until then the section's date is "unreleased" and CITATION.cff has none.
"""
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def settings():
    "The values of settings.ini."
    config = ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def released():
    "Version and date of the newest section of the changelog; the date is 'unreleased' before its release."
    text = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    found = re.search(r'^## \[(\d+\.\d+\.\d+)\] - (unreleased|\d{4}-\d\d-\d\d)$', text, re.M)
    if not found: sys.exit('CHANGELOG.md has no section like "## [0.1.0] - unreleased" or "## [0.1.0] - 2026-12-31"')
    return found.groups()


def rewritten():
    "Path -> (text as it is, text as settings.ini wants it)."
    cfg, (_, date) = settings(), released()
    link = re.compile(r'(github\.com/|colab\.research\.google\.com/github/)[\w.-]+/mnist_nb\b')
    def places(text): return link.sub(rf"\g<1>{cfg['user']}/{cfg['repo']}", text)
    def cite(text):
        text = re.sub(r'^version: .*$', f"version: {cfg['version']}", places(text), flags=re.M)
        text = re.sub(r'^date-released: .*\n', '', text, flags=re.M)
        return text if date == 'unreleased' else text.replace('\nlicense:', f'\ndate-released: {date}\nlicense:')
    def project(text):
        pages = f'Documentation = "{cfg["doc_host"]}{cfg["doc_baseurl"]}"'
        return re.sub(r'^Documentation = .*$', pages, places(text), flags=re.M)
    files = {'README.md': places, 'CITATION.cff': cite, 'pyproject.toml': project}
    files |= {str(path.relative_to(ROOT)): places for path in sorted((ROOT / 'nbs').rglob('*.ipynb'))}
    texts = {name: (ROOT / name).read_text(encoding='utf-8') for name in files}
    return {name: (text, files[name](text)) for name, text in texts.items()}


def main(args):
    cfg, (version, date) = settings(), released()
    if version != cfg['version']:
        sys.exit(f"settings.ini has version {cfg['version']}, the newest section of CHANGELOG.md is {version}")
    if args[:1] == ['--tag']:
        if args[1:] != ['v' + version]: sys.exit(f'the tag is {" ".join(args[1:])}, the version {version}')
        if date == 'unreleased': sys.exit(f'CHANGELOG.md says that {version} is unreleased: give its section a date')
    stale = {name: new for name, (old, new) in rewritten().items() if old != new}
    if args and stale: sys.exit(f'other than settings.ini says: {", ".join(stale)}; run python tools/metadata.py')
    for name, text in stale.items(): (ROOT / name).write_text(text, encoding='utf-8')
    agreed = f"every place says {cfg['user']}/{cfg['repo']} {version} ({date})"
    print('rewritten: ' + ', '.join(stale) if stale else agreed)


if __name__ == '__main__': main(sys.argv[1:])
