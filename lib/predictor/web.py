"""The page of tools/web_demo.py, built with Gradio; its content comes from `web_session`.

Each visitor has a session. No files are written: images are embedded in the page, and an uploaded image waits in the
guard. Nothing is fetched from other hosts or sent to them.
"""

import base64
import html
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, missing

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by Gradio on import
try:  # before anything heavy
    import gradio as gr
    from starlette.middleware import Middleware
except ModuleNotFoundError:
    raise missing("gradio", extra="web") from None

from ..explain.maps import MODES
from ..pose import draw, sheets
from . import web_session
from .web_guard import UPLOAD, Guard
from .web_session import ANNOTATED, BOXES, DETECTOR, DRAWN, WHOLE, Sample, Scene, WebSession

FORGOTTEN_AFTER = 30 * 60  # seconds until an unused session is forgotten
SESSIONS = 20  # sessions at a time
WAITING = 20  # requests in the queue; one more is refused
THUMBNAIL = 120, 80
OPENING, OWN = "opening", "own"  # what the page shows: the same for all, or from a session
FONTS = ["system-ui", "sans-serif"]  # the browser's own fonts: Gradio's come from a font service
HINTS = {
    ANNOTATED: "Click a box to see the attention for it, or drag another box.",
    DETECTOR: "Click a detected box to see the attention for it, or drag another box.",
    WHOLE: "The whole image is used as the box; drag a smaller one.",
    DRAWN: "Drag another box, or type its numbers.",
    None: "Drag a box, or type its numbers.",  # there is none yet
}
STYLE = """
.gradio-container .fillable { max-width: 1440px !important; padding: 8px 20px !important }
.gradio-container .gap, #columns { gap: 8px }
#columns { gap: 20px }
#title h1 { font-size: 20px; margin: 0; display: inline } #title p { display: inline; margin-left: 12px }
#title .prose > * { display: inline }
#picture, #crop, #maps { text-align: center; line-height: 0 }
#picture img, #crop img { cursor: crosshair; user-select: none }
#picture img { max-width: 100%; max-height: 480px } #crop img { max-width: 100%; max-height: 360px }
#maps img { max-width: 100%; max-height: 500px }
#picture .drawing { touch-action: none }
.band { position: fixed; z-index: 99; border: 2px solid #fff; outline: 1px solid #181818; pointer-events: none }
#samples .html-container { overflow-x: auto; white-space: nowrap }
#samples img { display: inline; height: 64px; margin: 0 4px 0 0; cursor: pointer }
#upload label { display: block; text-align: center; padding: 6px; border-radius: 6px; cursor: pointer;
  background: var(--button-secondary-background-fill) }
#upload label:focus-within { outline: 2px solid }
#table table { width: 100%; font-size: 12px; line-height: 1; border-collapse: collapse }
#table td, #table th { padding: 3px 6px; text-align: right; border: 0 } #table tr :first-child { text-align: left }
#table tbody tr { cursor: pointer } #table tr.asked { background: var(--color-accent-soft) }
#notice { position: fixed; z-index: 100; top: 6px; right: 20px; max-width: 60% }
#notice p { margin: 0; padding: 6px 12px; border-radius: 6px; background: #fde68a; color: #181818;
  animation: gone 1s 10s forwards }
@keyframes gone { to { opacity: 0; visibility: hidden } }
footer, [data-testid=status-tracker] { display: none !important }
@media (max-width: 800px) {
  #columns { flex-direction: column; flex-wrap: nowrap } #columns > * { width: 100%; min-width: 0 !important }
  #looks { order: 1 } #person { order: 2 } #notice { top: auto; bottom: 6px; left: 6px; right: 6px; max-width: none }
}
@media (min-width: 801px) { #columns { flex-wrap: nowrap } #columns > * { min-width: 0 !important } }
"""
# A drag gives a box, a click a point, both as fractions of the image's width and height.
POINTING = """
element.addEventListener('dragstart', event => event.preventDefault());
element.addEventListener('pointerdown', down => {
  const image = down.target.closest('img');
  if (!image || down.button) return;
  const area = image.getBoundingClientRect(), band = document.body.appendChild(document.createElement('div'));
  band.className = 'band';
  band.hidden = true;
  const share = (value, length) => Math.min(Math.max(value / length, 0), 1);
  const at = event => [share(event.clientX - area.left, area.width), share(event.clientY - area.top, area.height)];
  const near = event => Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 6;
  const move = event => {
    const [left, right] = [down.clientX, event.clientX].sort((a, b) => a - b);
    const [top, bottom] = [down.clientY, event.clientY].sort((a, b) => a - b);
    band.hidden = DRAGS ? near(event) : true;
    Object.assign(band.style, {left: left + 'px', top: top + 'px', width: right - left + 'px',
      height: bottom - top + 'px'});
  };
  const end = event => {
    band.remove();
    document.removeEventListener('pointermove', move);
    for (const name of ['pointerup', 'pointercancel']) document.removeEventListener(name, end);
    if (event.type === 'pointercancel') return;
    const [x0, y0] = at(down), [x1, y1] = DRAGS && !near(event) ? at(event) : [x0, y0];
    trigger('select', {x0, y0, x1, y1});
  };
  document.addEventListener('pointermove', move);
  for (const name of ['pointerup', 'pointercancel']) document.addEventListener(name, end);
});
"""
# A message fades; this restarts the animation for the next one.
NOTICING = """
watch('value', () => element.getAnimations({subtree: true}).forEach(one => { one.cancel(); one.play(); }));
"""
# A click on one of several elements, by its number.
CHOOSING = """
const choose = event => {
  const one = event.target.closest('[data-number]');
  if (one && (event.type === 'click' || event.key === 'Enter')) trigger('select', {number: Number(one.dataset.number)});
};
element.addEventListener('click', choose);
element.addEventListener('keydown', choose);
"""
UPLOADING = """
element.addEventListener('change', async event => {
  const file = event.target.files[0];
  event.target.value = '';
  if (!file) return;
  if (file.size > MOST) return trigger('upload', {wrong: `this file has ${(file.size / 1e6).toFixed(1)} MB, too large: \
the page takes ${MOST / 1e6}`});
  try {
    const answer = await (await fetch('.UPLOAD', {method: 'POST', body: file})).json();
    trigger('upload', answer.ticket ? {ticket: answer.ticket} : {wrong: answer.detail});
  } catch {
    trigger('upload', {wrong: 'the upload was interrupted; try again'});
  }
});
"""


