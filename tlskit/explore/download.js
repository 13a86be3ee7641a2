// A button that fetches a file from the kernel and saves it.
function render({ model, el }) {
  const button = document.createElement("button");
  button.type = "button";
  const show = () => {
    button.textContent = model.get("label");
    button.disabled = model.get("disabled");
  };
  button.addEventListener("click", () => model.send({ kind: "make" }));
  const receive = (message, buffers) => {
    if (message.kind !== "file") return;
    const url = URL.createObjectURL(new Blob([buffers[0]], { type: message.type }));
    const link = document.createElement("a");
    link.href = url;
    link.download = message.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  };
  model.on("change:label change:disabled", show);
  model.on("msg:custom", receive);
  el.classList.add("tlskit-download");
  el.append(button);
  show();
  return () => model.off("msg:custom", receive);
}

export default { render };
