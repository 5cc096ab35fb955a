# Draw what a network attends to: python tools/visualize.py IMAGE --model NAME|FOLDER|FILE
from transpose.commands import run

if __name__ == "__main__":
    run("visualize")
