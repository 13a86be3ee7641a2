"""Readers of outlines on damaged files: a clean error or valid outlines, never a crash, a hang, or gigabytes.

``TLSKIT_FUZZ`` sets how many files are tried (default 3000).
"""

import gzip
import io
import json
import os
import random
import sys
import time
import zipfile
from collections import Counter

import pytest

from tlskit.errors import AnnotationError, ManifestError
from tlskit.outlines import reading as annotations

N_FILES = int(os.environ.get("TLSKIT_FUZZ", "3000"))
SLOWEST_S = 1.0
MOST_BYTES = 500 * 2**20

RING = [[10, 10], [40.5, 10], [40, 40], [10, 40], [10, 10]]
HOLE = [[20, 20], [20, 30], [30, 30], [30, 20], [20, 20]]


def _geojson() -> bytes:
    features = [
        {"type": "Feature", "id": "PathAnnotationObject", "geometry": {"type": "Polygon", "coordinates": [RING, HOLE]},
         "properties": {"classification": {"name": "TLS", "colorRGB": -3670016}, "measurements": []}},
        {"type": "Feature", "id": "2aa7e31c-8437-499d-ba61-88aacd9a2c3f",
         "geometry": {"type": "MultiPolygon", "coordinates": [[RING], [[[x + 50, y] for x, y in RING]]]},
         "properties": {"objectType": "annotation", "classification": {"names": ["TLS", "GC"], "color": [1, 2, 3]},
                        "measurements": {"area": 3.5, "p": "NaN"}, "isEllipse": True}},
        {"type": "Feature", "geometry": {"type": "LineString", "coordinates": RING}, "properties": {"name": "line"}},
        {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": [
            {"type": "Polygon", "coordinates": [RING], "plane": {"c": -1, "z": 1, "t": 0}}]},
         "properties": {"classification": "{'name': 'TLS', 'color': [1, 2, 3]}"}},
        {"type": "Feature", "geometry": None, "properties": None},
    ]  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def _asap() -> bytes:
    def item(group, ring):
        points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring))
        return (
            f'<Annotation Name="A" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58">'
            f"<Coordinates>{points}</Coordinates></Annotation>"
        )

    groups = '<Group Name="TLS" PartOfGroup="None"/><Group Name="_2" PartOfGroup="TLS"/>'
    body = item("TLS", RING) + item("_2", HOLE)
    return (
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{body}</Annotations>'
        f"<AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    ).encode()


def _imagescope() -> bytes:
    def item(kind, negative, ring):
        points = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
        return f'<Region Type="{kind}" NegativeROA="{negative}" Text="t"><Vertices>{points}</Vertices></Region>'

    regions = item(0, 0, RING) + item(0, 1, HOLE) + item(2, 0, RING[:3:2]) + item(1, 0, RING)
    return (
        '<Annotations MicronsPerPixel="0.25"><Annotation Name="" LineColor="65280"><Attributes>'
        f'<Attribute Name="TLS" Value=""/></Attributes><Regions>{regions}</Regions></Annotation></Annotations>'
    ).encode()


def _zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", content)
    return file.getvalue()


SEEDS = {
    "geojson": _geojson(),
    "asap": _asap(),
    "imagescope": _imagescope(),
    "gz": gzip.compress(_geojson(), mtime=0),
    "zip": _zipped(_geojson()),
}

#: Pieces that break readers: numbers out of range, wrong types, other encodings, entities, deep nesting.
PIECES = [
    b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"1e308", b"-1e9", b"9" * 400, b'""', b'"x"', b"[]", b"{}",
    b"[[[]]]", b"[" * 3000, b"{\"a\":" * 3000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"&x;",
    b"<!DOCTYPE a>", b"<!ENTITY x 'y'>", b"<![CDATA[", b"]]>", b"<" * 500, b'"Polygon"', b'"MultiPolygon"', b'"Point"',
    b'"GeometryCollection"', b'"classification"', b'"{\'name\': ' + b"(" * 500 + b'"', b"0,0", b"1.5", b"-7",
    b"{'a': 1}",
]  # fmt: skip


def peak_bytes() -> int:
    """The most memory that this process has held; 0 where that cannot be asked (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One or two edits: a bit, a byte, a digit, a piece put in or over, a stretch cut, doubled or moved, no end."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 2)):
        if not content:
            return bytes(content)
        at = rng.randrange(len(content))
        end = min(len(content), at + rng.choice([1, 2, 8, 40, 200]))
        edit = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8])
        if edit == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif edit == 1:
            content[at] = rng.randrange(256)
        elif edit == 2:
            content[at:at] = rng.choice(PIECES)
        elif edit == 3:
            content[at:end] = rng.choice(PIECES)
        elif edit == 4:
            del content[at:end]
        elif edit == 5:
            content[at:at] = content[at:end] * rng.choice([1, 3, 50])
        elif edit == 6:
            del content[at:]
        elif edit == 8:
            digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
            content[rng.choice(digits or [at])] = rng.choice(b"0123456789-.e")
        else:
            piece = content[at:end]
            del content[at:end]
            place = rng.randrange(len(content) + 1)
            content[place:place] = piece
    return bytes(content)


def replaced(value, rng: random.Random):
    """A JSON value with parts of it replaced by something of another kind: damage that still parses."""
    other = [
        None,
        True,
        -1,
        1e9,
        1e7,
        0.5,
        "",
        "TLS",
        [],
        {},
        [[]],
        [1],
        [[1, 2]],
        [[0, 0], [1, 1]],
        {"type": "Polygon"},
    ]
    if rng.random() < 0.004:
        return rng.choice(other)
    if isinstance(value, dict):
        return {k: replaced(v, rng) for k, v in value.items() if rng.random() > 0.003}
    if isinstance(value, list):
        return [replaced(v, rng) for v in value if rng.random() > 0.003]
    if isinstance(value, (int, float)) and rng.random() < 0.02:
        return rng.choice([-value, value * 1e3, value + 0.1, int(value)])
    return value


@pytest.mark.parametrize("kind", [*SEEDS, "values"])
def test_a_damaged_file_gives_a_clean_error_or_valid_outlines_in_time(kind, tmp_path):
    rng = random.Random(f"tlskit {kind}")
    path = tmp_path / "damaged"
    seed = SEEDS.get(kind, b"")
    values = json.loads(SEEDS["geojson"])
    ends, slowest, before = Counter(), 0.0, peak_bytes()
    for number in range(N_FILES // 6):
        content = mutated(seed, rng) if kind != "values" else json.dumps(replaced(values, rng)).encode()
        path.write_bytes(content)
        start = time.process_time()
        try:
            found = annotations.read_annotations(path)
            annotations.describe(found)
            targets = annotations.targets_of(found, ["TLS", "TLS: GC"], missing="empty", path=path)
        except AnnotationError as error:
            assert str(path) in str(error), f"file {number} of {kind}: {error}"
            ends["error"] += 1
        else:
            assert all(o.geometry.is_valid and not o.geometry.is_empty for o in found.outlines)
            assert all(p.is_valid and p.area > 0 for p in targets)
            assert sum(found.report["classes"].values()) == len(found.outlines)
            ends["read"] += 1
        slowest = max(slowest, time.process_time() - start)
    most = peak_bytes() - before
    print(f"{kind}: {sum(ends.values())} files, {dict(ends)}, slowest {slowest:.3f} s, {most / 2**20:.0f} MB at most")
    # Both ends must have been met, or the damage was no test. (A gzip has a checksum: nearly any edit is an error.)
    assert ends["error"] > 0 and (ends["read"] > 0 or kind == "gz")
    assert slowest < SLOWEST_S
    assert most < MOST_BYTES


def test_a_damaged_manifest_gives_a_clean_error_or_a_table(tmp_path):
    from tlskit.cohort import manifest as cohort

    rng = random.Random(7)
    seed = (b"slide_id,patient_id,cancer_type,slide_path,annotation_path,mpp_override,split\n"
            b'a,p1,lung,a.svs,a.geojson,0.25,train\n"b c",p2,"x, y",s\\b.svs,,,val\n')  # fmt: skip
    pieces = [
        b'"',
        b",",
        b";",
        b"\n",
        b"\r",
        b"\x00",
        b"\xff",
        b"../",
        b"C:\\",
        b"sep=;\n",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"PK",
    ]
    path = tmp_path / "manifest.csv"
    ends = Counter()
    for _ in range(max(200, N_FILES // 10)):
        content = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            content[at : at + rng.choice([0, 1, 5])] = rng.choice([*pieces, b"", bytes([rng.randrange(256)])])
        path.write_bytes(bytes(content))
        try:
            table = cohort.read_manifest(path)
        except ManifestError as error:
            assert str(path) in str(error)
            ends["error"] += 1
        else:
            assert not table["slide_id"].str.contains(r"[/\\]|^\.").any()
            ends["read"] += 1
    assert ends["error"] > 20 and ends["read"] > 20
