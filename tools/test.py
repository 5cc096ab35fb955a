# Test a model: python tools/test.py --cfg experiments/….yaml [TEST.MODEL_FILE FILE] [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("test")
