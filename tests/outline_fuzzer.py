"""Damage to files of outlines that hold two targets: is it ever taken for a slide without target?

``python tests/outline_fuzzer.py 100000 --seed 1`` prints how the files ended, by kind of damage; the tests run a part.
"""

import argparse
import json
import random
import sys
from collections import Counter

from tlskit.errors import AnnotationError
from tlskit.outlines import findings
from tlskit.outlines import reading as annotations

#: Pieces that break readers: numbers out of range, wrong types, other encodings, entities, deep nesting.
PIECES = [
    b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"1e308", b"-1e9", b"9" * 400, b'""', b'"x"', b"[]", b"{}",
    b"[[[]]]", b"[" * 3000, b"{\"a\":" * 3000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"&x;",
    b"<!DOCTYPE a>", b"<!ENTITY x 'y'>", b"<![CDATA[", b"]]>", b"<" * 500, b'"Polygon"', b'"MultiPolygon"', b'"Point"',
    b'"GeometryCollection"', b'"classification"', b'"{\'name\': ' + b"(" * 500 + b'"', b"0,0", b"1.5", b"-7",
    b"{'a': 1}",
]  # fmt: skip


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


def _ring(x: float) -> list:
    return [[x, 10], [x + 30.5, 10], [x + 30, 40], [x, 40], [x, 10]]


def _feature(x: float, classification=None, **properties) -> dict:
    classification = {"name": "TLS", "color": [200, 0, 0]} if classification is None else classification
    properties |= {"objectType": "annotation", "classification": classification}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [_ring(x)]}, "properties": properties}


def _shapes() -> dict[str, bytes]:
    """Files with two targets each, in every shape that they come in."""
    one, two = _feature(0), _feature(100)
    old = {"name": "TLS", "colorRGB": -3670016}
    tumour = {"name": "mature", "parentClass": {"name": "Tumor", "colorRGB": -1}, "colorRGB": -1}
    many = {"type": "MultiPolygon", "coordinates": [[_ring(0)], [_ring(100)]]}
    shapes = {
        "collection": {"type": "FeatureCollection", "features": [one, two]},
        "array": [one, two],
        "collections": [{"type": "FeatureCollection", "features": [f]} for f in (one, two)],
        "children": {"type": "FeatureCollection", "features": [_feature(200, tumour, childObjects=[one, two])]},
        "deep children": _feature(200, tumour, children=[_feature(300, {"names": ["A", "b"]}, children=[one, two])]),
        "old classes": [_feature(0, old), _feature(100, old), _feature(200, tumour)],
        "text classes": [_feature(0, "TLS"), _feature(100, "{'name': 'TLS'}")],
        "multi": {**one, "geometry": many},
        "geometries": {**one, "geometry": {"type": "GeometryCollection", "geometries": [many]}},
    }
    texts = {name: json.dumps(value).encode() for name, value in shapes.items()}

    def points(word, x):
        return "".join(f'<{word} Order="{i}" X="{a}" Y="{b}"/>' for i, (a, b) in enumerate(_ring(x)))

    asap = "".join(
        f'<Annotation Name="A" Type="Polygon" PartOfGroup="TLS"><Coordinates>{points("Coordinate", x)}</Coordinates>'
        "</Annotation>" for x in (0, 100)
    )  # fmt: skip
    texts["asap"] = (
        f'<ASAP_Annotations><Annotations>{asap}</Annotations><AnnotationGroups><Group Name="TLS" PartOfGroup="None"/>'
        "</AnnotationGroups></ASAP_Annotations>"
    ).encode()
    for program, kind, word in (("imagescope", "0", "Vertex"), ("halo", "Polygon", "V")):
        regions = "".join(
            f'<Region Type="{kind}" NegativeROA="0"><Vertices>{points(word, x)}</Vertices></Region>' for x in (0, 100)
        )
        texts[program] = (
            f'<Annotations><Annotation Name="TLS" LineColor="65280"><Regions>{regions}</Regions></Annotation>'
            "</Annotations>"
        ).encode()
    return texts


