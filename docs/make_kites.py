"""Draw images of kites and the annotations that an annotation tool would export: python docs/make_kites.py FOLDER

The running example of docs/custom-dataset.md. FOLDER gets photos/ with two shots of each scene, "kite 07-a.png" and
"kite 07-b.png", and kites.json, COCO's format: kites with five keypoints, and balloons with a box alone.
Coordinates are pixels, x to the right and y down; colours are OpenCV's blue, green, red.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT = 384, 288
SHOTS = "ab"
NAMES = ["top", "left_wing", "right_wing", "tail", "centre"]
TOP, LEFT, RIGHT, TAIL, CENTRE = range(5)
SPARS = [(TOP, CENTRE), (CENTRE, TAIL), (LEFT, CENTRE), (CENTRE, RIGHT)]
OUTLINE = [TOP, LEFT, TAIL, RIGHT]
BALLOON, KITE = 3, 7
CATEGORIES = [
    {"id": BALLOON, "name": "balloon"},
    {"id": KITE, "name": "kite", "keypoints": NAMES, "skeleton": [[a + 1, b + 1] for a, b in SPARS]},
]
HIDDEN, SEEN = 1, 2  # visibility of a keypoint that something covers, and of one in plain sight


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw images of kites with COCO keypoint annotations.")
    parser.add_argument("folder", type=Path, help="a new folder for photos/ and kites.json")
    parser.add_argument("--scenes", type=int, default=100, metavar="N", help="two images each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another set (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        parser.error(f"{arguments.folder} is not empty: name a new folder, or move it away")
    photos = arguments.folder / "photos"
    photos.mkdir(parents=True)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for scene in range(1, arguments.scenes + 1):
        background = landscape(np.random.default_rng((arguments.seed, scene)))
        for number, shot in enumerate(SHOTS):
            draw = np.random.default_rng((arguments.seed, scene, 1 + number))
            image, things = draw_scene(background, draw)
            name, image_id = f"kite {scene:02d}-{shot}.png", 1000 + 10 * scene + number
            (photos / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
            images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for thing in things:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0} | thing)
    content = {"images": images, "categories": CATEGORIES, "annotations": annotations}
    (arguments.folder / "kites.json").write_text(json.dumps(content))
    kites = sum(annotation["category_id"] == KITE for annotation in annotations)
    print(f"{arguments.folder}: {kites} kites and {len(annotations) - kites} balloons in {len(images)} images")


def draw_scene(background: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One shot of a scene, and its annotations but for their ids."""
    image = background.copy()
    things = [balloon(image, draw) for _ in range(draw.integers(0, 3))]
    flock = place_kites(draw)
    covered = np.zeros((len(flock), HEIGHT, WIDTH), bool)  # what hides each kite
    for number, points in enumerate(flock):
        before = image.copy()
        draw_kite(image, points, draw)
        covered[:number] |= (image != before).any(-1)
    for _ in range(draw.integers(2, 6)):
        before = image.copy()
        draw_leaf(image, draw)
        covered |= (image != before).any(-1)
    for points, hidden in zip(flock, covered, strict=True):
        things.append(annotation_of(points, hidden))
    image = cv2.GaussianBlur(image, (0, 0), draw.uniform(0.4, 1.0)) * draw.uniform(0.8, 1.1)
    grain = 5 * draw.standard_normal(image.shape, np.float32)
    return (image + grain).clip(0, 255).astype(np.uint8), things


