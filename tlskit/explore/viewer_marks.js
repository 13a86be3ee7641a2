// What is drawn over the pictures of a pane: outlines, frames, the scale, the legend and the small map in the corner.

import { RAMP, TILE, clamp } from "./viewer_pixels.js";

const TRUTH = "#00e5ff";
const DRAWN = "#a5007f"; // dark, in a light rim: who does not see red and green tells it from the truth by that
const RIM = "rgba(20,20,20,.75)";
const LIGHT_RIM = "rgba(255,255,255,.9)";
const FEW = 100; // outlines, of which each has its name and corners at any size

export function stroke(context, path, colour, unit) {
  for (const [style, width] of [[colour === DRAWN ? LIGHT_RIM : RIM, 4], [colour, 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.stroke(path);
  }
}

export function ringsPath(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

const shapes = new WeakMap();

export function shapeOf(outline) {
  // An outline's path, its box and its topmost corner: made once, for an outline that changes is another object.
  let shape = shapes.get(outline);
  if (!shape) {
    const box = [Infinity, Infinity, -Infinity, -Infinity];
    let top = outline.rings[0][0];
    for (const [x, y] of outline.rings[0]) {
      box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
      if (y < top[1]) top = [x, y];
    }
    shapes.set(outline, (shape = { path: ringsPath(outline.rings), box, top }));
  }
  return shape;
}

function drawnOutline(view, outline, chosen, few) {
  const { context, scale, origin, end } = view;
  const { path, box, top } = shapeOf(outline);
  const margin = 12 / scale;
  if (box[0] > end[0] + margin || box[1] > end[1] + 2 * margin) return;
  if (box[2] < origin[0] - margin || box[3] < origin[1] - margin) return;
  stroke(context, path, DRAWN, (chosen ? 1.8 : 1) / scale);
  const large = chosen || few || Math.max(box[2] - box[0], box[3] - box[1]) * scale > 24;
  if (!large) return;
  context.fillStyle = DRAWN;
  for (const ring of outline.rings) if (ring.length < 200 || chosen)
    for (const [x, y] of ring) context.fillRect(x - 3 / scale, y - 3 / scale, 6 / scale, 6 / scale);
  context.font = `600 ${12 / scale}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.strokeStyle = "#fff";
  context.lineWidth = 4 / scale;
  context.strokeText(outline.class, top[0], top[1] - 7 / scale);
  context.fillStyle = "#8a0f6c";
  context.fillText(outline.class, top[0], top[1] - 7 / scale);
}

export function outlines(view, model, truthPath, map, hand) {
  const { context, scale, ratio, origin, middle } = view;
  context.save();
  context.setTransform(ratio * scale, 0, 0, ratio * scale, -origin[0] * scale * ratio, -origin[1] * scale * ratio);
  context.lineJoin = "round";
  const thin = view.size[1] < 350 ? 0.6 : 1; // small panes need thin lines
  if (model.get("show_truth")) stroke(context, truthPath, TRUTH, thin / scale);
  const drawn = model.get("drawn");
  drawn.forEach((one, i) => drawnOutline(view, one, i === model.get("selected"), drawn.length <= FEW));
  if (hand.drawing?.length) {
    const path = new Path2D();
    [...hand.drawing, hand.pointer ?? middle].forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    stroke(context, path, DRAWN, 1 / scale);
    context.fillStyle = DRAWN;
    for (const [x, y] of hand.drawing) context.fillRect(x - 3 / scale, y - 3 / scale, 6 / scale, 6 / scale);
  }
  const framed = frames(model.get("show_context") ? map?.frames : null, middle);
  for (const { place: [x, y], side, dashes } of framed) {
    const path = new Path2D();
    path.rect(x, y, side, side);
    context.setLineDash(dashes.map((v) => v / scale));
    stroke(context, path, "#ffffff", thin / scale);
  }
  context.setLineDash([]);
  const marker = model.get("marker");
  if (marker.length) {
    const path = new Path2D();
    path.arc(marker[0], marker[1], marker[2], 0, 2 * Math.PI);
    context.setLineDash([8 / scale, 6 / scale]);
    stroke(context, path, "#ffffff", 1 / scale);
  }
  context.restore();
  return framed;
}

function frames(found, middle) {
  // The window whose middle is nearest to the view's, and what the network saw around it.
  if (!found) return [];
  const { windows, contexts, window_px0, context_px0 } = found;
  const nearest = (starts, at) => starts.reduce((best, v, i) =>
    (Math.abs(v + window_px0 / 2 - at) < Math.abs(starts[best] + window_px0 / 2 - at) ? i : best), 0);
  const [i, j] = [0, 1].map((axis) => nearest(windows[axis], middle[axis]));
  return [[windows, window_px0, []], [contexts, context_px0, [9, 6]]].map(
    ([[xs, ys], side, dashes]) => ({ place: [xs[i], ys[j]], side, dashes }));
}

export function furniture(view, model, map, drawing) {
  const { context, scale, size: [cw, ch] } = view;
  const plate = (x, y, w, h) => { context.fillStyle = "rgba(255,255,255,.85)"; context.fillRect(x, y, w, h); };
  context.font = "12px system-ui, sans-serif";
  const mpp0 = model.get("mpp0");
  if (mpp0) {
    const goal = ((cw / 5) * mpp0) / scale;
    const power = 10 ** Math.floor(Math.log10(goal));
    const length = [5, 2, 1].map((n) => n * power).find((v) => v <= goal);
    const pixels = (length / mpp0) * scale;
    plate(10, ch - 34, pixels + 12, 26);
    context.fillStyle = "#111";
    context.fillRect(16, ch - 15, pixels, 4);
    context.textAlign = "left";
    context.fillText(length >= 1000 ? `${length / 1000} mm` : `${length} um`, 16, ch - 20);
  }
  if (map && model.get("layer") === "probability") {
    const [width, left, top] = [120, cw - 150, ch - 34];
    plate(left - 10, top, width + 30, 26);
    const colours = context.createLinearGradient(left, 0, left + width, 0);
    RAMP.forEach((colour, i) => colours.addColorStop(i / (RAMP.length - 1), colour));
    context.fillStyle = colours;
    context.fillRect(left, top + 16, width, 7);
    context.fillStyle = "#111";
    for (const [text, place, align] of [["0", 0, "left"], ["probability", 0.5, "center"], ["1", 1, "right"]]) {
      context.textAlign = align;
      context.fillText(text, left + place * width, top + 12);
    }
  }
  if (drawing) { // where Space puts a corner
    context.strokeStyle = "#000";
    context.lineWidth = 1;
    context.strokeRect(cw / 2 - 8, ch / 2 - 0.5, 16, 1);
    context.strokeRect(cw / 2 - 0.5, ch / 2 - 8, 1, 16);
  }
}

export function smallMap(view, model, tiles) {
  // The whole slide in a corner, with a frame round what is shown: where that is not most of it.
  const { context, origin, end, size: [cw, ch] } = view;
  const [w, h] = model.get("size_px0");
  if ((end[0] - origin[0]) * (end[1] - origin[1]) > 0.8 * w * h || ch < 250) return;
  const small = Math.min(130 / w, 110 / h);
  const [left, top] = [cw - w * small - 10, 10];
  context.fillStyle = "#fff";
  context.fillRect(left, top, w * small, h * small);
  const level = model.get("levels") - 1;
  const side = TILE * 2 ** level;
  for (let y = 0; y * side < h; y++) for (let x = 0; x * side < w; x++) {
    const tile = tiles.found.get(`s/${level}/${x}/${y}`);
    if (tile) context.drawImage(tile.image, left + x * side * small, top + y * side * small,
      tile.width * 2 ** level * small, tile.height * 2 ** level * small);
  }
  context.strokeStyle = "#555";
  context.lineWidth = 1;
  context.strokeRect(left, top, w * small, h * small);
  context.strokeStyle = "#d00";
  context.lineWidth = 2;
  const at = (v, axis) => clamp(v, 0, [w, h][axis]) * small;
  context.strokeRect(left + at(origin[0], 0), top + at(origin[1], 1),
    Math.max(3, at(end[0], 0) - at(origin[0], 0)), Math.max(3, at(end[1], 1) - at(origin[1], 1)));
}
