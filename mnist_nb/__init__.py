"Handwritten digit recognition, taught in notebooks and shipped as a library."
__version__ = "0.1.0"
__all__ = ["MNISTClassifier", "MNISTNet", "load_mnist"]

_homes = {"MNISTClassifier": "classifier", "MNISTNet": "model", "load_mnist": "data"}


def __getattr__(name):
    "Load a top-level name from its module on first use (PEP 562), so that `import mnist_nb` stays quick."
    if name not in _homes: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    value = globals()[name] = getattr(import_module(f"{__name__}.{_homes[name]}"), name)
    return value


def __dir__(): return sorted({*globals(), *__all__})
