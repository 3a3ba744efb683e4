"Package metadata, read from settings.ini."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

extras = {name.removesuffix('_requirements'): cfg[name].split() for name in cfg if name.endswith('_requirements')}
extras['test'] += extras['draw']  # the pad is tested, too
extras['dev'] = sorted({row for name in ('test', 'nbdev', 'browser', 'lint', 'release') for row in extras[name]})

# PyPI shows README.md away from the repository: its relative links and pictures lead to this version's tag there.
at_tag = {'': f"{cfg['git_url']}/blob/v{cfg['version']}/", '!': f"{cfg['git_url']}/raw/v{cfg['version']}/"}
readme = (here / 'README.md').read_text(encoding='utf-8')
readme = re.sub(r'(!?)(\[[^]]*\]\()(?!https?://|#)', lambda link: link[0] + at_tag[link[1]], readme)

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'],
    long_description=readme, long_description_content_type='text/markdown',
    packages=find_namespace_packages(include=['mnist_nb', 'mnist_nb.*']), package_data={'mnist_nb': ['pretrained/*']},
    python_requires='>=' + cfg['min_python'], install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': ['mnist_nb = mnist_nb.cli:main'], 'nbdev': ['mnist_nb = mnist_nb._modidx:d']},
    classifiers=['Development Status :: 4 - Beta', 'Intended Audience :: Education',
                 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    zip_safe=False,
)
