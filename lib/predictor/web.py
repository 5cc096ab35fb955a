"""The page of tools/web_demo.py, made of Gradio's parts; what it shows comes from `web_session`.

What one visitor does lives in that visitor's session. No file is served but the pictures made for the page, under names
that cannot be guessed; nothing is fetched from other hosts or sent to them.
"""

import functools
import html
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import UserError, missing

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when the package is imported
try:  # before anything heavy
    import gradio as gr
except ModuleNotFoundError:
    raise missing("gradio", extra="web") from None

from ..explain.maps import MODES
from ..pose import draw
from . import web_session
from .detector import whole_image
from .web_session import Sample, Scene, WebSession

FORGOTTEN_AFTER = 30 * 60  # seconds: what a visitor's session holds, and files
SESSIONS = 20  # that are remembered at a time
WAITING = 20  # questions in the queue; one more is refused
THUMBNAIL = 160, 120
FONTS = ["system-ui", "sans-serif"]  # the visitor's own: Gradio's come from a font service
STYLE = "#picture img, #crop img { cursor: crosshair }"
ANNOTATED, DETECTOR, WHOLE, DRAWN = BOXES = ("annotated", "detector", "whole image", "drawn")
HINTS = {
    None: "Now say where the persons are: choose a kind of boxes.",
    ANNOTATED: "Click a person in the image to look into the network on it.",
    DETECTOR: "Click a person in the image to look into the network on it.",
    WHOLE: "The image is taken for one person.",
    DRAWN: "Click two opposite corners of a person's box in the image, or type its numbers.",
}


