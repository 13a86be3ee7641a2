// Tiles of the view and their colours: what has come from the kernel, and what a threshold makes of a map's values.

export const TILE = 256;
const KEEP = { slide: 500, map: 250 }; // tiles held in the browser
export const YELLOW = [255, 214, 0];
// From unlikely to likely; no end of it is as pale as glass or as pink as tissue (matplotlib's plasma).
export const RAMP = ["#0d0887", "#5c01a6", "#9c179e", "#cc4778", "#ed7953", "#fdb42f", "#f0f921"];

export const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
// The kernel's rule (tlskit.metrics.thresholds.cut): smallest stored value that is positive.
export const cutOf = (threshold) => Math.ceil(threshold * 255 - 1e-9);

function ramp(q) {
  const place = (q / 255) * (RAMP.length - 1);
  const at = Math.min(RAMP.length - 2, Math.floor(place));
  const channel = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [0, 1, 2].map((i) => channel(RAMP[at], i) + (place - at) * (channel(RAMP[at + 1], i) - channel(RAMP[at], i)));
}

export class Tiles {
  // What has been asked of the kernel and what has come, by "source/level/x/y"; source is "s" or a map's number.
  constructor() { this.clear(); }
  clear() { this.found = new Map(); this.lost = new Set(); this.came = 0; } // `came`: pieces of the slide so far
  get(key) {
    const tile = this.found.get(key);
    if (tile) { this.found.delete(key); this.found.set(key, tile); } // most recently used last
    return tile;
  }
  has(key) { return this.found.has(key) || this.lost.has(key); }
  put(key, tile) {
    this.found.set(key, tile);
    const kind = key[0] === "s" ? "slide" : "map";
    if (kind === "slide") this.came++;
    const same = [...this.found.keys()].filter((k) => (k[0] === "s") === (kind === "slide"));
    for (const old of same.slice(0, Math.max(0, same.length - KEEP[kind]))) {
      this.found.get(old).image?.close?.();
      this.found.delete(old);
    }
  }
}

export function mapTile(values) {
  // A map's tile as it is kept: `most` is its highest value, by which a tile without anything positive is passed over.
  let most = 0;
  for (let i = 0; i < values.length; i++) if (values[i] > most) most = values[i];
  return { values, most };
}

let sheet = null; // pixels on their way to a tile's canvas

export function paintMap(tile, look) {
  // A map's tile as the threshold shows it: filled where positive, with an opaque rim of one pixel along its edge.
  // Null where nothing of it is to be seen.
  if (tile.look === look.key) return tile.picture;
  tile.look = look.key;
  tile.positive = 0;
  tile.picture = null;
  if (look.hollow && tile.most < look.cut) return null;
  tile.canvas ??= new OffscreenCanvas(TILE, TILE);
  const context = tile.canvas.getContext("2d");
  sheet ??= context.createImageData(TILE, TILE);
  const out = new Uint32Array(sheet.data.buffer);
  const { values: q } = tile;
  const { cut, above, below, rim, edge } = look;
  const last = TILE - 1, end = q.length - TILE;
  let positive = 0;
  for (let i = 0; i < q.length; i++) {
    const v = q[i];
    if (v < cut) { out[i] = below[v]; continue; }
    positive++;
    const x = i & last;
    out[i] = rim && (
      (x > 0 && q[i - 1] < cut) || (x < last && q[i + 1] < cut) ||
      (i >= TILE && q[i - TILE] < cut) || (i < end && q[i + TILE] < cut)) ? edge : above[v];
  }
  context.putImageData(sheet, 0, 0);
  tile.positive = positive;
  tile.picture = tile.canvas;
  return tile.picture;
}

let newest = { key: "" };

export function makeLook(cut, opacity, style, rim) {
  // Colours of all 256 values; `hollow` where what is below the threshold is not painted at all.
  const key = [cut, opacity, style, rim].join();
  if (newest.key === key) return newest;
  const rgba = ([r, g, b], a) =>
    ((Math.round(a * 255) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;
  const above = new Uint32Array(256), below = new Uint32Array(256);
  for (let q = 0; q < 256; q++) {
    if (style === "probability") above[q] = below[q] = rgba(ramp(q), Math.min(1, 1.6 * opacity) * Math.min(1, q / 64));
    else above[q] = rgba(YELLOW, opacity);
  }
  return (newest = { key, cut, above, below, edge: rgba(YELLOW, 1), rim, hollow: style !== "probability" });
}
