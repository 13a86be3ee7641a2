// A slide in the browser: tiles of the slide, over them one probability map a pane, over those the outlines.
// The kernel sends pixels; thresholds are applied here, so that a slider's tick needs neither the kernel nor the slide.
// Coordinates are level-0 pixels with the origin at the slide's top left; a *field* is [centre x, centre y, width].

const TILE = 256;
const KEEP = { slide: 500, map: 250 }; // tiles held in the browser
const TRUTH = "#00e5ff";
const DRAWN = "#a5007f"; // dark, in a light rim: who does not see red and green tells it from the truth by that
const UNDO = 100; // steps that are kept
const SLOW_S = 4; // after so many seconds without a piece that was asked for the slide is called slow
const YELLOW = [255, 214, 0];
const RIM = "rgba(20,20,20,.75)";
const LIGHT_RIM = "rgba(255,255,255,.9)";
// From unlikely to likely; no end of it is as pale as glass or as pink as tissue (matplotlib's plasma).
const RAMP = ["#0d0887", "#5c01a6", "#9c179e", "#cc4778", "#ed7953", "#fdb42f", "#f0f921"];

const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
// The kernel's rule (tlskit.metrics.thresholds.cut): smallest stored value that is positive.
const cutOf = (threshold) => Math.ceil(threshold * 255 - 1e-9);
const numbers = (list) => list.map((v) => Math.round(v * 100) / 100);

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function ramp(q) {
  const place = (q / 255) * (RAMP.length - 1);
  const at = Math.min(RAMP.length - 2, Math.floor(place));
  const channel = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [0, 1, 2].map((i) => channel(RAMP[at], i) + (place - at) * (channel(RAMP[at + 1], i) - channel(RAMP[at], i)));
}

class Tiles {
  // What has been asked of the kernel and what has come, by "source/level/x/y"; source is "s" or a map's number.
  constructor() { this.clear(); }
  clear() { this.found = new Map(); this.lost = new Set(); }
  get(key) {
    const tile = this.found.get(key);
    if (tile) { this.found.delete(key); this.found.set(key, tile); } // most recently used last
    return tile;
  }
  put(key, tile) {
    this.found.set(key, tile);
    const kind = key[0] === "s" ? "slide" : "map";
    const same = [...this.found.keys()].filter((k) => (k[0] === "s") === (kind === "slide"));
    for (const old of same.slice(0, Math.max(0, same.length - KEEP[kind]))) {
      this.found.get(old).image?.close?.();
      this.found.delete(old);
    }
  }
}

function paintMap(tile, look) {
  // A map's tile as the threshold shows it: filled where positive, with an opaque rim of one pixel along its edge.
  if (tile.look === look.key) return tile.canvas;
  tile.canvas ??= new OffscreenCanvas(TILE, TILE);
  const context = tile.canvas.getContext("2d");
  const image = context.createImageData(TILE, TILE);
  const out = new Uint32Array(image.data.buffer);
  const q = tile.values;
  let positive = 0;
  for (let i = 0; i < q.length; i++) {
    if (q[i] < look.cut) { out[i] = look.below[q[i]]; continue; }
    positive++;
    const x = i & (TILE - 1);
    const edge = look.rim && (
      (x > 0 && q[i - 1] < look.cut) || (x < TILE - 1 && q[i + 1] < look.cut) ||
      (i >= TILE && q[i - TILE] < look.cut) || (i < q.length - TILE && q[i + TILE] < look.cut));
    out[i] = edge ? look.edge : look.above[q[i]];
  }
  context.putImageData(image, 0, 0);
  tile.look = look.key;
  tile.positive = positive;
  return tile.canvas;
}

