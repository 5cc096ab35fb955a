"""The default detector on the bundled images: what it finds, and the time beside its network.

PYTHONPATH=tools python -m benchmarks.detector: its weights are downloaded on first use.
"""

import contextlib
import io
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import iou

from benchmarks.report import IMAGES, REPOSITORY
from transpose.predictor import yolox
from transpose.predictor.detector import CLASSES, DEFAULT, PERSON, published

LOWEST = 0.01  # score of the boxes that count for AP
SURE = 0.3  # score of the boxes that are counted
MATCHED = 0.5  # IoU with an annotated person, or the part that lies in a crowd
RUNS = 15


def milliseconds(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def box_ap(truth: COCO, results: list[dict]) -> float:
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.catIds = [1]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def main() -> None:
    detector = yolox.Yolox(published(DEFAULT), yolox.SIZES[DEFAULT], CLASSES.index(PERSON), LOWEST)
    results, found, persons, unmatched, counted, ratios = [], 0, 0, 0, 0, []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(REPOSITORY / "data/coco_sample/annotations/person_keypoints_val2017.json"))
    for number, about in truth.imgs.items():
        pixels = cv2.imread(str(IMAGES / about["file_name"]), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        boxes, scores = detector(pixels)
        results += [
            {"image_id": number, "category_id": 1, "bbox": box.tolist(), "score": float(score)}
            for box, score in zip(boxes, scores, strict=True)
        ]
        annotated = truth.imgToAnns[number]
        overlaps = iou(
            boxes[scores >= SURE],
            np.array([each["bbox"] for each in annotated]),
            [each["iscrowd"] for each in annotated],
        )
        overlaps = np.reshape(overlaps, (-1, len(annotated)))
        labelled = np.array([each["num_keypoints"] > 0 and not each["iscrowd"] for each in annotated])
        found += int((overlaps.max(0, initial=0) >= MATCHED)[labelled].sum())
        persons += int(labelled.sum())
        unmatched += int((overlaps.max(1, initial=0) < MATCHED).sum())
        counted += len(overlaps)
        ratios.append(milliseconds(lambda p=pixels: detector(p)) / milliseconds(detector.network.forward))
    with contextlib.redirect_stdout(io.StringIO()):
        ap = box_ap(truth, results)
    print(f"{DEFAULT}: {found} of {persons} persons with keypoints are found (a box of IoU {MATCHED} or more)")
    print(
        f"{unmatched} of {counted} boxes scored {SURE} or more match no annotated person and no crowd; box AP {ap:.3f}"
    )
    print(f"an image takes {statistics.median(ratios):.2f} times as long as the network alone")


if __name__ == "__main__":
    main()
