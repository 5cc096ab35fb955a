# Draw a results file: python tools/draw_results.py --cfg experiments/….yaml --results FILE.json [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("draw")
