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
from outline_fuzzer import mutated, replaced, tally

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


def peak_bytes() -> int:
    """The most memory that this process has held; 0 where that cannot be asked (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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


def test_no_damage_makes_a_slide_without_target_of_one_with_two():
    """A small part of `outline_fuzzer`: 100,000 such files were tried by it."""
    ends = tally(max(600, N_FILES // 3), seed=5)
    print(dict(ends))
    assert ends["silently no target"] == ends["no target, and nothing told of it"] == ends["another exception"] == 0
    assert ends["error"] > 100 and ends["as before"] > 20 and ends["fewer, and told"] > 0
