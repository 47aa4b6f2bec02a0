// What readers of the screen and of the keyboard need, and the theme leaves out.
document$.subscribe(() => {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((part) => {
    part.tabIndex = 0;
  });
  document.querySelectorAll("th:empty").forEach((cell) => {
    cell.replaceWith(document.createElement("td"));
  });
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll("nav.md-code__nav").forEach((part, i) => {
    part.setAttribute("aria-label", `Code block ${i + 1}`);
  });
  document.querySelectorAll("nav.md-nav").forEach((part, i) => {
    if (!part.hasAttribute("aria-label")) {
      const title = part.querySelector(".md-nav__title");
      part.removeAttribute("aria-labelledby");
      part.setAttribute("aria-label", `${title?.textContent.trim() ?? ""} ${i}`);
    }
  });
});
