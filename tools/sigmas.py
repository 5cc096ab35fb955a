# Measure OKS sigmas: python tools/sigmas.py --skeleton FILE.yaml ANNOTATIONS ANNOTATIONS… [--write]
from transpose.commands import run

if __name__ == "__main__":
    run("sigmas")
