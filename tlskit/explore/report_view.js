// The report of a study in a frame of its own: it may run nothing, and asks nobody for anything.
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = "Report of the study";
  frame.className = "tlskit-report";
  frame.setAttribute("sandbox", "allow-same-origin");
  el.append(frame);
  let url = "";
  const forget = () => { if (url) URL.revokeObjectURL(url); url = ""; };

  function receive(message, buffers) {
    if (message.kind !== "report") return;
    forget();
    url = URL.createObjectURL(new Blob([buffers[0]], { type: "text/html;charset=utf-8" }));
    frame.src = url;
  }
  const ask = () => model.send({ kind: "read" });
  // Links of its table of contents stay in the frame: a blob has no address to go to.
  frame.addEventListener("load", () => frame.contentDocument?.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (!link) return;
    event.preventDefault();
    frame.contentDocument.querySelector(`[id="${CSS.escape(link.hash.slice(1))}"]`)?.scrollIntoView();
  }));
  model.on("msg:custom", receive);
  model.on("change:turn", ask);
  ask();
  return () => { forget(); model.off("msg:custom", receive); };
}

export default { render };
