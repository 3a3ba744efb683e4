"The exercises of the course, one object each: `.check(answer)`, `.hint()`, `.solution()`."
from mnist_nb.exercises.start import *
from mnist_nb.exercises.data import *
from mnist_nb.exercises.model import *
from mnist_nb.exercises.learning import *
from mnist_nb.exercises.training import *
from mnist_nb.exercises.evaluation import *
from mnist_nb.exercises.analysis import *
from mnist_nb.exercises.interpretation import *
from mnist_nb.exercises.handwriting import *
from mnist_nb.exercises.explore import *
