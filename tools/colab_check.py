"""Would installing `.[test]` on Google Colab replace one of its packages?

    python tools/colab_check.py          asks pip to resolve for Colab's Python and its list of packages

Colab's list is `tests/colab-2026-08-19.txt` (`pip freeze` of a GPU runtime); its file name says how old it is.
torch and torchvision, built for CUDA there, are compared with our lower bounds instead of being resolved.
"""
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PYTHON = '3.13'


def colab_versions():
    "Package -> version on Colab, without the local part that names the CUDA release."
    rows = (ROOT / 'tests/colab-2026-08-19.txt').read_text().split()
    return {re.sub('[-_.]+', '-', name).lower(): version.split('+')[0] for name, _, version in (row.partition('==') for row in rows) if version}


def main():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    wanted = [r for name in ('requirements', 'draw_requirements', 'test_requirements') for r in config['DEFAULT'][name].split()]
    there = colab_versions()
    too_old = [f'{r}: Colab has {there[Requirement(r).name]}' for r in wanted
               if Requirement(r).name in there and not Requirement(r).specifier.contains(there[Requirement(r).name])]
    if too_old: sys.exit('Colab would have to replace: ' + ', '.join(too_old))
    with TemporaryDirectory() as folder:
        constraints, report = Path(folder, 'constraints.txt'), Path(folder, 'report.json')
        constraints.write_text(''.join(f'{name}=={version}\n' for name, version in there.items() if not name.startswith(('nvidia', 'torch'))))
        subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--dry-run', '--ignore-installed', '--only-binary=:all:',
                        '--python-version', PYTHON, '--target', str(Path(folder, 'target')), '--constraint', str(constraints), '--report', str(report),
                        *(r for r in wanted if not r.startswith('torch'))], check=True)
        found = {re.sub('[-_.]+', '-', row['metadata']['name']).lower(): row['metadata']['version'] for row in json.loads(report.read_text())['install']}
    new = sorted(set(found) - set(there))
    print(f'Colab replaces nothing: {len(found) - len(new)} packages are there already, new are {", ".join(new) or "none"}')


if __name__ == '__main__': main()