class Page:
    """The page, not yet served: its parts, and what each answers. `blocks` is what Gradio serves."""

    def __init__(
        self, session: WebSession, samples: Sequence[Sample], title: str, max_pixels: int = web_session.MAX_PIXELS
    ):
        self.session, self.samples, self.max_pixels = session, samples, max_pixels
        with gr.Blocks(title="TransPose", analytics_enabled=False, delete_cache=(60, FORGOTTEN_AFTER)) as self.blocks:
            self.scene = gr.State(time_to_live=FORGOTTEN_AFTER)
            gr.Markdown(f"# What TransPose looks at\n{html.escape(title)}")
            with gr.Row():
                self._add_images()
            with gr.Row():
                largest, step = session.threshold_range
                self.mode = gr.Radio(list(MODES), value="dependency", label="Map", elem_id="mode")
                self.threshold = gr.Slider(
                    0, largest, 0, step=step, label="Leave out weights below", elem_id="threshold"
                )
            with gr.Row():
                self._add_person()
            self._listen()

    def _add_images(self) -> None:
        with gr.Column():
            self.upload = gr.UploadButton("Upload an image", type="binary", elem_id="upload")
            self.gallery = gr.Gallery(
                [draw.fit(sample.scene().pixels, THUMBNAIL)[0][..., ::-1] for sample in self.samples],
                label="or take one of these",
                visible=bool(self.samples),
                interactive=False,
                allow_preview=False,
                columns=5,
                height=250,
                buttons=[],
                elem_id="samples",
            )
            self.boxes = gr.Radio(BOXES[1:], label="Boxes of the persons", elem_id="boxes")
            self.typed = gr.Textbox(label="or their numbers", placeholder="X,Y,W,H and Enter", elem_id="typed")
        with gr.Column():
            self.picture = _picture("Image", "picture", 430)
            self.hint = gr.Markdown("Upload an image, or take one of those at the left.", elem_id="hint")

    def _add_person(self) -> None:
        with gr.Column(scale=4):
            self.table = gr.Dataframe(
                headers=["keypoint", "x", "y", "score"],
                label="Keypoints, in pixels of the image: click one",
                interactive=False,
                max_height=700,
                column_widths=["40%", "20%", "20%", "20%"],
                buttons=[],
                elem_id="table",
            )
        with gr.Column(scale=4):
            self.crop = _picture("Crop: click any point", "crop", 560)
        with gr.Column(scale=5):
            self.maps = _picture("Each layer", "maps", 560)
            self.asked = gr.Markdown(elem_id="asked")

    def _listen(self) -> None:
        answer = [self.scene, self.crop, self.asked, self.maps]
        person = [*answer, self.picture, self.table]
        everything = [*person, self.boxes, self.typed, self.hint]
        how = [self.mode, self.threshold]
        for event, given, function, changed in (
            (self.upload.upload, [self.upload], self.on_upload, everything),
            (self.gallery.select, [], self.on_sample, everything),
            (self.boxes.input, [self.scene, self.boxes], self.on_boxes, everything),
            (self.typed.submit, [self.scene, self.typed], self.on_typed, everything),
            (self.picture.select, [self.scene, self.boxes], self.on_picture, everything),
            (self.crop.select, [self.scene], self.on_crop, answer),
            (self.table.select, [self.scene], self.on_keypoint, answer),
            (self.mode.input, [self.scene], self.on_settings, answer),
            (self.threshold.input, [self.scene], self.on_settings, answer),
        ):
            event(
                _warning(function),
                [*how, *given],
                changed,
                api_visibility="private",
                concurrency_id="network",
                trigger_mode="always_last",
            )

    # What each part answers. `how` is a mode of MODES and a threshold.

    def on_upload(self, mode: str, threshold: float, content: bytes) -> dict:
        return self._image(web_session.uploaded(content, self.max_pixels), None, mode, threshold)

    def on_sample(self, event: gr.SelectData, mode: str, threshold: float) -> dict:
        scene = self.samples[event.index].scene()
        return self._result(scene, ANNOTATED, scene.annotated, mode, threshold)

    def on_boxes(self, mode: str, threshold: float, scene: Scene | None, chosen: str) -> dict:
        scene = _there(scene)
        if chosen == DRAWN:
            return self._image(replace(scene, result=None, explanation=None), DRAWN, mode, threshold)
        boxes = {ANNOTATED: scene.annotated, WHOLE: whole_image(scene.pixels)[0], DETECTOR: None}[chosen]
        return self._result(scene, chosen, boxes, mode, threshold)

    def on_typed(self, mode: str, threshold: float, scene: Scene | None, text: str) -> dict:
        return self._result(_there(scene), DRAWN, web_session.boxes_from(text), mode, threshold)

    def on_picture(
        self, event: gr.SelectData, mode: str, threshold: float, scene: Scene | None, chosen: str | None
    ) -> dict:
        scene, (x, y) = _there(scene), event.index
        if chosen != DRAWN:
            return self._person(self.session.choose(scene, scene.person_at(x, y)), mode, threshold)
        if scene.corner is None:
            return self._image(replace(scene, corner=(x, y), result=None, explanation=None), DRAWN, mode, threshold)
        return self._result(scene, DRAWN, [scene.box_to(x, y)], mode, threshold)

    def on_crop(self, event: gr.SelectData, mode: str, threshold: float, scene: Scene | None) -> dict:
        return self._answer(_there(scene).at(*event.index), mode, threshold)

    def on_keypoint(self, event: gr.SelectData, mode: str, threshold: float, scene: Scene | None) -> dict:
        return self._answer(_there(scene).of_keypoint(event.index[0]), mode, threshold)

    def on_settings(self, mode: str, threshold: float, scene: Scene | None) -> dict:
        return gr.skip() if scene is None or scene.explanation is None else self._answer(scene, mode, threshold)

    # What of the page changes: with another image, another result, another person, another question.

    def _image(self, scene: Scene, chosen: str | None, *how: Any) -> dict:
        choices = BOXES[1:] if scene.annotated is None else BOXES
        typed = {} if chosen == DRAWN else {self.typed: ""}
        changed = typed | {self.boxes: gr.Radio(choices, value=chosen), self.hint: HINTS[chosen]}
        return changed | self._person(scene, *how)

    def _result(self, scene: Scene, chosen: str, boxes: Any, *how: Any) -> dict:
        return self._image(self.session.find(scene, boxes), chosen, *how)

    def _person(self, scene: Scene, *how: Any) -> dict:
        return {self.picture: scene.picture(), self.table: scene.table()} | self._answer(scene, *how)

    def _answer(self, scene: Scene, mode: str, threshold: float) -> dict:
        if scene.explanation is None:
            return {self.scene: scene, self.crop: None, self.asked: "", self.maps: None}
        return {
            self.maps: scene.maps(mode, threshold),
            self.scene: scene,
            self.crop: scene.crop(),
            self.asked: f"**{html.escape(scene.question())}**: {MODES[mode]}",
        }

    def serve(self, host: str = "127.0.0.1", port: int = 7860, max_megabytes: float = 20, forever: bool = True) -> None:
        """Answer visitors. With `forever` false, return at once; `blocks.close()` ends it.

        Raises UserError if the port cannot be had.
        """
        self.blocks.queue(max_size=WAITING, api_open=False)
        try:
            self.blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                max_file_size=round(max_megabytes * 1e6),
                state_session_capacity=SESSIONS,
                theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]),
                css=STYLE,
                prevent_thread_lock=not forever,
            )
        except OSError:
            raise UserError(f"port {port} of {host} cannot be had; choose another with --port or --host") from None


def private_folder() -> tempfile.TemporaryDirectory:
    """Where Gradio keeps its files from now on, closed to other users of the machine; it goes with the program."""
    folder = tempfile.TemporaryDirectory(prefix="transpose-web-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    return folder


def _picture(label: str, name: str, height: int) -> gr.Image:
    return gr.Image(label=label, elem_id=name, format="jpeg", height=height, interactive=False, buttons=["fullscreen"])


def _there(scene: Scene | None) -> Scene:
    """Raises UserError if there is no image, or none any more."""
    if scene is None:
        raise UserError("there is no image yet, or it was forgotten after a while: upload or choose one")
    return scene


def _warning(function: Callable) -> Callable:
    """The same, but a visitor's mistake becomes a sentence on the page, which stays as it is."""

    @functools.wraps(function)
    def answer(*given: Any) -> dict:
        try:
            return function(*given)
        except UserError as error:
            gr.Warning(html.escape(str(error)), duration=None)
            return gr.skip()

    return answer
