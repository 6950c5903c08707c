from benchmarks.scale.methods import METHODS

ALL = METHODS
