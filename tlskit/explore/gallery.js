// The slides of a folder as pictures: arrow keys move, Enter or a double click opens.
function render({ model, el }) {
  const list = document.createElement("div");
  list.className = "tlskit-gallery";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", model.get("label"));
  list.tabIndex = 0;
  el.append(list);
  const pictures = new Map(); // by name, as they come: address, what is known, whether that is bad

  const items = () => model.get("items");
  const clamp = (v) => Math.min(items().length - 1, Math.max(0, v));

  function choose(index) {
    model.set("index", index);
    model.save_changes();
    mark();
    list.children[index]?.scrollIntoView({ block: "nearest" });
  }

  function mark() {
    const index = model.get("index");
    for (const [i, node] of [...list.children].entries()) node.setAttribute("aria-selected", String(i === index));
    if (index >= 0 && list.children[index]) list.setAttribute("aria-activedescendant", list.children[index].id);
    else list.removeAttribute("aria-activedescendant");
  }

  function open(index) {
    choose(index);
    model.send({ kind: "open", index });
  }

  function show() {
    const id = model.get("items").length ? `g${Math.random().toString(36).slice(2)}` : "g";
    list.replaceChildren(...items().map((item, i) => {
      const node = document.createElement("div");
      node.id = `${id}-${i}`;
      node.setAttribute("role", "option");
      node.className = `tlskit-card tlskit-${item.kind}`;
      const picture = document.createElement(item.kind === "slide" ? "img" : "span");
      picture.className = "tlskit-picture";
      if (item.kind === "slide") {
        picture.alt = "";
      } else {
        picture.textContent = item.kind === "up" ? "\u2191" : "\u{1F4C1}";
        picture.setAttribute("aria-hidden", "true");
      }
      const name = document.createElement("b");
      name.textContent = item.name;
      const note = document.createElement("small");
      note.textContent = item.note ?? "";
      note.className = item.bad ? "tlskit-bad" : "";
      const known = document.createElement("small");
      node.append(picture, name, note, known);
      if (item.kind === "slide") fill(node, item.name);
      node.addEventListener("click", () => choose(i));
      node.addEventListener("dblclick", () => open(i));
      return node;
    }));
    mark();
    ask((name) => !pictures.has(name));
  }

  function ask(which) {
    const names = items().filter((item) => item.kind === "slide" && which(item.name)).map((item) => item.name);
    if (names.length) model.send({ kind: "pictures", folder: model.get("folder"), names });
  }

  function fill(node, name) {
    const found = pictures.get(name);
    if (!found) return;
    const [picture, , , known] = node.children;
    if (found.url) picture.src = found.url;
    known.textContent = found.bad && node.children[2].textContent ? "" : found.known; // a note says more of a fault
    known.className = found.bad ? "tlskit-bad" : "";
    node.dataset.known = "1";
  }

  list.addEventListener("focus", () => { if (model.get("index") < 0 && items().length) choose(0); });
  list.addEventListener("keydown", (event) => {
    const wide = Math.max(1, Math.floor(list.clientWidth / (list.children[0]?.offsetWidth + 8 || 140)));
    const at = model.get("index");
    const keys = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + wide, ArrowUp: at - wide, Home: 0, End: items().length - 1 };
    if (event.key === "Enter" && at >= 0) open(at);
    else if (event.key in keys) choose(clamp(keys[event.key]));
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // A path as text, or a file (of which a browser tells only the name), dropped on the cards.
  list.addEventListener("dragover", (event) => event.preventDefault());
  list.addEventListener("drop", (event) => {
    event.preventDefault();
    const data = event.dataTransfer;
    const text = (data.getData("text/uri-list") || data.getData("text/plain")).split("\n").find((line) => line && line[0] !== "#")?.trim() ?? "";
    const path = text.startsWith("file://") ? decodeURIComponent(new URL(text).pathname) : text;
    if (/^([/~]|[A-Za-z]:[\\/])/.test(path)) model.send({ kind: "dropped", text: path, path: true });
    else for (const file of data.files) model.send({ kind: "dropped", text: file.name, path: false });
  });

  function receive(message, buffers) {
    if (message.kind !== "picture" || message.folder !== model.get("folder")) return;
    const old = pictures.get(message.name)?.url;
    if (old) URL.revokeObjectURL(old);
    const url = buffers?.length ? URL.createObjectURL(new Blob([buffers[0]], { type: "image/jpeg" })) : "";
    pictures.set(message.name, { url, known: message.known, bad: message.bad });
    const index = items().findIndex((item) => item.kind === "slide" && item.name === message.name);
    if (list.children[index]) fill(list.children[index], message.name);
  }

  const forget = () => { pictures.forEach(({ url }) => url && URL.revokeObjectURL(url)); pictures.clear(); };
  const newFolder = () => { forget(); show(); };
  model.on("change:folder", newFolder);
  model.on("change:items", show);
  model.on("change:turn", () => ask(() => true));
  model.on("change:index", mark);
  model.on("msg:custom", receive);
  show();
  return () => { forget(); model.off("msg:custom", receive); };
}

export default { render };
