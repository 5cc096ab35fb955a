# Train a model and validate it: python tools/train.py --cfg experiments/….yaml [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("train")
