// The pictures of a pane: tiles of the slide, over them those of a map, and where the network did not look.

import { TILE, YELLOW, clamp } from "./viewer_pixels.js";
import { stroke } from "./viewer_marks.js";

export function slideSource(model) {
  const [w, h] = model.get("size_px0");
  const size = (level) => [Math.ceil(w / 2 ** level), Math.ceil(h / 2 ** level)];
  return { id: "s", d: 1, levels: model.get("levels"), size };
}

export function mapSource(model, index) {
  const map = model.get("maps")[index];
  return { id: index, d: map.d, levels: map.sizes_px.length, size: (level) => map.sizes_px[level] };
}

export function levelFor(source, pixels) {
  // The coarsest level that still has about a pixel for each of the screen's.
  return clamp(Math.floor(Math.log2(1 / (pixels * source.d)) + 0.25), 0, source.levels - 1);
}

function inSight(view, source) {
  // Tiles of a source that the pane shows: their level, their side in level-0 px, and where they lie.
  const level = levelFor(source, view.scale * view.ratio);
  const side = source.d * 2 ** level * TILE;
  const range = (axis) => {
    const last = Math.ceil(source.size(level)[axis] / TILE) - 1;
    return [clamp(Math.floor(view.origin[axis] / side), 0, last), clamp(Math.floor(view.end[axis] / side), 0, last)];
  };
  const [x0, x1] = range(0), [y0, y1] = range(1);
  const places = [];
  for (let y = y0; y <= y1; y++)
    for (let x = x0; x <= x1; x++) places.push({ key: `${source.id}/${level}/${x}/${y}`, x, y });
  return { level, side, places };
}

export function lookAhead(view, model, tiles, wanted) {
  // The other maps of the same field, once all in sight has come: the magnification slider then finds them here.
  for (const index of model.get("maps").keys())
    for (const { key } of inSight(view, mapSource(model, index)).places)
      if (!tiles.has(key)) wanted.set(key, 1000 + index);
}

export function layer(view, tiles, source, wanted, picture) {
  // Draw the tiles in sight; those that are not here yet are put among what is `wanted`.
  const { context, scale, origin, middle } = view;
  const { level, side, places } = inSight(view, source);
  const used = [];
  let missing = 0;
  for (const { key, x, y } of places) {
    let tile = tiles.get(key);
    if (tile) used.push(tile);
    else if (!tiles.lost.has(key)) {
      missing++;
      const far = Math.hypot((x + 0.5) * side - middle[0], (y + 0.5) * side - middle[1]) / side;
      wanted.set(key, Math.min(far + (source.id === "s" ? 0.5 : 0), wanted.get(key) ?? Infinity));
    }
    // Until a tile has come, the part of a coarser one that covers it stands in its place.
    let up = 0;
    while (!tile && level + up < source.levels - 1) {
      up++;
      tile = tiles.found.get(`${source.id}/${level + up}/${x >> up}/${y >> up}`);
    }
    const image = tile && picture(tile);
    if (!image) continue;
    const part = TILE >> up;
    const [sx, sy] = [(x & ((1 << up) - 1)) * part, (y & ((1 << up) - 1)) * part];
    // Tiles at the right and bottom edge are smaller; maps' are padded to full size with zeros.
    const [pw, ph] = [Math.min(part, (tile.width ?? TILE) - sx), Math.min(part, (tile.height ?? TILE) - sy)];
    if (pw <= 0 || ph <= 0) continue;
    // Edges on whole device pixels, so that no seam shows between tiles.
    const snap = (v, o) => Math.round((v - o) * scale * view.ratio) / view.ratio;
    const [left, top] = [snap(x * side, origin[0]), snap(y * side, origin[1])];
    const right = snap(x * side + (pw / part) * side, origin[0]);
    const bottom = snap(y * side + (ph / part) * side, origin[1]);
    context.drawImage(image, sx, sy, pw, ph, left, top, right - left, bottom - top);
  }
  return { missing, used };
}

export function vectorEdges(view, tiles, source, level, cut) {
  // Zoomed past the map's pixels: the edge as lines between positive and negative pixels.
  const { context, scale, origin, end } = view;
  const step = source.d * 2 ** level;
  const [w, h] = source.size(level);
  const at = (x, y) => {
    if (x < 0 || y < 0 || x >= w || y >= h) return false;
    const tile = tiles.found.get(`${source.id}/${level}/${x >> 8}/${y >> 8}`);
    return !!tile && tile.values[((y & 255) << 8) | (x & 255)] >= cut;
  };
  const low = (axis) => Math.max(-1, Math.floor(origin[axis] / step) - 1);
  const high = (axis, n) => Math.min(n, Math.ceil(end[axis] / step) + 1);
  const path = new Path2D();
  const sx = (x) => (x * step - origin[0]) * scale, sy = (y) => (y * step - origin[1]) * scale;
  for (let y = low(1); y < high(1, h); y++) for (let x = low(0); x < high(0, w); x++) {
    const here = at(x, y);
    if (here !== at(x + 1, y)) { path.moveTo(sx(x + 1), sy(y)); path.lineTo(sx(x + 1), sy(y + 1)); }
    if (here !== at(x, y + 1)) { path.moveTo(sx(x), sy(y + 1)); path.lineTo(sx(x + 1), sy(y + 1)); }
  }
  context.lineCap = "square";
  stroke(context, path, `rgb(${YELLOW})`, 1);
}

export function keepOut(view, map) {
  // Clip to what the network looked at.
  const { context, scale, origin, size } = view;
  const area = new Path2D();
  area.rect(0, 0, ...size);
  for (const [x, y, w, h] of [...map.lost, ...map.unseen]) {
    area.rect((x - origin[0]) * scale, (y - origin[1]) * scale, w * scale, h * scale);
  }
  context.clip(area, "evenodd");
}

export function hatch(view, map) {
  // Where the network did not look there is no answer: stripes, dark red where pixels were lost, grey where a screen
  // kept it away.
  const { context, scale, origin, end, size: [cw, ch] } = view;
  for (const [boxes, colour] of [[map.lost, "rgba(150,0,0,.8)"], [map.unseen, "rgba(60,60,60,.55)"]]) {
    if (!boxes.length) continue;
    const area = new Path2D();
    for (const [x, y, w, h] of boxes) {
      if (x > end[0] || y > end[1] || x + w < origin[0] || y + h < origin[1]) continue;
      area.rect((x - origin[0]) * scale, (y - origin[1]) * scale, Math.max(2, w * scale), Math.max(2, h * scale));
    }
    context.save();
    context.clip(area);
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.beginPath();
    for (let x = -ch; x < cw; x += 9) { context.moveTo(x, ch); context.lineTo(x + ch, 0); }
    context.stroke();
    context.restore();
  }
}