class Page:
    """The page, not yet served: its parts and their event handlers. `blocks` is what Gradio serves.

    It opens with the first sample and its maps. `guard` checks all requests of visitors.
    """

    def __init__(
        self,
        session: WebSession,
        samples: Sequence[Sample],
        title: str,
        guard: Guard,
        max_pixels: int = web_session.MAX_PIXELS,
    ):
        self.session, self.samples, self.guard, self.max_pixels = session, samples, guard, max_pixels
        self.opening = session.open(samples[0].scene()) if samples else None
        shown = self._parts(self.opening, None) if self.opening else {"hint": "Upload an image."}
        self.parts: dict[str, gr.components.Component] = {}

        def add(kind: Callable, name: str, **options: Any) -> Any:
            value = {"value": shown[name]} if name in shown and name != "boxes" else {}
            self.parts[name] = kind(elem_id=name, **options | value)
            return self.parts[name]

        with gr.Blocks(title="TransPose", analytics_enabled=False, fill_width=True) as self.blocks:
            self.scene = gr.State(time_to_live=FORGOTTEN_AFTER)
            self.shown = gr.Textbox(OPENING, visible=False)
            add(gr.HTML, "notice", js_on_load=NOTICING)
            gr.Markdown(f"# What TransPose looks at\n{html.escape(title)}", elem_id="title")
            with gr.Row(elem_id="columns"):
                with gr.Column(scale=5):
                    uploading = UPLOADING.replace("MOST", str(guard.max_bytes)).replace("UPLOAD", UPLOAD)
                    label = "<label>Upload an image<input type=file accept='image/*' hidden></label>"
                    upload = gr.HTML(label, js_on_load=uploading, elem_id="upload")
                    strip = "".join(map(self._thumbnail, range(len(samples))))
                    chosen = gr.HTML(strip, js_on_load=CHOOSING, elem_id="samples", visible=bool(samples))
                    start = self.opening.boxes if self.opening else None
                    choices = _choices(self.opening)
                    boxes = add(gr.Radio, "boxes", choices=choices, value=start, label="Boxes")
                    picture = add(gr.HTML, "picture", js_on_load=POINTING.replace("DRAGS", "true"))
                    add(gr.Markdown, "hint")
                with gr.Column(scale=3, elem_id="person"):
                    crop = add(gr.HTML, "crop", js_on_load=POINTING.replace("DRAGS", "false"))
                    table = add(gr.HTML, "table", js_on_load=CHOOSING)
                with gr.Column(scale=5, elem_id="looks"):
                    add(gr.HTML, "maps", js_on_load=None)
                    add(gr.Markdown, "asked")
                    mode = add(gr.Radio, "mode", choices=list(MODES), value="dependency", label="Map")
                    below = "Leave out weights below this share of a map's largest (%)"
                    share = add(gr.Slider, "share", minimum=0, maximum=95, step=1, value=0, label=below)
                    typed = add(gr.Textbox, "typed", label="Box: X,Y,W,H and Enter", max_lines=1)
            for event, given, function in (
                (upload.upload, [], self.on_upload),
                (chosen.select, [], self.on_sample),
                (boxes.input, [boxes], self.on_boxes),
                (typed.submit, [typed], self.on_typed),
                (picture.select, [], self.on_picture),
                (crop.select, [], self.on_crop),
                (table.select, [], self.on_keypoint),
                (mode.input, [], self.on_settings),
                (share.input, [], self.on_settings),
            ):
                event(
                    self._answering(function),
                    [self.scene, self.shown, mode, share, *given],
                    [self.scene, self.shown, *self.parts.values()],
                    api_visibility="private",
                    concurrency_id="network",
                    trigger_mode="always_last",
                    show_progress="hidden",
                )

        events = self.blocks.get_config_file()["dependencies"]
        guard.events = {event["id"]: len(event["inputs"]) for event in events}
        guard.forget = lambda session: self.blocks.state_holder.session_data.pop(session, None)

    def _thumbnail(self, number: int) -> str:
        name = html.escape(self.samples[number].path.name)
        picture = sheets.fit(self.samples[number].scene().pixels, THUMBNAIL)[0]
        return _image(picture, f"data-number={number} tabindex=0 role=button alt='sample {name}'")

    # The event handlers; each returns the next scene.

    def on_upload(self, scene: Scene | None, event: gr.EventData) -> Scene:
        if "wrong" in event._data:
            raise UserError(str(event._data["wrong"])[:500])
        content = self.guard.take(str(event._data.get("ticket")))
        return self.session.open(web_session.uploaded(content, self.max_pixels))

    def on_sample(self, scene: Scene | None, event: gr.EventData) -> Scene:
        (number,) = _numbers(event._data, "number")
        if not 0 <= number < len(self.samples):
            raise UserError("there is no such sample; load the page again")
        return self.session.open(self.samples[int(number)].scene())

    def on_boxes(self, scene: Scene | None, event: gr.EventData, chosen: str) -> Scene:
        if chosen == DRAWN:
            return replace(_there(scene), boxes=DRAWN, why="", result=None, explanation=None)
        return self.session.find(_there(scene), chosen)

    def on_typed(self, scene: Scene | None, event: gr.EventData, text: str) -> Scene:
        return self.session.find(_there(scene), DRAWN, web_session.boxes_from(text))

    def on_picture(self, scene: Scene | None, event: gr.EventData) -> Scene:
        scene = _there(scene)
        height, width = scene.pixels.shape[:2]
        shares = _numbers(event._data, "x0", "y0", "x1", "y1")
        x0, y0, x1, y1 = (
            min(share * length, length - 1) for share, length in zip(shares, [width, height] * 2, strict=True)
        )
        if (x0, y0) == (x1, y1):
            return self.session.choose(scene, scene.person_at(x0, y0))
        return self.session.find(scene, DRAWN, [scene.box_between(x0, y0, x1, y1)])

    def on_crop(self, scene: Scene | None, event: gr.EventData) -> Scene:
        return _there(scene).at(*_numbers(event._data, "x0", "y0"))

    def on_keypoint(self, scene: Scene | None, event: gr.EventData) -> Scene:
        return _there(scene).of_keypoint(int(*_numbers(event._data, "number")))

    def on_settings(self, scene: Scene | None, event: gr.EventData) -> Scene:
        return _there(scene)

    def _answering(self, function: Callable) -> Callable:
        """Wraps an event handler, and returns the updated page. A visitor's mistake becomes a message, which replaces
        the last one, and all controls go back to the values that the images show."""

        def answer(event: gr.EventData, scene: Scene | None, shown: str, mode: str, share: float, *given: Any) -> dict:
            before = self.opening if scene is None and shown == OPENING else scene
            try:
                after = function(before, event, *given)
                (share,) = _numbers({"share": share}, "share")
                after = replace(after, mode=mode, share=min(share, 95) / 100)
                parts = self._parts(after, before) | {"notice": ""}
            except UserError as error:
                after, parts = before, self._controls(before) if before else {}
                # Numbered, because a repeated message would not be shown again.
                parts["notice"] = f"<p role=alert data-number={time.monotonic_ns()}>{html.escape(str(error))}</p>"
            state = {self.scene: after, self.shown: OWN} if after else {}
            return state | {self.parts[name]: value for name, value in parts.items()}

        return answer

    def _controls(self, scene: Scene) -> dict[str, Any]:
        """The controls, with the values of a scene."""
        return {
            "boxes": gr.Radio(_choices(scene), value=scene.boxes),
            "typed": scene.typed(),
            "mode": scene.mode,
            "share": round(100 * scene.share),
        }

    def _parts(self, scene: Scene, before: Scene | None) -> dict[str, Any]:
        """The page's parts for a scene. Images that have not changed are left out."""
        parts = self._controls(scene)
        hint = HINTS[scene.boxes if scene.result else None]
        parts["hint"] = html.escape(f"{scene.why}. " if scene.why else "") + hint
        if before is None or (scene.result, scene.person, scene.boxes) != (before.result, before.person, before.boxes):
            parts["picture"] = _image(scene.picture(), "class=drawing" if scene.result is None else "")
        if scene.explanation is None:
            return parts | dict.fromkeys(("crop", "table", "maps", "asked"), "")
        asked = scene.question()
        parts["table"] = _table(scene.table(), scene.place)
        parts["asked"] = f"**{html.escape(asked)}**: {MODES[scene.mode]}"
        parts["crop"] = _image(scene.crop())
        parts["maps"] = _image(scene.maps())
        return parts

    def serve(self, port: int = 7860, forever: bool = True) -> None:
        """Serve the page at `guard.host`. With `forever` false, return at once; `blocks.close()` stops the server.

        Raises UserError if the port is not free.
        """
        self.blocks.queue(max_size=WAITING, api_open=False)
        try:
            self.blocks.launch(
                server_name=self.guard.host,
                server_port=port,
                share=False,
                quiet=True,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                max_file_size=0,
                theme=gr.themes.Default(font=FONTS, font_mono=["monospace"], spacing_size="sm"),
                css=STYLE,
                app_kwargs={"middleware": [Middleware(self.guard.around)]},
                prevent_thread_lock=not forever,
            )
        except OSError:
            host = self.guard.host
            raise UserError(f"cannot use port {port} of {host}; choose another with --port or --host") from None


