# Find keypoints: python tools/predict.py SOURCE… --model NAME|FOLDER|FILE [--boxes FILE] [--out DIR] [--save FORM …]
from transpose.commands import run

if __name__ == "__main__":
    run("predict")
