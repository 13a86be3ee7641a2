// A slide in the browser: tiles of the slide, over them one probability map a pane, over those the outlines.
// The kernel sends pixels; thresholds are applied here, so that a slider's tick needs neither the kernel nor the slide.
// Coordinates are level-0 pixels with the origin at the slide's top left; a *field* is [centre x, centre y, width].

import { TILE, Tiles, clamp, cutOf, makeLook, mapTile, paintMap } from "./viewer_pixels.js";
import { hatch, keepOut, layer, levelFor, lookAhead, mapSource, slideSource, vectorEdges } from "./viewer_layers.js";
import { furniture, outlines, ringsPath, smallMap } from "./viewer_marks.js";
import { makeHands, numbers } from "./viewer_hands.js";

const SLOW_S = 4; // after so many seconds without a piece that was asked for the slide is called slow

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
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
  let shown = model.get("title");
  let frame = 0, later = 0, asking = 0, lookAgain = 0;
  let waiting = 0; // since when pieces of the slide are on their way
  let truth = new Path2D();

  const button = (label, title, action) => {
    const node = element("button", { type: "button", textContent: label, title });
    node.addEventListener("click", () => { action(); panes[0]?.canvas.focus({ preventScroll: true }); });
    bar.append(node);
    return node;
  };
  button("+", "zoom in (key +)", () => zoom(1 / 1.5));
  button("\u2212", "zoom out (key -)", () => zoom(1.5));
  button("Fit", "show the whole slide (key Home)", () => fit());
  const hand = makeHands({
    model, root, note, button, request,
    middle: () => field.slice(0, 2),
    context: () => panes[0].canvas.getContext("2d"),
  });
  const readout = element("span", { className: "tlskit-view-readout" });
  bar.append(readout);

  const size = () => model.get("size_px0");
  const scaleOf = (pane) => pane.canvas.clientWidth / field[2]; // CSS px per level-0 px

  function makePanes() {
    const maps = model.get("maps");
    const all = model.get("side_by_side") && maps.length > 1;
    const numbersOfMaps = all ? maps.map((_, i) => i) : [model.get("active")];
    grid.style.gridTemplateColumns = all ? "1fr 1fr" : "1fr";
    panes.forEach((pane) => watcher.unobserve(pane.canvas));
    grid.replaceChildren();
    panes = numbersOfMaps.map((map) => {
      const canvas = element("canvas", { tabIndex: 0 });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label",
        "Slide. Arrow keys move, plus and minus zoom, Home shows all, D draws an outline.");
      canvas.style.height = `${Math.round(model.get("height_px") / (numbersOfMaps.length > 2 ? 2 : 1))}px`;
      const label = element("div", { className: "tlskit-view-label" });
      grid.append(element("div", { className: "tlskit-view-pane" }, canvas, label));
      const pane = { canvas, label, map: maps.length ? map : -1, follow: !all };
      listen(pane);
      watcher.observe(canvas);
      return pane;
    });
    request();
  }

  // ---- where one looks -------------------------------------------------------------------------------------------

  function fit() {
    const [w, h] = size();
    const { clientWidth, clientHeight } = panes[0].canvas;
    field = [w / 2, h / 2, Math.max(w, (h * clientWidth) / Math.max(1, clientHeight)) * 1.02];
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
    const um = (field[2] * model.get("mpp0")) / panes[0].canvas.clientWidth;
    const text = um ? `${(10 / um).toPrecision(2)}x, ${um.toPrecision(3)} um per screen pixel` : "";
    if (readout.textContent !== text) readout.textContent = text; // a tick of a slider lays nothing out anew
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
      Object.assign(canvas.dataset, { slide: "", map: "", positive: 0, missing: 0, drawn: 0, corners: 0, framed: "" });
    }
    readout.textContent = "";
  }

  function viewOf(pane) {
    // A pane's canvas at the screen's resolution, and which part of the slide it shows.
    const { canvas } = pane;
    const ratio = window.devicePixelRatio || 1;
    const [cw, ch] = [canvas.clientWidth, canvas.clientHeight];
    const [width, height] = [Math.round(cw * ratio), Math.round(ch * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const scale = scaleOf(pane);
    const origin = [field[0] - cw / 2 / scale, field[1] - ch / 2 / scale];
    const end = [origin[0] + cw / scale, origin[1] + ch / scale];
    return { context: canvas.getContext("2d"), scale, ratio, origin, end, size: [cw, ch], middle: field.slice(0, 2) };
  }

  function slideLayer(pane, view, wanted) {
    // A tick of a slider changes nothing of the slide: scaled once, it is kept while one looks at the same place.
    const { context, ratio, size: [cw, ch] } = view;
    const { width, height } = pane.canvas;
    const key = [model.get("source"), tiles.came, ratio, width, height, ...field].join();
    if (pane.slide?.key !== key) {
      const sheet = pane.slide?.sheet ?? new OffscreenCanvas(width, height);
      if (sheet.width !== width || sheet.height !== height) Object.assign(sheet, { width, height });
      const onto = sheet.getContext("2d");
      onto.setTransform(ratio, 0, 0, ratio, 0, 0);
      onto.fillStyle = "#fff";
      onto.fillRect(0, 0, cw, ch);
      onto.imageSmoothingEnabled = view.scale < 2;
      const { missing } = layer({ ...view, context: onto }, tiles, slideSource(model), wanted, (tile) => tile.image);
      pane.slide = { key: missing ? "" : key, sheet, missing }; // what is missing is asked for in every frame
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(pane.slide.sheet, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return pane.slide.missing;
  }

  function drawPane(pane, wanted) {
    const { canvas } = pane;
    const view = viewOf(pane);
    const { context, scale, ratio } = view;
    let missing = slideLayer(pane, view, wanted);
    const maps = model.get("maps");
    pane.index = pane.follow ? model.get("active") : pane.map;
    const map = maps[pane.index];
    let positive = 0;
    if (map) {
      const source = mapSource(model, pane.index);
      const level = levelFor(source, scale * ratio);
      const fat = scale * map.d * 2 ** level > 2.5; // its pixels are seen: their edge is drawn as lines
      const edge = model.get("outlines");
      const look = makeLook(cutOf(model.get("threshold")), model.get("opacity"), model.get("layer"), edge && !fat);
      context.imageSmoothingEnabled = false;
      context.save();
      if (look.cut === 0) keepOut(view, map); // what was not looked at holds 0, and is no answer
      const found = layer(view, tiles, source, wanted, (tile) => paintMap(tile, look));
      missing += found.missing;
      positive = found.used.reduce((sum, tile) => sum + tile.positive, 0);
      if (fat && edge) vectorEdges(view, tiles, source, level, look.cut);
      context.restore();
      canvas.dataset.cut = look.cut;
      canvas.dataset.level = level;
      hatch(view, map);
    }
    if (pane.follow && !wanted.size) lookAhead(view, model, tiles, wanted);
    const framed = outlines(view, model, truth, map, hand);
    furniture(view, model, map, hand.drawing);
    if (pane === panes[0]) smallMap(view, model, tiles);
    const name = map ? map.name : "";
    if (pane.label.textContent !== name) pane.label.textContent = name;
    pane.label.style.display = map ? "" : "none";
    Object.assign(canvas.dataset, {
      slide: model.get("title"), size: size().join(" "), map: name, positive, missing, painted: performance.now(),
      drawn: model.get("drawn").length, corners: hand.drawing?.length ?? 0,
      hatched: map ? map.lost.length + map.unseen.length : 0,
      framed: framed.map(({ place, side }) => numbers([...place, side]).join(" ")).join(", "),
    });
  }

  // ---- tiles -----------------------------------------------------------------------------------------------------

  function ask(wanted) {
    // The coarsest level first: it stands in for all others and is the small map in the corner.
    const [w, h] = size();
    const top = model.get("levels") - 1;
    const side = TILE * 2 ** top;
    for (let y = 0; y * side < h; y++) for (let x = 0; x * side < w; x++) {
      const key = `s/${top}/${x}/${y}`;
      if (!tiles.has(key)) wanted.set(key, -1);
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
    let tile;
    if (key[0] === "s") {
      const image = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
      tile = { image, width, height };
    } else {
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      tile = mapTile(new Uint8Array(await new Response(stream).arrayBuffer()));
    }
    if (message.source !== model.get("source")) return; // another slide was chosen meanwhile
    tiles.put(key, tile);
    if (key[0] === "s" || panes.some((pane) => pane.index === Number(key.split("/")[0]))) request();
  }

  // ---- mouse and keys --------------------------------------------------------------------------------------------

  function place(pane, event) {
    const box = pane.canvas.getBoundingClientRect();
    const scale = scaleOf(pane);
    return [field[0] + (event.clientX - box.left - box.width / 2) / scale,
      field[1] + (event.clientY - box.top - box.height / 2) / scale];
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
      const corner = hand.drawing ? null : hand.cornerNear(place(pane, event), 8 / scaleOf(pane));
      drag = { x: event.clientX, y: event.clientY, field: [...field], far: false, corner, from: hand.drawn() };
    });
    canvas.addEventListener("pointermove", (event) => {
      hand.pointer = hand.drawing ? place(pane, event) : null;
      if (drag) {
        const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
        drag.far ||= Math.hypot(dx, dy) > 4;
        if (drag.far && drag.corner) {
          hand.moveCorner(drag.corner, place(pane, event));
          drag.changed = true;
        } else if (drag.far) {
          field[0] = drag.field[0] - dx / scaleOf(pane);
          field[1] = drag.field[1] - dy / scaleOf(pane);
          moved();
        }
      }
      if (hand.drawing || drag?.corner) request();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag?.changed) hand.cornerMoved(drag.from);
      else if (hand.drawing && drag && !drag.far) hand.corner(place(pane, event));
      else if (drag && !drag.far) {
        model.set("selected", hand.at(place(pane, event)));
        model.save_changes();
        request();
      }
      drag = null;
    });
    canvas.addEventListener("dblclick", () => (hand.drawing ? hand.finish() : null));
    canvas.addEventListener("keydown", (event) => {
      const key = event.key.toLowerCase();
      const command = event.ctrlKey || event.metaKey;
      if ((command && key !== "z") || event.altKey) return;
      const far = field[2] / (event.shiftKey ? 4 : 12);
      const to = (axis, way) => () => { field[axis] += way * far; moved(); };
      const moves = {
        arrowleft: to(0, -1), arrowright: to(0, 1), arrowup: to(1, -1), arrowdown: to(1, 1),
        "+": () => zoom(1 / 1.5), "=": () => zoom(1 / 1.5), "-": () => zoom(1.5), home: () => fit(),
      };
      const action = command ? hand.action(event.shiftKey ? "redo" : "undo") : (moves[key] ?? hand.action(key));
      if (!action) return;
      // JupyterLab has its own meaning for d, Enter and the arrows.
      event.preventDefault();
      event.stopPropagation();
      action();
    });
  }

  // ---- the kernel's side -----------------------------------------------------------------------------------------

  function readTruth() {
    truth = ringsPath(model.get("truth").flat());
    root.dataset.truth = model.get("truth").length;
    request();
  }

  function newSlide() {
    tiles.clear();
    asked = "";
    note.textContent = "";
    const other = shown !== model.get("title");
    if (other) field = [...model.get("field")];
    shown = model.get("title");
    hand.newSlide(other);
    makePanes();
  }

  const watcher = new ResizeObserver(request);
  const on = (names, action) => names.split(" ").forEach((name) => model.on(`change:${name}`, action));
  on("source", newSlide);
  on("truth", readTruth);
  on("side_by_side height_px", makePanes);
  on("threshold opacity layer outlines active show_truth show_context selected marker", request);
  on("field", () => {
    const given = model.get("field");
    if (numbers(field).join() !== given.join()) { field = [...given]; request(); }
  });
  model.on("msg:custom", receive);
  readTruth();
  makePanes();
  model.send({ kind: "ready" });
  return () => { watcher.disconnect(); hand.leave(); model.off("msg:custom", receive); };
}

export default { render };
