"""Every exercise of the course: what it promises, and where it stands."""
import re
from collections import Counter

import nbformat
import pytest
from helpers import ROOT

from mnist_nb import exercises
from mnist_nb.exercises.core import Exercise, promises

EXERCISES = {name: value for name, value in vars(exercises).items() if isinstance(value, Exercise)}
LESSONS = sorted((ROOT / 'nbs').glob('0*.ipynb'))


def starters(path):
    "The exercises that a lesson asks for: pairs of a name and the text that its starter cell has printed."
    for cell in nbformat.read(path, as_version=4).cells:
        named = re.search(r'from mnist_nb\.exercises import (\w+) as ex\b', cell.source)
        if cell.cell_type == 'code' and named:
            yield named[1], ''.join(output.get('text', '') for output in cell.outputs)


@pytest.mark.parametrize('name', EXERCISES)
def test_the_solution_passes_and_typical_mistakes_are_recognized(name):
    assert promises(EXERCISES[name]) == []


@pytest.mark.parametrize('path', LESSONS, ids=lambda p: p.stem)
def test_a_lesson_has_three_to_five_exercises_not_attempted_yet(path):
    found = list(starters(path))
    assert 3 <= len(found) <= 5
    for name, text in found: assert text.startswith('Not attempted yet'), f'{name}: {text}'


def test_each_exercise_is_asked_for_in_one_lesson():
    assert Counter(name for path in LESSONS for name, _ in starters(path)) == Counter(list(EXERCISES))
