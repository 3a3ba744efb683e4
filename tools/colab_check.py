"""Would installing `.[test]` on Google Colab replace one of its packages?

    python tools/colab_check.py          asks pip to resolve for Colab's Python and its list of packages

Colab's list is `tests/colab-2026-08-19.txt` (`pip freeze` of a GPU runtime); its file name says how old it is.
torch and torchvision, built for CUDA there, are compared with our lower bounds instead of being resolved.
"""
import json
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHON = '3.13'


def colab_versions():
    "Package -> version on Colab, without the local part that names the CUDA release."
    rows = [row.split('==') for row in (ROOT / 'tests/colab-2026-08-19.txt').read_text().split() if '==' in row]
    return {canonicalize_name(name): version.split('+')[0] for name, version in rows}


def wanted():
    "What `.[test]` asks for directly."
    config = ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    groups = 'requirements', 'draw_requirements', 'test_requirements'
    return [Requirement(row) for group in groups for row in config['DEFAULT'][group].split()]


def resolved(requirements, constraints):
    "Package -> version that pip would install on a bare machine; stops where it finds no solution."
    with TemporaryDirectory() as folder:
        fixed, report = Path(folder, 'constraints.txt'), Path(folder, 'report.json')
        fixed.write_text(''.join(f'{name}=={version}\n' for name, version in constraints.items()))
        command = ['install', '--quiet', '--dry-run', '--ignore-installed', '--only-binary=:all:', '--python-version',
                   PYTHON, '--target', f'{folder}/target', '--constraint', fixed, '--report', report]
        subprocess.run([sys.executable, '-m', 'pip', *command, *map(str, requirements)], check=True)
        found = [row['metadata'] for row in json.loads(report.read_text())['install']]
    return {canonicalize_name(row['name']): row['version'] for row in found}


def main():
    there, rows = colab_versions(), wanted()
    too_old = [f'{row} ({there[row.name]})' for row in rows
               if row.name in there and not row.specifier.contains(there[row.name])]
    if too_old: sys.exit(f'Colab would have to replace: {", ".join(too_old)}')
    cuda = 'torch', 'torchvision'
    free = {name: version for name, version in there.items() if name not in cuda and not name.startswith('nvidia')}
    found = resolved([row for row in rows if row.name not in cuda], free)
    new = sorted(found.keys() - there.keys())
    print(f'Colab replaces nothing: {len(found) - len(new)} packages are there, new: {", ".join(new) or "none"}')


if __name__ == '__main__': main()
