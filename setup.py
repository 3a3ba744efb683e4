"Package metadata, read from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
extras = {name: cfg[f'{name}_requirements'].split() for name in ('draw', 'test', 'browser')}
extras['test'] += extras['draw']  # the pad is tested, too
extras['dev'] = sorted({requirement for group in extras.values() for requirement in group} | {'jupyterlab>=4'})

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], license='MIT', url=cfg['git_url'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['mnist_nb', 'mnist_nb.*']), package_data={'mnist_nb': ['pretrained/*']},
    python_requires='>=' + cfg['min_python'], install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': ['mnist_nb = mnist_nb.cli:main'], 'nbdev': ['mnist_nb = mnist_nb._modidx:d']},
    classifiers=['Development Status :: 4 - Beta', 'Intended Audience :: Education',
                 'Programming Language :: Python :: 3',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    zip_safe=False,
)
