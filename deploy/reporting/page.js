"use strict";
// Without this script every figure is there already; it only sorts, hides and exchanges.
(() => {
  const label = (row, name) => row.querySelector(`td[data-label="${name}"] .value`)?.textContent.trim();
  const filtered = (table) => table.querySelector('td[data-label="Model"]') !== null;

  function key(cell) {
    return "order" in cell.dataset ? Number(cell.dataset.order) : NaN;
  }

  function compare(a, b) {
    const [x, y] = [key(a), key(b)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return { last: Number.isNaN(x) ? 1 : -1 };
    if (!Number.isNaN(x)) return { by: x - y };
    return { by: a.textContent.trim().localeCompare(b.textContent.trim(), "en", { numeric: true }) };
  }

  function sort(table, index, direction) {
    const body = table.tBodies[0];
    const sorted = [...body.rows].sort((a, b) => {
      const found = compare(a.cells[index], b.cells[index]);
      return found.last ?? direction * found.by;
    });
    body.append(...sorted);
  }

  function sortable(table) {
    const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    headers.forEach((header, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const upwards = header.getAttribute("aria-sort") !== "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", upwards ? "ascending" : "descending");
        sort(table, index, upwards ? 1 : -1);
      });
    });
  }

  function shown(element, wanted, model, engine) {
    return (!wanted.model || wanted.model === model) && (!wanted.engine || wanted.engine === engine)
      && (!wanted.text || element.textContent.toLowerCase().includes(wanted.text));
  }

  function filter(tables, wanted) {
    let [kept, all] = [0, 0];
    for (const row of tables.flatMap((table) => [...table.tBodies[0].rows])) {
      row.hidden = !shown(row, wanted, label(row, "Model"), label(row, "Engine") ?? wanted.engine);
      kept += !row.hidden;
      all += 1;
    }
    const facets = { ...wanted, text: "" }; // words are looked for in the tables
    for (const item of document.querySelectorAll("[data-model]")) {
      item.hidden = !shown(item, facets, item.dataset.model, item.dataset.engine);
    }
    return `${kept} of ${all} lines shown.`;
  }

  function exchange(baseline) {
    for (const cell of document.querySelectorAll("td:has(> template[data-baseline])")) {
      cell.original ??= { html: cell.innerHTML, order: cell.dataset.order };
      const other = [...cell.querySelectorAll("template")].find((t) => t.dataset.baseline === baseline);
      const now = [...cell.childNodes].filter((node) => node.nodeName !== "TEMPLATE");
      now.forEach((node) => node.remove());
      if (other) {
        cell.prepend(other.content.cloneNode(true));
        cell.dataset.order = other.dataset.order;
      } else {
        cell.innerHTML = cell.original.html;
        cell.dataset.order = cell.original.order;
      }
    }
    return baseline ? ` Measured speed-up is against ${baseline} where it was timed.` : "";
  }

  const tables = [...document.querySelectorAll("table")].filter(filtered);
  for (const table of tables) sortable(table);
  const form = document.getElementById("controls");
  if (form === null) return;
  const update = () => {
    const wanted = Object.fromEntries(new FormData(form));
    wanted.text = wanted.text.trim().toLowerCase();
    form.querySelector("output").textContent = filter(tables, wanted) + exchange(wanted.baseline);
  };
  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
})();
