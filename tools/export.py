# Export a trained network: python tools/export.py --model SOURCE --format onnx
from transpose.commands import run

if __name__ == "__main__":
    run("export")
