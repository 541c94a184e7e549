"use strict";
(() => {
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const theme = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
  let chosenTheme = false;
  theme(prefersDark.matches);
  prefersDark.addEventListener("change", (event) => { if (!chosenTheme) theme(event.matches); });
  document.getElementById("theme").addEventListener("click", () => { chosenTheme = true; theme(root.dataset.theme !== "dark"); });
  addEventListener("beforeprint", () => theme(false));

  // One choice of a section at a time.
  for (const select of document.querySelectorAll("select[data-section]")) {
    const items = document.getElementById(select.dataset.section).querySelectorAll("[data-choice]");
    const show = () => items.forEach((item) => { item.hidden = item.dataset.choice !== select.value; });
    select.addEventListener("change", show);
    show();
  }
  for (const box of document.querySelectorAll(".paper-toggle")) {
    box.addEventListener("change", () => document.body.classList.toggle("no-paper", !box.checked));
  }

  // Tables are sorted by the numbers of their cells, or by their texts; cells without a number go last.
  const key = (row, column, numeric) => {
    const cell = row.cells[column];
    return numeric ? (cell.dataset.value === undefined ? null : Number(cell.dataset.value)) : cell.textContent.trim();
  };
  const compare = (one, other, sign) => {
    if (one === null || other === null) return (one === null) - (other === null);
    return sign * (typeof one === "number" ? one - other : one.localeCompare(other, undefined, { numeric: true }));
  };
  for (const header of document.querySelectorAll("th")) {
    header.querySelector("button").addEventListener("click", () => {
      const body = header.closest("table").tBodies[0];
      const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const numeric = header.classList.contains("number");
      const rows = [...body.rows].map((row) => [key(row, header.cellIndex, numeric), row]);
      rows.sort((one, other) => compare(one[0], other[0], sign));
      body.append(...rows.map((pair) => pair[1]));
    });
  }

  // The numbers of the point that the pointer is on, or that the keyboard has come to.
  const tip = document.getElementById("tip");
  let byPointer = false;
  const showTip = (event) => {
    const element = event.target.closest("[data-tip]");
    if (!element) {
      if (byPointer || event.type === "focusin") tip.hidden = true;
      return;
    }
    tip.hidden = false;
    tip.textContent = element.getAttribute("aria-label");
    const box = element.getBoundingClientRect();
    byPointer = event.type === "pointerover";
    const x = byPointer ? event.clientX : box.right;
    const y = byPointer ? event.clientY : box.bottom;
    const left = Math.min(x + 14, root.clientWidth - tip.offsetWidth - 8);
    const below = y + 14 + tip.offsetHeight < root.clientHeight;
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${(below ? y + 14 : y - 14 - tip.offsetHeight) + scrollY}px`;
  };
  addEventListener("pointerover", showTip);
  addEventListener("focusin", showTip);
  addEventListener("focusout", () => { tip.hidden = true; });
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
})();
