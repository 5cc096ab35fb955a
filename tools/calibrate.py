# Fit confidence and covariance: python tools/calibrate.py --cfg experiments/….yaml [--held-out SET] [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("calibrate")
