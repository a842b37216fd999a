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
(function () {
  "use strict";
  const collator = new Intl.Collator("en", { numeric: true });

  // Without this script the heads are plain text, so the buttons are made here.
  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const told = document.getElementById("sorted");

    // What is not there comes last in both orders.
    function compare(place, numeric, sign) {
      const key = (row) => (numeric ? row.cells[place].dataset.value : row.cells[place].textContent.trim());
      const missing = (text) => text === "" || text === "–";
      return (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        return sign * (numeric ? Number(a) - Number(b) : collator.compare(a, b));
      };
    }

    function sort(head) {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort(compare(heads.indexOf(head), "numeric" in head.dataset, sign));
      body.append(...rows);
      told.textContent = `Sorted by ${head.textContent.trim()}, ${order}.`;
    }

    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(head));
      head.replaceChildren(button);
    }
  }

  document.querySelectorAll("table[data-sortable]").forEach(sortable);
})();
(function () {
  "use strict";

  // A table that is wider than its place says so.
  function mark() {
    for (const box of document.querySelectorAll(".scroll")) {
      if (box.offsetParent !== null) box.classList.toggle("cut", box.scrollWidth > box.clientWidth + 1);
    }
  }

  // A link to a folded part opens it.
  function reveal() {
    const place = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = place; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
    if (place) place.scrollIntoView();
  }

  document.querySelectorAll("details").forEach((box) => box.addEventListener("toggle", mark));
  window.addEventListener("resize", mark);
  window.addEventListener("hashchange", reveal);
  mark();
  reveal();
})();
