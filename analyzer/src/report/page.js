// Click a column's name to sort by it; click again for the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), row = head.parentNode, body = head.closest("table").tBodies[0];
    const at = [...row.cells].indexOf(head);
    const numeric = head.classList.contains("n");
    const down = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
    for (const other of row.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (line) => line.cells[at].dataset.key ?? line.cells[at].textContent;
    const order = numeric ? (a, b) => (parseFloat(key(a)) || 0) - (parseFloat(key(b)) || 0) : (a, b) => key(a).localeCompare(key(b));
    [...body.rows].sort((a, b) => (down ? -order(a, b) : order(a, b))).forEach((line) => body.append(line));
  });
}
