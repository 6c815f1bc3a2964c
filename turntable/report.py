"""Pictures and pages that a person looks at: contact sheets and self-contained HTML reports."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}img{max-width:100%}figure{margin:1rem 0}figcaption{color:#666}
"""


def contact_sheet(
    pictures: Sequence[np.ndarray], columns: int, captions: Sequence[str] = (), gap: int = 4
) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of one size -> one (H', W', 3) uint8 sheet on white, left to right, top to bottom.

    `captions`, one a picture where given, are printed under each; they are cut to the picture's width.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    height, width = pictures[0].shape[:2]
    line = 16 if captions else 0
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + line + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + line + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = picture
        if captions:
            text = captions[index][: max(width // 7, 1)]
            spot = (left + 2, top + height + 12)
            cv2.putText(sheet, text, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (60, 60, 60), 1, cv2.LINE_AA)
    return sheet


def encode_picture(picture: np.ndarray, extension: str = ".webp", quality: int = 85) -> bytes:
    """(H, W, 3 or 4) uint8 RGB(A) -> encoded bytes of the format that `extension` names."""
    order = [2, 1, 0, 3][: picture.shape[2]]
    parameters = {".webp": [cv2.IMWRITE_WEBP_QUALITY, quality], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality]}
    ok, data = cv2.imencode(extension, np.ascontiguousarray(picture[..., order]), parameters.get(extension, []))
    assert ok, (picture.shape, extension)
    return data.tobytes()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; every cell is escaped."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in values) + "</tr>"

    return "<table>" + cells("th", header) + "".join(cells("td", row) for row in rows) + "</table>"


def figure(picture: np.ndarray, caption: str, extension: str = ".webp") -> str:
    """An HTML figure with the picture inside the page, so that the page can be sent alone."""
    kind = {".webp": "webp", ".png": "png", ".jpg": "jpeg"}[extension]
    return encoded_figure(encode_picture(picture, extension), kind, caption)


def encoded_figure(picture: bytes, kind: str, caption: str) -> str:
    """An HTML figure of an encoded picture; `kind` is the MIME subtype: webp, png, jpeg."""
    data = base64.b64encode(picture).decode()
    return (
        f'<figure><img loading=lazy src="data:image/{kind};base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def page(title: str, *parts: str) -> str:
    """A whole HTML page from parts that are HTML already."""
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    return head + f"<h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n"
