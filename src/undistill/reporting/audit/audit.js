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