def landscape(draw: np.random.Generator) -> np.ndarray:
    """Sky with clouds, wooded hills, houses and grass: (HEIGHT, WIDTH, 3) uint8."""
    high, low = np.array(draw.uniform((140, 80, 20), (255, 180, 120))), np.array(draw.uniform(150, 240, 3))
    down = np.linspace(0, 1, HEIGHT)[:, None, None]
    image = high * (1 - down) + low * down
    clouds = np.clip(0.6 * noise(draw, 5) + 0.4 * noise(draw, 14) - draw.uniform(0.3, 0.6), 0, 1)[..., None] * 2
    image = image + (draw.uniform(200, 255) - image) * np.clip(clouds, 0, 0.9)
    for step in range(3):
        ridge = HEIGHT * (0.62 + 0.12 * step) - 70 * noise(draw, 4 + 3 * step)[0]
        below = np.arange(HEIGHT)[:, None] > ridge
        ground = draw.uniform((20, 60, 40), (90, 150, 110)) * (0.5 + noise(draw, 60))[..., None]
        image = np.where(below[..., None], ground, image)
    image = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
    for _ in range(draw.integers(2, 7)):
        x, y = draw.integers(0, WIDTH), draw.integers(HEIGHT * 3 // 5, HEIGHT)
        width, height = draw.integers(15, 50, 2)
        wall, roof = colour(draw, 0.2), colour(draw, 0.6)
        cv2.rectangle(image, (x, y), (x + width, y + height), wall, cv2.FILLED)
        gable = np.array([(x - 4, y), (x + width + 4, y), (x + width // 2, y - height // 2)])
        cv2.fillPoly(image, [gable.astype(np.int32)], roof, cv2.LINE_AA)
    return image


def noise(draw: np.random.Generator, cells: int) -> np.ndarray:
    """(HEIGHT, WIDTH) from 0 to 1, smooth, with about `cells` hills across."""
    coarse = draw.random((max(2, cells * HEIGHT // WIDTH), cells)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def colour(draw: np.random.Generator, saturation: float) -> tuple[int, ...]:
    hsv = np.uint8([[[draw.integers(180), 255 * saturation, draw.integers(110, 256)]]])
    return tuple(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist())


def place_kites(draw: np.random.Generator) -> list[np.ndarray]:
    """Keypoints (5, 2) of two to four kites whose centres keep their distance."""
    flock: list[np.ndarray] = []
    wanted = draw.integers(2, 5)
    for _ in range(100):
        if len(flock) == wanted:
            break
        points = kite(draw)
        lengths = [math.dist(other[TOP], other[TAIL]) for other in (points, *flock)]
        if all(
            math.dist(points[CENTRE], other[CENTRE]) > 0.4 * (lengths[0] + length)
            for other, length in zip(flock, lengths[1:], strict=True)
        ):
            flock.append(points)
    return flock


def kite(draw: np.random.Generator) -> np.ndarray:
    """Keypoints (5, 2) of one kite: like a person who faces us, it has its left on our right when it stands upright."""
    length = draw.uniform(50, 150)
    above, wing = draw.uniform(0.28, 0.4), draw.uniform(0.3, 0.42)
    points = np.zeros((5, 2))
    points[TOP], points[TAIL] = (0, -above), (0, 1 - above)
    points[LEFT], points[RIGHT] = (wing, 0), (-wing, 0)
    points[[LEFT, RIGHT], 1] += draw.uniform(-0.05, 0.05, 2)
    foreshorten = np.array([[draw.uniform(0.75, 1), draw.uniform(-0.2, 0.2)], [draw.uniform(-0.2, 0.2), 1]])
    angle = math.radians(draw.uniform(-60, 60))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    place = draw.uniform((25, 25), (WIDTH - 25, HEIGHT - 40))
    return length * points @ foreshorten.T @ turn.T + place


def draw_kite(image: np.ndarray, points: np.ndarray, draw: np.random.Generator) -> None:
    """Four panels in two or three colours, spars, and a ribbon with bows at the tail."""
    length = math.dist(points[TOP], points[TAIL])
    ribbon_colour, spar_colour = colour(draw, 0.8), tuple(draw.integers(10, 90, 3).tolist())
    along = (points[TAIL] - points[CENTRE]) / math.dist(points[TAIL], points[CENTRE])
    across = np.array([-along[1], along[0]])
    way = np.linspace(0, draw.uniform(0.4, 1) * length, 24)
    swing = draw.uniform(0.05, 0.12) * length * np.sin(way / length * 12) * way / way[-1]
    ribbon = points[TAIL] + way[:, None] * along + swing[:, None] * across
    cv2.polylines(image, [pixels(ribbon)], False, ribbon_colour, max(1, round(length / 60)), cv2.LINE_AA)
    for bow in ribbon[6::6]:
        cv2.circle(image, pixels(bow).tolist(), max(2, round(length / 35)), ribbon_colour, cv2.FILLED, cv2.LINE_AA)
    cloth = [colour(draw, draw.uniform(0.5, 1)) for _ in range(3)]
    for first, second in zip(OUTLINE, OUTLINE[1:] + OUTLINE[:1], strict=True):
        panel = cloth[draw.integers(len(cloth))]
        cv2.fillPoly(image, [pixels(points[[CENTRE, first, second]])], panel, cv2.LINE_AA)
    for start, end in SPARS:
        width = max(1, round(length / 50))
        cv2.line(image, pixels(points[start]).tolist(), pixels(points[end]).tolist(), spar_colour, width, cv2.LINE_AA)


def draw_leaf(image: np.ndarray, draw: np.random.Generator) -> None:
    """A leaf that hangs into the picture, near the camera."""
    place, size = draw.integers((0, 0), (WIDTH, HEIGHT)).tolist(), draw.integers(6, 26)
    green = tuple(draw.integers((20, 70, 20), (80, 160, 90)).tolist())
    axes = (int(size), int(size * draw.uniform(0.3, 0.6)))
    cv2.ellipse(image, place, axes, draw.uniform(0, 180), 0, 360, green, cv2.FILLED, cv2.LINE_AA)


def balloon(image: np.ndarray, draw: np.random.Generator) -> dict[str, Any]:
    """Draw a balloon; its annotation has a box and no keypoints."""
    radius = int(draw.integers(8, 26))
    x, y = draw.integers((radius, radius), (WIDTH - radius, HEIGHT - 2 * radius)).tolist()
    cv2.line(image, (x, y), (x + int(draw.integers(-9, 10)), y + 3 * radius), (60, 60, 60), 1, cv2.LINE_AA)
    cv2.circle(image, (x, y), radius, colour(draw, draw.uniform(0.5, 1)), cv2.FILLED, cv2.LINE_AA)
    box = [x - radius, y - radius, 2 * radius, 2 * radius]
    return {"category_id": BALLOON, "bbox": box, "area": round(math.pi * radius**2)}


def annotation_of(points: np.ndarray, hidden: np.ndarray) -> dict[str, Any]:
    """A kite's annotation: box and area of its cloth within the picture; no keypoints outside of it."""
    inside = ((points >= 0) & (points <= (WIDTH - 1, HEIGHT - 1))).all(1)
    keypoints: list[float] = []
    for (x, y), seen in zip(points.round(1).tolist(), inside, strict=True):
        keypoints += [x, y, HIDDEN if hidden[round(y), round(x)] else SEEN] if seen else [0, 0, 0]
    cloth = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(cloth, [pixels(points[OUTLINE])], 1)
    (left, upper), (right, lower) = points.min(0).clip(0), points.max(0).clip(None, (WIDTH - 1, HEIGHT - 1))
    return {
        "category_id": KITE,
        "bbox": np.round((left, upper, right - left, lower - upper), 1).tolist(),
        "area": int(cloth.sum()),
        "num_keypoints": int(inside.sum()),
        "keypoints": keypoints,
    }


def pixels(points: np.ndarray) -> np.ndarray:
    return np.rint(points).astype(np.int32)


if __name__ == "__main__":
    main()
