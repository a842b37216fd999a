(function () {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const config = read("chart-config");
  const waiting = new Set(document.querySelectorAll("[data-spec]"));

  async function draw(box) {
    waiting.delete(box);
    const fallback = box.textContent;
    box.textContent = "";
    try {
      // ast: expressions are interpreted, not compiled, so the page's policy needs no 'unsafe-eval'
      await vegaEmbed(box, read(box.dataset.spec), { config, ast: true, renderer: "svg", actions: false, defaultStyle: false });
      box.dataset.drawn = "yes";
    } catch (problem) {
      box.textContent = fallback;
      console.error(problem);
    }
  }

  // A chart takes its container's width, so those inside closed details wait until they are opened.
  function drawVisible() {
    for (const box of [...waiting]) if (box.offsetParent !== null) draw(box);
  }

  document.querySelectorAll("details").forEach((box) => box.addEventListener("toggle", drawVisible));
  drawVisible();
})();
