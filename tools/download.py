# Download weights: python tools/download.py --list | NAME …
from transpose.commands import run

if __name__ == "__main__":
    run("download")
