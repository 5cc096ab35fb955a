# Report what costs AP: python tools/analyze.py --cfg experiments/….yaml --results FILE.json [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("analyze")
