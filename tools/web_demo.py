# Show a web page of predictions and attention: python tools/web_demo.py --model NAME|FOLDER|FILE
from transpose.commands import run

if __name__ == "__main__":
    run("web")
