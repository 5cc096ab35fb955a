# Measure speed: python tools/benchmark.py --stages | --models
from transpose.commands import run

if __name__ == "__main__":
    run("benchmark")
