# Convert weights: python tools/convert.py IN OUT, each a .pth or a .safetensors
from transpose.commands import run

if __name__ == "__main__":
    run("convert")
