// A table that scrolls sideways is reached by keyboard too (WCAG 2.1.1); the theme does this for code alone.
function reachWideTables() {
  document.querySelectorAll(".bd-article table").forEach((table) => {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
  });
}
window.addEventListener("load", reachWideTables);
window.addEventListener("resize", reachWideTables);
