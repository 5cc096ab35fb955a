# Find boxes: python tools/detect.py SOURCE… --out FILE.json
from transpose.commands import run

if __name__ == "__main__":
    run("detect")
