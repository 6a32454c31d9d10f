"use strict";
// Without this script every figure is there already; it only sorts, hides and exchanges.
(() => {
  const label = (row, name) => row.querySelector(`td[data-label="${name}"] .value`)?.textContent.trim();
  const filtered = (table) => table.querySelector('td[data-label="Model"]') !== null;

  function key(cell) {
    return cell.dataset.order ? Number(cell.dataset.order) : NaN;
  }

  function compare(a, b) {
    const [x, y] = [key(a), key(b)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return { last: Number.isNaN(x) ? 1 : -1 };
    if (!Number.isNaN(x)) return { by: x - y };
    return { by: a.textContent.trim().localeCompare(b.textContent.trim(), "en", { numeric: true }) };
  }

  const headers = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells];

  function sort(table, index, direction) {
    const name = direction > 0 ? "ascending" : "descending";
    headers(table).forEach((header, at) => {
      if (at === index) header.setAttribute("aria-sort", name);
      else header.removeAttribute("aria-sort");
    });
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => {
      const found = compare(a.cells[index], b.cells[index]);
      return found.last ?? direction * found.by;
    }));
  }

  function unsort(table, rows) {
    headers(table).forEach((header) => header.removeAttribute("aria-sort"));
    table.tBodies[0].append(...rows);
  }

  function sortable(table) {
    headers(table).forEach((header, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        sort(table, index, header.getAttribute("aria-sort") === "ascending" ? -1 : 1);
      });
    });
  }

  // on a narrow screen the table has no header to press
  function orders(table, select) {
    [...table.tBodies[0].rows[0].cells].forEach((cell, index) => {
      for (const [sign, words] of [[1, "upwards"], [-1, "downwards"]]) {
        select.append(new Option(`${cell.dataset.label}, ${words}`, sign * (index + 1)));
      }
    });
    const rows = [...table.tBodies[0].rows];
    select.addEventListener("change", () => {
      const chosen = Number(select.value);
      if (chosen) sort(table, Math.abs(chosen) - 1, Math.sign(chosen));
      else unsort(table, rows);
    });
    select.form.addEventListener("reset", () => unsort(table, rows));
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
      // what is of several models or engines stays
      item.hidden = !shown(item, facets, item.dataset.model || wanted.model,
        item.dataset.engine || wanted.engine);
    }
    return `${kept} of ${all} lines shown.`;
  }

  function exchange(baseline) {
    for (const cell of exchangeable) {
      cell.original ??= { html: cell.innerHTML, order: cell.dataset.order };
      cell.innerHTML = cell.original.html;
      cell.dataset.order = cell.original.order;
      if (!baseline) continue;
      const templates = [...cell.querySelectorAll("template")];
      const other = templates.find((template) => template.dataset.baseline === baseline);
      const missing = document.createElement("span");
      missing.className = "value muted";
      missing.textContent = `${baseline} was not timed`;
      cell.dataset.order = other ? other.dataset.order : "";
      cell.replaceChildren(other ? other.content.cloneNode(true) : missing);
    }
    return baseline ? ` The measured speed-up is against ${baseline}.` : "";
  }

  const exchangeable = [...document.querySelectorAll("td:has(> template[data-baseline])")];
  const tables = [...document.querySelectorAll("table")].filter(filtered);
  for (const table of tables) sortable(table);
  const form = document.getElementById("controls");
  if (form === null) return;
  const update = () => {
    const wanted = Object.fromEntries(new FormData(form));
    wanted.text = wanted.text.trim().toLowerCase();
    form.querySelector("output").textContent = filter(tables, wanted) + exchange(wanted.baseline);
  };
  orders(tables[0], form.elements.order);
  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
})();
