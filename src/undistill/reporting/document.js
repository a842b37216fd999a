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