def private_folder() -> tempfile.TemporaryDirectory:
    """Give Gradio a temporary folder that other users cannot read; it is removed when the program ends."""
    folder = tempfile.TemporaryDirectory(prefix="transpose-web-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    return folder


def _image(picture: np.ndarray, attributes: str = "") -> str:
    """A BGR image as an HTML element that contains its data."""
    content = base64.b64encode(draw.encode(picture, Path("picture.jpg"))).decode()
    return f'<img src="data:image/jpeg;base64,{content}" {attributes}>'


def _table(rows: list[list[Any]], asked: Any) -> str:
    """The table of keypoints, to choose one from."""
    lines = [
        f"<tr data-number={number} tabindex=0{' class=asked' if row[0] == asked else ''}>"
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        for number, row in enumerate(rows)
    ]
    head = "<tr><th>keypoint</th><th>x</th><th>y</th><th>score</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"


def _choices(scene: Scene | None) -> list[str]:
    return list(BOXES if scene and scene.annotated is not None else BOXES[1:])


def _numbers(sent: dict[str, Any], *names: str) -> list[float]:
    """Numbers from the page's script. Raises UserError for anything else."""
    try:
        return [min(max(float(sent[name]), 0), 1e6) for name in names]
    except (KeyError, TypeError, ValueError):
        raise UserError("this page is of another version of the program; load it again") from None


def _there(scene: Scene | None) -> Scene:
    """The scene. Raises UserError if there is none, or if it was forgotten."""
    if scene is None:
        raise UserError("there is no image yet, or it was forgotten after half an hour; upload or choose one")
    return scene
