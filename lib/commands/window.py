"""The window of `--show`."""

import os
import sys

import cv2
import numpy as np

from ..errors import UserError


class Window:
    """A window that shows images until q is pressed. Raises UserError if no window can be opened."""

    TITLE = "TransPose (q closes)"

    def __init__(self) -> None:
        # Without a display the toolkit would end the process instead of raising an error.
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("--show needs a display, but DISPLAY is not set; leave it out and open the saved files")
        try:
            cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL)
        except cv2.error:
            raise UserError(
                "--show: this OpenCV was built without windows; pip uninstall opencv-python-headless, then "
                "pip install opencv-python"
            ) from None
        self.closed = False

    def show(self, picture: np.ndarray, wait: bool = False) -> None:
        """Show an image; with `wait`, until a key is pressed. Does nothing once the window is closed."""
        if self.closed:
            return
        cv2.imshow(self.TITLE, picture)
        if cv2.waitKey(0 if wait else 1) & 0xFF == ord("q"):
            cv2.destroyWindow(self.TITLE)
            self.closed = True
