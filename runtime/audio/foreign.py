"""The names of formats that libsndfile does not read, found by the first bytes of a file."""

from __future__ import annotations

from pathlib import Path

#: Name of a format -> pairs (offset, bytes). A file of the format matches one of the pairs.
MAGICS = {
    "MP4 or M4A": ((4, b"ftyp"),),
    "Matroska or WebM": ((0, b"\x1aE\xdf\xa3"),),
    "ASF or WMA": ((0, b"0&\xb2u\x8ef\xcf\x11"),),
    "WavPack": ((0, b"wvpk"),),
    "Monkey's Audio": ((0, b"MAC "),),
    "Musepack": ((0, b"MPCK"), (0, b"MP+")),
    "True Audio": ((0, b"TTA1"),),
    "AMR": ((0, b"#!AMR"),),
    "AC-3": ((0, b"\x0bw"),),
    "DSD": ((0, b"DSD "), (0, b"FRM8")),
    "RealAudio": ((0, b".ra\xfd"), (0, b".RMF")),
    "AVI": ((8, b"AVI "),),
    "BW64": ((0, b"BW64"),),
}


def name_format(path: Path) -> str:
    """The name of the format of the file at `path`. "" if it is none of these."""
    with path.open("rb") as file:
        head = file.read(32)
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:  # an MPEG header of layer 0
        return "AAC (ADTS)"
    found = (name for name, magics in MAGICS.items() if any(head.startswith(magic, at) for at, magic in magics))
    return next(found, "")
