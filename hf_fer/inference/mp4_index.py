"""How many samples (pictures, packets of sound) an MP4 or QuickTime file claims to hold, looked at before FFmpeg does.

FFmpeg makes room for every sample that the index claims, about 70 bytes each, when it opens the file. Where all samples
have one size, the index is a mere count, so that a file of 5 kB can claim memory for billions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import FerError

MOST_SAMPLES = 5_000_000
"""Of all tracks together: 13 hours of 60 pictures and 47 packets of sound a second."""

_MOST_INDEX = 256 << 20  # bytes of one box
_MOST_BOXES = 1_000_000  # at the top level
# What FFmpeg looks into at the top level; pictures and sound ("mdat") are none of these.
_CONTAINERS = frozenset(
    (b"moov", b"moof", b"trak", b"mdia", b"minf", b"stbl", b"traf", b"udta", b"meta", b"edts", b"mvex", b"tref")
)
_HIDING = frozenset((b"free", b"hoov"))  # editors hide an old "moov" in these, and FFmpeg finds it
_ONE_SIZE = 0xF00  # flags of a "trun": whether it says anything of each sample


def check_samples(file: BinaryIO, name: str) -> None:
    """Returns with the file at its start; one of another format holds none of these boxes, and passes.

    Raises:
        FerError: the index claims over `MOST_SAMPLES`, or more than the file has bytes, or is compressed or over
            256 MiB, so that it cannot be looked at.
    """
    size = file.seek(0, 2)
    total = bare = 0  # bare: samples of which nothing but their number is said
    for body in _indexes(file, size, name):
        if b"cmov" in body:
            raise FerError(f"{name}: refused, its index is compressed, as of QuickTime long ago; convert it to MP4")
        starts = [match.start() for match in re.finditer(b"trak", body)]
        for start, end in zip([0, *starts], [*starts, len(body)], strict=True):
            track = body[start:end]
            pcm = _is_pcm(track)  # of which FFmpeg indexes stretches, not single samples
            for match in re.finditer(b"stsz", track):
                each, count = _number(track, match.end() + 4), _number(track, match.end() + 8)
                if each * count > size:
                    raise _too_many(name, count)
                total += 0 if pcm else count
            for match in re.finditer(b"trun", track):
                flags, count = _number(track, match.end()), _number(track, match.end() + 4)
                bare += 0 if flags & _ONE_SIZE else count
                total += count
        if total > MOST_SAMPLES or bare > size:
            raise _too_many(name, total)
    file.seek(0)


def _indexes(file: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    """The boxes at the top level that may hold an index."""
    place = 0
    for _ in range(_MOST_BOXES):
        if place >= size:
            return
        file.seek(place)
        head = file.read(24)
        length, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        length = length or size - place  # 0: up to the end
        if len(head) < 8 or length < header:
            return
        hidden = kind in _HIDING and head[header + 4 : header + 8] in (b"mvhd", b"cmov", b"moov")
        if kind in _CONTAINERS or hidden:
            here = min(length, size - place)
            if here > _MOST_INDEX:
                raise FerError(f"{name}: refused, its index has {here:,} bytes, and the limit is {_MOST_INDEX:,}")
            file.seek(place)
            yield file.read(here)
        place += length
    raise FerError(f"{name}: refused, it is in more than {_MOST_BOXES:,} pieces; convert it to an ordinary MP4")


def _is_pcm(track: bytes) -> bool:
    """Sound of which every sample lasts one tick."""
    handler, times = track.find(b"hdlr"), [match.end() for match in re.finditer(b"stts", track)]
    return (
        track[handler + 12 : handler + 16] == b"soun"
        and len(times) == 1
        and (_number(track, times[0] + 4), _number(track, times[0] + 12)) == (1, 1)
    )


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "big")


def _too_many(name: str, count: int) -> FerError:
    return FerError(f"{name}: refused, its index claims {count:,} pictures or more, which it cannot hold")
