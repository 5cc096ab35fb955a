# Measure attention over a data set: python tools/attention_stats.py --cfg experiments/….yaml [KEY VALUE …]
from transpose.commands import run

if __name__ == "__main__":
    run("attention-stats")
