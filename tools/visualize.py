# Draw what a network attends to: python tools/visualize.py --model NAME|FOLDER|FILE --image FILE
from transpose.commands import run

if __name__ == "__main__":
    run("visualize")