function makeLook(cut, opacity, style, rim, outline) {
  const rgba = ([r, g, b], a) => ((Math.round(a * 255) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;
  const above = new Uint32Array(256), below = new Uint32Array(256);
  for (let q = 0; q < 256; q++) {
    if (style === "probability") above[q] = below[q] = rgba(ramp(q), Math.min(1, 1.6 * opacity) * Math.min(1, q / 64));
    else above[q] = rgba(YELLOW, opacity);
  }
  return { key: [cut, opacity, style, rim, outline].join(), cut, above, below, edge: rgba(YELLOW, 1), rim: rim && outline };
}

function render({ model, el }) {
  const tiles = new Tiles();
  const root = element("div", { className: "tlskit-view" });
  const bar = element("div", { className: "tlskit-view-bar", role: "toolbar" });
  const grid = element("div", { className: "tlskit-view-grid" });
  const note = element("div", { className: "tlskit-view-note", role: "status" });
  root.append(bar, grid, note);
  el.append(root);

  let field = [...model.get("field")];
  let panes = [];
  let asked = "";
  let drawing = null; // vertices of the outline being drawn
  let grabbed = null; // [outline, ring, vertex] being moved
  let before = []; // drawn outlines as they were, the newest last; a step back takes them from here
  let after = []; // and puts what it took away here
  let known = model.get("drawn");
  let stepping = false;
  let cutting = false; // the outline being drawn is a hole
  let own = false; // what is drawn is being changed here, and not by the kernel
  let changes = model.get("change"), saved = changes; // here, and of these the last that the kernel has written
  let shown = { title: model.get("title"), source: model.get("source") };
  let pointer = null;
  let frame = 0, later = 0, asking = 0, lookAgain = 0;
  let waiting = 0; // since when pieces of the slide are on their way
  const truth = { path: new Path2D(), rings: 0 };

  const button = (label, title, action) => {
    const node = element("button", { type: "button", textContent: label, title });
    node.addEventListener("click", () => { action(); panes[0]?.canvas.focus({ preventScroll: true }); });
    bar.append(node);
    return node;
  };
  button("+", "zoom in (key +)", () => zoom(1 / 1.5));
  button("\u2212", "zoom out (key -)", () => zoom(1.5));
  button("Fit", "show the whole slide (key Home)", () => fit());
  const drawButton = button("Draw outline", "draw an outline (key D); click or press Space at each corner, Enter ends it, Escape drops it", () => toggleDrawing());
  const holeButton = button("Cut a hole", "cut a hole, or a piece of the edge, out of outlines (key H)", () => toggleDrawing(true));
  button("Merge", "the outline that was clicked and all that touch it become one (key M)", () => merge());
  button("Delete outline", "delete the outline that was clicked, else the one in the middle (key Delete)", () => removeHere());
  const undoButton = button("Undo", "take the last change of the outlines back (Ctrl+Z)", () => step(before, after));
  const redoButton = button("Redo", "make it again (Ctrl+Shift+Z)", () => step(after, before));
  const readout = element("span", { className: "tlskit-view-readout" });
  bar.append(readout);

  const size = () => model.get("size_px0");
  const canvasWidth = () => panes[0]?.canvas.clientWidth || 600;
  const scaleOf = (pane) => pane.canvas.clientWidth / field[2]; // CSS px per level-0 px

  function makePanes() {
    const maps = model.get("maps");
    const shown = model.get("side_by_side") && maps.length > 1 ? maps.map((_, i) => i) : [model.get("active")];
    grid.style.gridTemplateColumns = shown.length > 1 ? "1fr 1fr" : "1fr";
    panes.forEach((pane) => watcher.unobserve(pane.canvas));
    grid.replaceChildren();
    panes = shown.map((map) => {
      const canvas = element("canvas", { tabIndex: 0 });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label",
        "Slide. Arrow keys move, plus and minus zoom, Home shows all, D draws an outline.");
      canvas.style.height = `${Math.round(model.get("height_px") / (shown.length > 2 ? 2 : 1))}px`;
      const label = element("div", { className: "tlskit-view-label" });
      const box = element("div", { className: "tlskit-view-pane" }, canvas, label);
      grid.append(box);
      const pane = { canvas, label, map: maps.length ? map : -1, follow: shown.length === 1 };
      listen(pane);
      watcher.observe(canvas);
      return pane;
    });
    request();
  }

  function fit() {
    const [w, h] = size();
    const canvas = panes[0].canvas;
    field = [w / 2, h / 2, Math.max(w, (h * canvas.clientWidth) / Math.max(1, canvas.clientHeight)) * 1.02];
    moved();
  }

  function moved() {
    const [w, h] = size();
    field[0] = clamp(field[0], 0, w);
    field[1] = clamp(field[1], 0, h);
    field[2] = clamp(field[2], 20, Math.max(w, h) * 6);
    clearTimeout(later);
    later = setTimeout(() => { model.set("field", numbers(field)); model.save_changes(); }, 150);
    request();
  }

  function zoom(factor, at = null) {
    const width = clamp(field[2] * factor, 20, Math.max(...size()) * 6);
    if (at) for (const i of [0, 1]) field[i] = at[i] + (field[i] - at[i]) * (width / field[2]);
    field[2] = width;
    moved();
  }

  // ---- drawing of a frame ----------------------------------------------------------------------------------------

  function request() { frame ||= requestAnimationFrame(draw); }

  function draw() {
    frame = 0;
    if (!panes.length || !panes[0].canvas.clientWidth) return;
    if (!model.get("title") && size()[0] <= 1) return nothing();
    if (!(field[2] > 0)) return fit();
    const wanted = new Map();
    for (const pane of panes) drawPane(pane, wanted);
    ask(wanted);
    tellSlow(panes.reduce((sum, pane) => sum + Number(pane.canvas.dataset.missing), 0));
    const um = (field[2] * model.get("mpp0")) / canvasWidth();
    readout.textContent = model.get("mpp0") ? `${(10 / um).toPrecision(2)}x, ${um.toPrecision(3)} um per screen pixel` : "";
  }

  function tellSlow(missing) {
    // Also a slide on a slow disk: the reader is told that something is on its way.
    waiting = missing ? waiting || performance.now() : 0;
    const seconds = waiting ? Math.round((performance.now() - waiting) / 1000) : 0;
    if (seconds >= SLOW_S) note.textContent = `The slide is read slowly: ${missing} pieces are on their way for ${seconds} s.`;
    else if (root.dataset.slow) note.textContent = "";
    root.dataset.slow = seconds >= SLOW_S ? seconds : "";
    clearTimeout(lookAgain);
    if (missing) lookAgain = setTimeout(request, 1000);
  }

  function nothing() {
    for (const { canvas, label } of panes) {
      canvas.width = canvas.clientWidth;
      canvas.height = canvas.clientHeight;
      const context = canvas.getContext("2d");
      context.fillStyle = "#555";
      context.font = "15px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText("No slide is shown.", canvas.width / 2, canvas.height / 2);
      label.style.display = "none";
      Object.assign(canvas.dataset, { slide: "", map: "", positive: 0, missing: 0, drawn: 0, corners: 0 });
    }
    readout.textContent = "";
  }

  function drawPane(pane, wanted) {
    const { canvas } = pane;
    const ratio = window.devicePixelRatio || 1;
    const [cw, ch] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(cw * ratio) || canvas.height !== Math.round(ch * ratio)) {
      canvas.width = Math.round(cw * ratio);
      canvas.height = Math.round(ch * ratio);
    }
    const context = canvas.getContext("2d");
    const scale = scaleOf(pane);
    const origin = [field[0] - cw / 2 / scale, field[1] - ch / 2 / scale];
    const view = { context, scale, ratio, origin, end: [origin[0] + cw / scale, origin[1] + ch / scale] };
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, cw, ch);
    context.imageSmoothingEnabled = scale < 2;

    const [w, h] = size();
    const slide = { id: "s", d: 1, levels: model.get("levels"), size: (level) => [Math.ceil(w / 2 ** level), Math.ceil(h / 2 ** level)] };
    let missing = layer(view, slide, wanted, (tile) => tile.image);
    const maps = model.get("maps");
    pane.index = pane.follow ? model.get("active") : pane.map;
    const map = maps[pane.index];
    let shown = 0;
    if (map) {
      const threshold = model.get("threshold");
      const source = mapSource(pane.index);
      const level = levelFor(source, scale * ratio);
      const fat = scale * map.d * 2 ** level > 2.5;
      const look = makeLook(cutOf(threshold), model.get("opacity"), model.get("layer"), !fat, model.get("outlines"));
      const used = [];
      context.imageSmoothingEnabled = false;
      missing += layer(view, source, wanted, (tile) => paintMap(tile, look), used);
      shown = used.reduce((sum, tile) => sum + tile.positive, 0);
      if (fat && model.get("outlines")) vectorEdges(view, source, level, look.cut);
      canvas.dataset.cut = look.cut;
      canvas.dataset.level = level;
    }
    if (map) hatch(view, map);
    if (pane.follow && !wanted.size) lookAhead(view, wanted);
    outlines(view, map);
    furniture(view, cw, ch, map, pane === panes[0]);
    pane.label.textContent = map ? map.name : "";
    pane.label.style.display = map ? "" : "none";
    const hatched = map ? map.lost.length + map.unseen.length : 0;
    Object.assign(canvas.dataset, { slide: model.get("title"), drawn: model.get("drawn").length, corners: drawing?.length ?? 0, hatched, map: map ? map.name : "", positive: shown, missing, painted: performance.now() });
  }

  function hatch(view, map) {
    // Where the network did not look there is no answer: stripes, dark red where pixels were lost, grey where a screen
    // kept it away.
    const { context, scale, origin, end } = view;
    for (const [boxes, colour] of [[map.lost, "rgba(150,0,0,.8)"], [map.unseen, "rgba(60,60,60,.55)"]]) {
      if (!boxes.length) continue;
      const area = new Path2D();
      for (const [x, y, w, h] of boxes) {
        if (x > end[0] || y > end[1] || x + w < origin[0] || y + h < origin[1]) continue;
        area.rect((x - origin[0]) * scale, (y - origin[1]) * scale, Math.max(2, w * scale), Math.max(2, h * scale));
      }
      const [cw, ch] = [context.canvas.clientWidth, context.canvas.clientHeight];
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

  function levelFor(source, pixels) {
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
    for (let y = y0; y <= y1; y++) for (let x = x0; x <= x1; x++) places.push({ key: `${source.id}/${level}/${x}/${y}`, x, y });
    return { level, side, places };
  }

  function mapSource(index) {
    const map = model.get("maps")[index];
    return { id: index, d: map.d, levels: map.sizes_px.length, size: (level) => map.sizes_px[level] };
  }

  function lookAhead(view, wanted) {
    // The other maps of the same field, once all in sight has come: the magnification slider then finds them here.
    for (const index of model.get("maps").keys())
      for (const { key } of inSight(view, mapSource(index)).places)
        if (!tiles.found.has(key) && !tiles.lost.has(key)) wanted.set(key, 1000 + index);
  }

  function layer(view, source, wanted, picture, used = []) {
    const { context, scale, origin } = view;
    const { level, side, places } = inSight(view, source);
    const [w, h] = source.size(level);
    let missing = 0;
    for (const { key, x, y } of places) {
      let tile = tiles.get(key);
      if (tile) used.push(tile);
      else if (!tiles.lost.has(key)) {
        missing++;
        const far = Math.hypot((x + 0.5) * side - field[0], (y + 0.5) * side - field[1]) / side;
        wanted.set(key, Math.min(far + (source.id === "s" ? 0.5 : 0), wanted.get(key) ?? Infinity));
      }
      // Until a tile has come, the part of a coarser one that covers it stands in its place.
      let up = 0;
      while (!tile && level + up < source.levels - 1) {
        up++;
        tile = tiles.found.get(`${source.id}/${level + up}/${x >> up}/${y >> up}`);
      }
      if (!tile) continue;
      const image = picture(tile);
      const part = TILE >> up;
      const [sx, sy] = [(x & ((1 << up) - 1)) * part, (y & ((1 << up) - 1)) * part];
      // Tiles at the right and bottom edge are smaller; maps' are padded to full size with zeros.
      const [pw, ph] = [Math.min(part, (tile.width ?? TILE) - sx), Math.min(part, (tile.height ?? TILE) - sy)];
      if (pw <= 0 || ph <= 0) continue;
      // Edges on whole device pixels, so that no seam shows between tiles.
      const snap = (v, o) => Math.round((v - o) * scale * view.ratio) / view.ratio;
      const [left, top] = [snap(x * side, origin[0]), snap(y * side, origin[1])];
      const right = snap(x * side + (pw / part) * side, origin[0]), bottom = snap(y * side + (ph / part) * side, origin[1]);
      context.drawImage(image, sx, sy, pw, ph, left, top, right - left, bottom - top);
    }
    return missing;
  }

  function vectorEdges(view, source, level, cut) {
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

  function stroke(context, path, colour, unit) {
    for (const [style, width] of [[colour === DRAWN ? LIGHT_RIM : RIM, 4], [colour, 2]]) {
      context.strokeStyle = style;
      context.lineWidth = width * unit;
      context.stroke(path);
    }
  }

  function ringsPath(rings) {
    const path = new Path2D();
    for (const ring of rings) {
      ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
    return path;
  }

  function outlines(view, map) {
    const { context, scale, ratio, origin } = view;
    context.save();
    context.setTransform(ratio * scale, 0, 0, ratio * scale, -origin[0] * scale * ratio, -origin[1] * scale * ratio);
    context.lineJoin = "round";
    const thin = context.canvas.clientHeight < 350 ? 0.6 : 1; // small panes need thin lines
    if (model.get("show_truth")) stroke(context, truth.path, TRUTH, thin / scale);
    for (const [i, { rings, class: name }] of model.get("drawn").entries()) {
      const chosen = i === model.get("selected");
      stroke(context, ringsPath(rings), DRAWN, (chosen ? 1.8 : 1) / scale);
      context.fillStyle = DRAWN;
      for (const ring of rings) if (ring.length < 200 || chosen)
        for (const [x, y] of ring) context.fillRect(x - 3 / scale, y - 3 / scale, 6 / scale, 6 / scale);
      const [x, y] = rings[0].reduce((top, p) => (p[1] < top[1] ? p : top));
      context.font = `600 ${12 / scale}px system-ui, sans-serif`;
      context.textAlign = "center";
      context.strokeStyle = "#fff";
      context.lineWidth = 4 / scale;
      context.strokeText(name, x, y - 7 / scale);
      context.fillStyle = "#8a0f6c";
      context.fillText(name, x, y - 7 / scale);
    }
    if (drawing?.length) {
      const path = new Path2D();
      [...drawing, pointer ?? [field[0], field[1]]].forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      stroke(context, path, DRAWN, 1 / scale);
      context.fillStyle = DRAWN;
      for (const [x, y] of drawing) context.fillRect(x - 3 / scale, y - 3 / scale, 6 / scale, 6 / scale);
    }
    if (model.get("show_context") && map?.frames) {
      // The window whose middle is nearest to the view's, and what the network saw around it.
      const { windows, contexts, window_px0, context_px0 } = map.frames;
      const nearest = (starts, at) => starts.reduce((best, v, i) =>
        (Math.abs(v + window_px0 / 2 - at) < Math.abs(starts[best] + window_px0 / 2 - at) ? i : best), 0);
      const [i, j] = [0, 1].map((axis) => nearest(windows[axis], field[axis]));
      for (const [[xs, ys], side, dashes] of [[windows, window_px0, []], [contexts, context_px0, [9, 6]]]) {
        const path = new Path2D();
        path.rect(xs[i], ys[j], side, side);
        context.setLineDash(dashes.map((v) => v / scale));
        stroke(context, path, "#ffffff", thin / scale);
      }
      context.setLineDash([]);
    }
    const marker = model.get("marker");
    if (marker.length) {
      const path = new Path2D();
      path.arc(marker[0], marker[1], marker[2], 0, 2 * Math.PI);
      context.setLineDash([8 / scale, 6 / scale]);
      stroke(context, path, "#ffffff", 1 / scale);
    }
    context.restore();
  }

  function furniture(view, cw, ch, map, first) {
    const { context, scale, origin, end } = view;
    const mpp0 = model.get("mpp0");
    if (mpp0) {
      const goal = ((cw / 5) * mpp0) / scale;
      const power = 10 ** Math.floor(Math.log10(goal));
      const length = [5, 2, 1].map((n) => n * power).find((v) => v <= goal);
      const pixels = (length / mpp0) * scale;
      context.fillStyle = "rgba(255,255,255,.85)";
      context.fillRect(10, ch - 34, pixels + 12, 26);
      context.fillStyle = "#111";
      context.fillRect(16, ch - 15, pixels, 4);
      context.font = "12px system-ui, sans-serif";
      context.textAlign = "left";
      context.fillText(length >= 1000 ? `${length / 1000} mm` : `${length} um`, 16, ch - 20);
    }
    if (map && model.get("layer") === "probability") {
      const [width, left, top] = [120, cw - 150, ch - 34];
      context.fillStyle = "rgba(255,255,255,.85)";
      context.fillRect(left - 10, top, width + 30, 26);
      const colours = context.createLinearGradient(left, 0, left + width, 0);
      RAMP.forEach((colour, i) => colours.addColorStop(i / (RAMP.length - 1), colour));
      context.fillStyle = colours;
      context.fillRect(left, top + 16, width, 7);
      context.fillStyle = "#111";
      context.font = "12px system-ui, sans-serif";
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
    const [w, h] = size();
    if (!first || (end[0] - origin[0]) * (end[1] - origin[1]) > 0.8 * w * h || ch < 250) return;
    const small = Math.min(130 / w, 110 / h);
    const [left, top] = [cw - w * small - 10, 10];
    context.fillStyle = "#fff";
    context.fillRect(left, top, w * small, h * small);
    const top_level = model.get("levels") - 1;
    const side = TILE * 2 ** top_level;
    for (let y = 0; y * side < h; y++) for (let x = 0; x * side < w; x++) {
      const tile = tiles.found.get(`s/${top_level}/${x}/${y}`);
      if (tile) context.drawImage(tile.image, left + x * side * small, top + y * side * small,
        tile.width * 2 ** top_level * small, tile.height * 2 ** top_level * small);
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

  // ---- tiles -----------------------------------------------------------------------------------------------------

  function ask(wanted) {
    // The coarsest level first: it stands in for all others and is the small map in the corner.
    const [w, h] = size();
    const top = model.get("levels") - 1;
    for (let y = 0; y * TILE * 2 ** top < h; y++) for (let x = 0; x * TILE * 2 ** top < w; x++) {
      const key = `s/${top}/${x}/${y}`;
      if (!tiles.found.has(key) && !tiles.lost.has(key)) wanted.set(key, -1);
    }
    const list = [...wanted].sort((a, b) => a[1] - b[1]).map(([key]) => key);
    if (list.join() === asked) return;
    asked = list.join();
    clearTimeout(asking);
    asking = setTimeout(() => model.send({ kind: "tiles", source: model.get("source"), want: list }), 15);
  }

  async function receive(message, buffers) {
    if (message.source !== model.get("source")) return;
    if (message.kind === "lost") {
      tiles.lost.add(message.key);
      note.textContent = message.reason;
      return request();
    }
    if (message.kind !== "tile") return;
    const bytes = buffers[0];
    const { width, height, key } = message;
    if (key[0] === "s") {
      const image = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
      if (message.source === model.get("source")) tiles.put(key, { image, width, height });
    } else {
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      const values = new Uint8Array(await new Response(stream).arrayBuffer());
      if (message.source === model.get("source")) tiles.put(key, { values });
    }
    if (key[0] === "s" || panes.some((pane) => pane.index === Number(key.split("/")[0]))) request();
  }

  // ---- hands -----------------------------------------------------------------------------------------------------

  function place(pane, event) {
    const box = pane.canvas.getBoundingClientRect();
    const scale = scaleOf(pane);
    return [field[0] + (event.clientX - box.left - box.width / 2) / scale,
      field[1] + (event.clientY - box.top - box.height / 2) / scale];
  }

  function setDrawn(drawn) {
    own = true;
    model.set("drawn", drawn);
    own = false;
    tellDrawn();
    request();
  }

  function tellDrawn() {
    changes = Math.max(changes, model.get("change")) + 1;
    model.set("change", changes);
    guard();
    model.set("drawn_source", model.get("source")); // which slide it is, should another be on its way
    model.save_changes();
  }

  function guard() {
    // The page asks before it is left while there is work that the kernel has not written yet.
    (window.tlskitUnsaved ??= new Map()).set(root, !!drawing?.length || changes > saved);
    root.dataset.unsaved = changes - saved;
    undoButton.disabled = !before.length;
    redoButton.disabled = !after.length;
  }

  function changedDrawn() {
    let now = model.get("drawn");
    if (!own && changes > saved && model.get("source") === shown.source) {
      // The kernel answers to an earlier change than the last one here, which is on its way: the newer one stands.
      own = true;
      model.set("drawn", now = known);
      own = false;
    }
    if (!stepping && JSON.stringify(now) !== JSON.stringify(known)) {
      before = [...before.slice(1 - UNDO), known];
      after = [];
    }
    known = now;
    guard();
    request();
  }

  function step(from, to) {
    if (drawing?.length && from === before) { drawing.pop(); return request(); }
    if (!from.length) return;
    to.push(model.get("drawn"));
    stepping = true;
    model.set("selected", -1);
    setDrawn(from.pop());
    stepping = false;
    guard();
  }

  function toggleDrawing(hole = false) {
    drawing = drawing ? null : [];
    cutting = !!drawing && hole;
    pointer = null;
    drawButton.setAttribute("aria-pressed", String(!!drawing && !cutting));
    holeButton.setAttribute("aria-pressed", String(cutting));
    note.textContent = drawing
      ? `Click at each corner${cutting ? " of the hole" : ""}, or move with the arrow keys and press Space; Enter ends it, Escape drops it.`
      : "";
    guard();
    request();
  }

  function finish() {
    const ring = drawing.filter((p, i) => i === 0 || Math.hypot(p[0] - drawing[i - 1][0], p[1] - drawing[i - 1][1]) > 0);
    if (ring.length < 3) { note.textContent = "An outline needs at least three corners."; return; }
    const hole = cutting;
    toggleDrawing();
    if (hole) return edit({ kind: "cut", ring: ring.map(numbers) });
    model.set("selected", model.get("drawn").length);
    setDrawn([...model.get("drawn"), { rings: [ring.map(numbers)], class: model.get("draw_class") }]);
  }

  function edit(message) {
    // Shapes are cut and joined in the kernel, which has a library for it.
    model.send({ ...message, source: model.get("source") });
  }

  function merge() {
    const chosen = model.get("selected") >= 0 ? model.get("selected") : outlineAt(field);
    note.textContent = chosen < 0 ? "No drawn outline lies under the middle of the view; click one first." : "";
    if (chosen >= 0) edit({ kind: "merge", index: chosen });
  }

  function outlineAt([x, y]) {
    const context = panes[0].canvas.getContext("2d");
    context.save();
    context.resetTransform();
    const found = model.get("drawn").findLastIndex(({ rings }) => context.isPointInPath(ringsPath(rings), x, y, "evenodd"));
    context.restore();
    return found;
  }

  function removeHere() {
    const chosen = model.get("selected");
    const drawn = model.get("drawn");
    const gone = chosen >= 0 && chosen < drawn.length ? chosen : outlineAt(field);
    note.textContent = gone < 0 ? "No drawn outline lies under the middle of the view; click one first." : "";
    if (gone < 0) return;
    model.set("selected", -1);
    setDrawn(drawn.filter((_, i) => i !== gone));
  }

  function vertexNear(pane, event) {
    const [x, y] = place(pane, event);
    const reach = 8 / scaleOf(pane);
    for (const [i, { rings }] of model.get("drawn").entries())
      for (const [k, ring] of rings.entries())
        for (const [j, p] of ring.entries()) if (Math.hypot(p[0] - x, p[1] - y) < reach) return [i, k, j];
    return null;
  }

  function listen(pane) {
    const { canvas } = pane;
    let drag = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(1.0015 ** clamp(event.deltaY, -400, 400), place(pane, event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      grabbed = drawing ? null : vertexNear(pane, event);
      drag = { x: event.clientX, y: event.clientY, field: [...field], far: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      pointer = drawing ? place(pane, event) : null;
      if (drag) {
        const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
        drag.far ||= Math.hypot(dx, dy) > 4;
        if (grabbed) {
          const drawn = structuredClone(model.get("drawn"));
          drawn[grabbed[0]].rings[grabbed[1]][grabbed[2]] = numbers(place(pane, event));
          stepping = own = true; // the whole way of a corner is one step, taken back at once
          if (!drag.from) drag.from = known;
          model.set("drawn", drawn);
          stepping = own = false;
        } else if (drag.far) {
          field[0] = drag.field[0] - dx / scaleOf(pane);
          field[1] = drag.field[1] - dy / scaleOf(pane);
          moved();
        }
      }
      if (drawing || grabbed) request();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (grabbed && drag?.from) {
        before = [...before.slice(1 - UNDO), drag.from];
        after = [];
        tellDrawn();
      } else if (drawing && drag && !drag.far) { drawing.push(place(pane, event)); guard(); request(); }
      else if (drag && !drag.far) {
        model.set("selected", outlineAt(place(pane, event)));
        model.save_changes();
        request();
      }
      drag = grabbed = null;
    });
    canvas.addEventListener("dblclick", () => (drawing ? finish() : null));
    canvas.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
        event.preventDefault();
        event.stopPropagation();
        return event.shiftKey ? step(after, before) : step(before, after);
      }
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = field[2] / (event.shiftKey ? 4 : 12);
      const keys = {
        ArrowLeft: () => { field[0] -= step; moved(); }, ArrowRight: () => { field[0] += step; moved(); },
        ArrowUp: () => { field[1] -= step; moved(); }, ArrowDown: () => { field[1] += step; moved(); },
        "+": () => zoom(1 / 1.5), "=": () => zoom(1 / 1.5), "-": () => zoom(1.5), Home: () => fit(),
        d: () => toggleDrawing(), D: () => toggleDrawing(), Delete: () => removeHere(),
        h: () => toggleDrawing(true), H: () => toggleDrawing(true), m: () => merge(), M: () => merge(),
        ...(drawing && {
          " ": () => { drawing.push([field[0], field[1]]); pointer = null; guard(); request(); },
          Enter: () => finish(),
          Escape: () => toggleDrawing(),
          Backspace: () => { drawing.pop(); guard(); request(); },
        }),
      };
      if (!keys[event.key]) return;
      // JupyterLab has its own meaning for d, Enter and the arrows.
      event.preventDefault();
      event.stopPropagation();
      keys[event.key]();
    });
  }

  // ---- the kernel's side -----------------------------------------------------------------------------------------

  function readTruth() {
    truth.path = ringsPath(model.get("truth").flat());
    truth.rings = model.get("truth").length;
    root.dataset.truth = truth.rings;
    request();
  }

  function newSlide() {
    tiles.clear();
    asked = "";
    note.textContent = "";
    if (shown.title !== model.get("title")) {
      drawing = null;
      cutting = false;
      for (const pressed of [drawButton, holeButton]) pressed.setAttribute("aria-pressed", "false");
      before = [];
      after = [];
      field = [...model.get("field")];
    }
    shown = { title: model.get("title"), source: model.get("source") };
    known = model.get("drawn");
    guard();
    makePanes();
  }

  // A GeoJSON that is dropped here is added to what is drawn.
  const files = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
  root.addEventListener("dragover", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    root.classList.add("tlskit-view-drop");
  });
  root.addEventListener("dragleave", () => root.classList.remove("tlskit-view-drop"));
  root.addEventListener("drop", async (event) => {
    root.classList.remove("tlskit-view-drop");
    if (!files(event)) return;
    event.preventDefault();
    for (const file of event.dataTransfer.files) {
      const bytes = await file.arrayBuffer();
      model.send({ kind: "outlines", name: file.name, source: model.get("source") }, undefined, [bytes]);
    }
  });

  const watcher = new ResizeObserver(request);
  const on = (names, action) => names.split(" ").forEach((name) => model.on(`change:${name}`, action));
  on("source", newSlide);
  on("truth", readTruth);
  on("side_by_side height_px", makePanes);
  on("threshold opacity layer outlines active show_truth show_context selected marker", request);
  on("drawn", changedDrawn);
  on("saved", () => { saved = Math.max(saved, model.get("saved")); guard(); });
  on("field", () => {
    const given = model.get("field");
    if (numbers(field).join() !== given.join()) { field = [...given]; request(); }
  });
  model.on("msg:custom", receive);
  readTruth();
  makePanes();
  guard();
  model.send({ kind: "ready" });
  return () => { watcher.disconnect(); window.tlskitUnsaved?.delete(root); model.off("msg:custom", receive); };
}

export default { render };
