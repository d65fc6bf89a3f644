// A click on a frame, or Enter on one, makes it as wide as the graph; on the outermost, or Escape, all is shown again.
for (const graph of document.querySelectorAll("svg.flame")) {
  const frames = [...graph.querySelectorAll("svg.fr")].map((at) => ({
    at, text: at.querySelector("text"), x: parseFloat(at.getAttribute("x")), w: parseFloat(at.getAttribute("width")),
    y: parseFloat(at.getAttribute("y")), name: at.querySelector("title").textContent.split(/: [0-9]/)[0].split(" ▸ ").pop(),
  }));
  const show = (to) => {
    const wide = graph.getBoundingClientRect().width;
    for (const frame of frames) {
      const around = frame.y < to.y && frame.x <= to.x + 1e-3 && frame.x + frame.w >= to.x + to.w - 1e-3;
      const within = frame.y >= to.y && frame.x >= to.x - 1e-3 && frame.x + frame.w <= to.x + to.w + 1e-3;
      frame.at.style.display = around || within ? "" : "none";
      if (!around && !within) continue;
      const width = around ? 100 : (frame.w * 100) / to.w;
      frame.at.setAttribute("x", (around ? 0 : ((frame.x - to.x) * 100) / to.w) + "%");
      frame.at.setAttribute("width", width + "%");
      const room = Math.floor(((wide * width) / 100 - 8) / 6.6);
      if (room < 3 && !frame.text) continue;
      if (!frame.text) {
        frame.text = document.createElementNS(graph.namespaceURI, "text");
        frame.text.setAttribute("x", 5);
        frame.text.setAttribute("y", 15);
        frame.at.append(frame.text);
      }
      frame.text.removeAttribute("class");
      frame.text.textContent = room < 3 ? "" : frame.name.length <= room ? frame.name : frame.name.slice(0, room - 1) + "…";
    }
  };
  const all = frames.find((frame) => frame.y === 0);
  let shown = all;
  const zoom = (to) => show((shown = to));
  for (const frame of frames) {
    frame.at.addEventListener("click", () => zoom(frame === shown ? all : frame));
    frame.at.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        zoom(frame === shown ? all : frame);
      }
    });
  }
  addEventListener("keydown", (event) => event.key === "Escape" && zoom(all));
  addEventListener("resize", () => show(shown));
  show(all);
}
