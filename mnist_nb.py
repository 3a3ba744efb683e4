"Train and score the digit classifier: `python mnist_nb.py` is `mnist_nb train`. (Imports find the package instead.)"
import sys

from mnist_nb.cli import main

if __name__ == '__main__': sys.exit(main(sys.argv[1:] or ['train']))