SHAPES = _shapes()


def renamed(content: bytes, rng: random.Random) -> bytes:
    """A key, a tag or a name changed wherever it stands: damage that still parses."""
    words = sorted(set(_WORDS) & set(content.decode().replace("<", " ").replace('"', " ").replace("/", " ").split()))
    words = words or ["TLS"]
    word = rng.choice(words)
    other = rng.choice([word.lower(), word.upper(), word[:-1], word + "s", rng.choice(_WORDS), ""])
    return content.replace(word.encode(), other.encode(), rng.choice([1, -1]))


_WORDS = (
    "FeatureCollection", "Feature", "features", "geometry", "geometries", "coordinates", "properties", "childObjects",
    "children", "classification", "name", "names", "parentClass", "objectType", "annotation", "type", "Polygon",
    "MultiPolygon", "GeometryCollection", "TLS", "Annotations", "Annotation", "Coordinates", "Coordinate", "Regions",
    "Region", "Vertices", "Vertex", "V", "X", "Y", "PartOfGroup", "Group", "Name", "Type", "NegativeROA",
    "ASAP_Annotations",
)  # fmt: skip


def holds_nothing(content: bytes) -> bool:
    """Whether nothing of an outline is left in a file: no list of numbers, no point."""
    text = content.decode("utf-8", "replace")
    return "[[" not in text.replace(" ", "").replace("[[]]", "") and "X=" not in text and "Y=" not in text


def ending(content: bytes, path) -> str:
    """How a file ends that once held two targets."""
    path.write_bytes(content)
    try:
        found = annotations.read_annotations(path)
        targets = annotations.targets_of(found, "TLS", missing="empty", path=path)
        told = [*annotations.describe(found), *findings.also_holds(found, "TLS")]
        if not targets and not told and not holds_nothing(content):
            return "no target, and nothing told of it"
        targets = annotations.targets_of(found, "TLS", path=path)
    except AnnotationError:
        return "error"
    except Exception as error:  # what is not ours is what is looked for
        print(f"{type(error).__name__}: {error}: {content[:300]!r}", file=sys.stderr)
        return "another exception"
    if not targets:
        return "emptied by the damage" if holds_nothing(content) else "silently no target"
    if len(targets) >= 2:
        return "as before"
    return "fewer, and told" if told else "fewer, without a word"


def tally(number: int, *, seed: int) -> Counter:
    """Ends of `number` damaged files, of all shapes and kinds of damage in turn."""
    import tempfile
    from pathlib import Path

    rng = random.Random(f"outlines {seed}")
    kinds = (mutated, renamed, lambda content, rng: _values(content, rng))
    ends: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged"
        for n in range(number):
            name = list(SHAPES)[n % len(SHAPES)]
            content = kinds[n // len(SHAPES) % len(kinds)](SHAPES[name], rng)
            end = ending(content, path)
            ends[end] += 1
            if end in ("silently no target", "no target, and nothing told of it") or (
                end == "fewer, without a word" and ends[end] <= 30
            ):
                print(f"{end}: {name}: {content[:1500]!r}", file=sys.stderr)
    return ends


def _values(content: bytes, rng: random.Random) -> bytes:
    """Parts of a JSON value replaced; of XML, two edits."""
    if content[:1] == b"<":
        return mutated(renamed(content, rng), rng)
    value = json.loads(content)
    for _ in range(20):  # most draws of so small a file change nothing
        changed = replaced(value, rng)
        if changed != value:
            break
    return json.dumps(changed).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    ends = tally(given.number, seed=given.seed)
    print("\n".join(f"{count:>8}  {end}" for end, count in ends.most_common()))
    sys.exit(any(ends[end] for end in ("silently no target", "no target, and nothing told of it", "another exception")))
