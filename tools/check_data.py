# Check the data that a configuration names: python tools/check_data.py --cfg experiments/….yaml [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("check-data")
