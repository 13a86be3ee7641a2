// Outlines drawn by hand: corners, holes, moves, steps back, and what of it the kernel has written yet.

import { shapeOf } from "./viewer_marks.js";

const UNDO = 100; // steps that are kept
const RESCUE_S = 1; // after so many seconds without an answer what is drawn is kept in the browser

export const numbers = (list) => list.map((v) => Math.round(v * 100) / 100);
const keyOf = (outline) => JSON.stringify([outline.class, outline.rings]);
const same = (list, other) => list.length === other.length
  && list.every((one, i) => one === other[i] || JSON.stringify(one) === JSON.stringify(other[i]));
const inStep = (list, { added, gone }) => {
  // A list after what others took away and added.
  const left = new Set(gone.map(keyOf)), here = new Set(list.map(keyOf));
  return [...list.filter((one) => !left.has(keyOf(one))), ...added.filter((one) => !here.has(keyOf(one)))];
};

export function makeHands({ model, root, note, request, middle, context, button }) {
  // What other parts look at: corners of the outline being drawn, and where the pointer is meanwhile.
  const hand = { drawing: null, pointer: null };
  let cutting = false; // the outline being drawn is a hole
  let before = []; // drawn outlines as they were, the newest last; a step back takes them from here
  let after = []; // and puts what it took away here
  let known = model.get("drawn");
  let heard = model.get("edits").at(-1)?.number ?? 0; // the kernel's last change that was taken in
  let stepping = false;
  let own = false; // what is drawn is being changed here, and not by the kernel
  let changes = model.get("change"), saved = changes; // here, and of these the last that the kernel has written
  let source = model.get("source");
  let rescuing = 0;
  let pending = null; // what the kernel was told last, or could not write, and of which slide
  let unwritten = model.get("unwritten"); // slides whose outlines the kernel could not write
  const unanswered = new Map(); // by slide: what could not be saved when the page was open before, and is offered

  const drawButton = button("Draw outline",
    "draw an outline (key D); click or press Space at each corner, Enter ends it, Escape drops it", () => toggle());
  const holeButton = button("Cut a hole", "cut a hole, or a piece of the edge, out of outlines (key H)", () => toggle(true));
  button("Merge", "the outline that was clicked and all that touch it become one (key M)", () => merge());
  button("Delete outline", "delete the outline that was clicked, else the one in the middle (key Delete)", () => remove());
  const undoButton = button("Undo", "take the last change of the outlines back (Ctrl+Z)", () => step(before, after));
  const redoButton = button("Redo", "make it again (Ctrl+Shift+Z)", () => step(after, before));

  const remember = (list) => { before = [...before.slice(1 - UNDO), list]; after = []; };

  function put(drawn) {
    own = true;
    model.set("drawn", drawn);
    own = false;
  }

  function set(drawn) {
    put(drawn);
    tell();
    request();
  }

  function tell() {
    changes = Math.max(changes, model.get("change")) + 1;
    model.set("change", changes);
    hold();
    guard();
    model.set("drawn_source", model.get("source")); // which slide it is, should another be on its way
    model.save_changes();
  }

  const isOpen = (shelf) => changes > saved || unwritten.includes(shelf);

  function guard() {
    // The page asks before it is left while there is work that the kernel has not written yet.
    (window.tlskitUnsaved ??= new Map()).set(root, !!hand.drawing?.length || changes > saved || unwritten.length > 0);
    root.dataset.unsaved = changes - saved || unwritten.length;
    undoButton.disabled = !before.length;
    redoButton.disabled = !after.length;
    if (unwritten.includes(model.get("shelf"))) hold();
    clearTimeout(rescuing);
    if (pending && isOpen(pending.shelf)) rescuing = setTimeout(settle, 1000 * RESCUE_S);
    else settle();
  }

  // What the kernel does not answer for, because it is gone or its disk is full, is kept by the browser, and offered when
  // the slide is shown again.
  function hold() {
    const shelf = model.get("shelf");
    if (pending && pending.shelf !== shelf) settle();
    pending = { shelf, drawn: model.get("drawn") };
  }

  function settle() {
    if (!pending) return;
    const open = isOpen(pending.shelf);
    keepHere(pending.shelf, open ? pending.drawn : []);
    if (!open) pending = null;
  }

  function keepHere(shelf, drawn) {
    const all = [...(unanswered.get(shelf) ?? []), ...drawn];
    try {
      if (all.length) localStorage.setItem(`tlskit ${shelf}`, JSON.stringify(all));
      else localStorage.removeItem(`tlskit ${shelf}`);
      if (shelf === model.get("shelf")) root.dataset.kept = all.length;
    } catch (error) {
      note.textContent = `What is drawn is not saved, and the browser cannot keep it (${error.message}).`;
    }
  }

  function refusalsChanged() {
    const now = model.get("unwritten");
    const written = unwritten.filter((shelf) => !now.includes(shelf));
    unwritten = now;
    for (const shelf of written) if (shelf !== pending?.shelf) keepHere(shelf, []);
    guard();
  }

  function offerKept() {
    const shelf = model.get("shelf");
    let kept = [];
    try { kept = JSON.parse(localStorage.getItem(`tlskit ${shelf}`) ?? "[]"); } catch { return; }
    const here = new Set(model.get("drawn").map(keyOf));
    const offered = kept.filter((one) => !here.has(keyOf(one)));
    unanswered.delete(shelf);
    if (!offered.length) {
      if (kept.length && !isOpen(shelf)) keepHere(shelf, []); // all of it has been written since
      return;
    }
    unanswered.set(shelf, offered);
    const answer = (text, action) => {
      const node = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      node.addEventListener("click", () => {
        note.replaceChildren();
        unanswered.delete(shelf);
        action();
        hold();
        settle();
        guard();
      });
      return node;
    };
    note.replaceChildren(
      `${offered.length} outline(s) of this slide were drawn in this browser and could not be saved then. `,
      answer("Take them in", () => set([...model.get("drawn"), ...offered])), " ", answer("Drop them", () => {}));
  }

  function takeEdits() {
    // What the kernel has added and taken away: by a button here (a step that can be taken back), or because another
    // window did (no step of this one: going back must not take away what somebody else drew).
    const fresh = model.get("edits").filter((one) => one.number > heard);
    if (!fresh.length) return;
    heard = fresh.at(-1).number;
    for (const edit of fresh) {
      if (edit.source !== model.get("source")) continue;
      if (edit.own) remember(known);
      else {
        before = before.map((list) => inStep(list, edit));
        after = after.map((list) => inStep(list, edit));
      }
      known = inStep(known, edit);
    }
    model.set("heard", heard);
    model.save_changes();
  }

  function changed() {
    const fresh = model.get("source") !== source; // another slide's: its turn comes with `newSlide`
    if (!own && !fresh) {
      takeEdits();
      // The kernel answers to an earlier change than the last one here, which is on its way: the newer one stands.
      if (changes > Math.max(saved, model.get("saved"))) put(known);
    }
    const now = model.get("drawn");
    if (own && !stepping && !same(now, known)) remember(known);
    known = now;
    guard();
    request();
  }

  function step(from, to) {
    if (hand.drawing?.length && from === before) { hand.drawing.pop(); return request(); }
    if (!from.length) return;
    to.push(model.get("drawn"));
    stepping = true;
    model.set("selected", -1);
    set(from.pop());
    stepping = false;
    guard();
  }

  function toggle(hole = false) {
    hand.drawing = hand.drawing ? null : [];
    cutting = !!hand.drawing && hole;
    hand.pointer = null;
    drawButton.setAttribute("aria-pressed", String(!!hand.drawing && !cutting));
    holeButton.setAttribute("aria-pressed", String(cutting));
    note.textContent = hand.drawing
      ? `Click at each corner${cutting ? " of the hole" : ""}, or move with the arrow keys and press Space; Enter ends it, Escape drops it.`
      : "";
    guard();
    request();
  }

  function corner(at) {
    hand.drawing.push(at);
    guard();
    request();
  }

  function finish() {
    const far = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]) > 0;
    const ring = hand.drawing.filter((p, i) => i === 0 || far(p, hand.drawing[i - 1]));
    if (ring.length < 3) { note.textContent = "An outline needs at least three corners."; return; }
    const hole = cutting;
    toggle();
    if (hole) return ask({ kind: "cut", ring: ring.map(numbers) });
    model.set("selected", model.get("drawn").length);
    set([...model.get("drawn"), { rings: [ring.map(numbers)], class: model.get("draw_class") }]);
  }

  // Shapes are cut and joined in the kernel, which has a library for it.
  const ask = (message) => model.send({ ...message, source: model.get("source") });

  function here() {
    // The outline that was clicked, else the one in the middle.
    const chosen = model.get("selected");
    const found = chosen >= 0 && chosen < model.get("drawn").length ? chosen : at(middle());
    note.textContent = found < 0 ? "No drawn outline lies under the middle of the view; click one first." : "";
    return found;
  }

  function merge() {
    const chosen = here();
    if (chosen >= 0) ask({ kind: "merge", index: chosen });
  }

  function remove() {
    const gone = here();
    if (gone < 0) return;
    model.set("selected", -1);
    set(model.get("drawn").filter((_, i) => i !== gone));
  }

  function at([x, y]) {
    const canvas = context();
    canvas.save();
    canvas.resetTransform();
    const found = model.get("drawn").findLastIndex((one) => canvas.isPointInPath(shapeOf(one).path, x, y, "evenodd"));
    canvas.restore();
    return found;
  }

  function cornerNear([x, y], reach) {
    for (const [i, outline] of model.get("drawn").entries()) {
      const { box } = shapeOf(outline); // holes lie within it
      if (x < box[0] - reach || y < box[1] - reach || x > box[2] + reach || y > box[3] + reach) continue;
      for (const [k, ring] of outline.rings.entries())
        for (const [j, p] of ring.entries()) if (Math.hypot(p[0] - x, p[1] - y) < reach) return [i, k, j];
    }
    return null;
  }

  function moveCorner([i, k, j], place) {
    // The whole way of a corner is one step, taken back at once (`cornerMoved`). Only its outline becomes another one.
    const drawn = [...model.get("drawn")];
    const rings = [...drawn[i].rings];
    rings[k] = rings[k].with(j, numbers(place));
    drawn[i] = { ...drawn[i], rings };
    stepping = true;
    put(drawn);
    stepping = false;
  }

  function cornerMoved(from) {
    remember(from);
    tell();
  }

  function newSlide(other) {
    source = model.get("source");
    if (other) {
      hand.drawing = null;
      cutting = false;
      for (const pressed of [drawButton, holeButton]) pressed.setAttribute("aria-pressed", "false");
      before = [];
      after = [];
    }
    takeEdits();
    known = model.get("drawn");
    guard();
    offerKept();
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

  const keys = {
    d: () => toggle(), h: () => toggle(true), m: () => merge(), delete: () => remove(),
    undo: () => step(before, after), redo: () => step(after, before),
  };
  const keysWhileDrawing = {
    " ": () => { hand.pointer = null; corner([...middle()]); },
    enter: () => finish(),
    escape: () => toggle(),
    backspace: () => { hand.drawing.pop(); guard(); request(); },
  };

  model.on("change:drawn", changed);
  model.on("change:unwritten", refusalsChanged);
  model.on("change:saved", () => { saved = Math.max(saved, model.get("saved")); guard(); });
  function leave() {
    clearTimeout(rescuing);
    settle();
    window.tlskitUnsaved?.delete(root);
  }

  guard();
  offerKept();
  return Object.assign(hand, {
    at, corner, cornerMoved, cornerNear, finish, leave, moveCorner, newSlide,
    drawn: () => known,
    action: (key) => (hand.drawing && keysWhileDrawing[key]) || keys[key],
  });
}
