"`python -m mnist_nb` is the command `mnist_nb`."
import sys

from mnist_nb.cli import main

if __name__ == "__main__": sys.exit(main())
