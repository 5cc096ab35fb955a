# Test the released models against the published table: python tools/verify_coco.py [--data DIR] [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("verify-coco")
