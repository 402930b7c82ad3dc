"use strict";
// Plots are drawn when they come into view; tables sort by a click on a header; filters hide sections, rows and series.

const sections = [...document.querySelectorAll("section.comparison")];
const plots = [...document.querySelectorAll("figure.plot")];
const filters = Object.fromEntries(
  ["task", "data", "model", "text"].map((name) => [name, document.getElementById(`filter-${name}`)]),
);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const CONFIG = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false, // Plotly's default offers to upload the plot
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["lasso2d", "select2d"],
};

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [ink, line, paper] = ["--ink", "--line", "--paper"].map((name) => style.getPropertyValue(name).trim());
  return {
    "font.color": ink,
    "xaxis.gridcolor": line,
    "yaxis.gridcolor": line,
    "xaxis.linecolor": line,
    "yaxis.linecolor": line,
    "xaxis.tickcolor": line,
    "yaxis.tickcolor": line,
    "hoverlabel.bgcolor": paper,
    "hoverlabel.font.color": ink,
    "modebar.bgcolor": "rgba(0,0,0,0)",
    "modebar.color": line,
    "modebar.activecolor": ink,
  };
}

function isShown(series, model, section) {
  const chip = series && section.querySelector(`.chip[data-series="${series}"]`);
  return (!chip || chip.getAttribute("aria-pressed") === "true") && (!filters.model.value || filters.model.value === model);
}

async function draw(plot) {
  if (plot.drawn) return;
  plot.drawn = true;
  const figure = JSON.parse(plot.querySelector("script").textContent);
  await Plotly.newPlot(plot, figure.data, figure.layout, CONFIG);
  await Plotly.relayout(plot, theme());
  plot.on("plotly_click", (event) => show(event.points[0].customdata));
  update(plot);
}

function update(plot) {
  if (!plot.data || !plot.data.length) return;
  const section = plot.closest("section");
  const models = Object.fromEntries(plot.data.map((trace) => [trace.meta.series, trace.meta.model]));
  const visible = plot.data.map((trace) => isShown(trace.meta.series, trace.meta.model, section));
  const marks = (plot.layout.annotations || []).map((mark) => ({
    ...mark,
    visible: !mark.name || isShown(mark.name, models[mark.name], section),
  }));
  Plotly.update(plot, { visible }, { annotations: marks });
}

function show(id) {
  const row = document.getElementById(id);
  if (!row) return;
  document.querySelectorAll("tr.hit").forEach((other) => other.classList.remove("hit"));
  row.classList.add("hit");
  row.scrollIntoView({ block: "center", behavior: "smooth" });
}

function press(chips, on) {
  chips.forEach((chip) => chip.setAttribute("aria-pressed", String(on)));
  chips[0].closest("section").querySelectorAll("figure.plot").forEach(update);
}

function sort(head) {
  const column = head.cellIndex;
  const body = head.closest("table").tBodies[0];
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    const text = cell.textContent.trim();
    const empty = value === undefined && (cell.classList.contains("number") || !text);
    return { row, empty, key: value === undefined ? text : Number(value) };
  });
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  // What has no value stands last in both directions.
  rows.sort((a, b) => a.empty - b.empty || (a.empty ? 0 : (descending ? -1 : 1) * compare(a.key, b.key)));
  body.append(...rows.map(({ row }) => row));
}

function filter() {
  const { task, data, model, text } = Object.fromEntries(Object.entries(filters).map(([name, box]) => [name, box.value]));
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const section of sections) {
    for (const row of section.querySelectorAll("tbody tr")) {
      const name = row.textContent.toLowerCase();
      const other = model && row.dataset.model && row.dataset.model !== model;
      row.hidden = Boolean(other) || !words.every((word) => name.includes(word));
    }
    const rows = section.querySelectorAll("table.runs tbody tr:not([hidden])").length;
    const groups = section.querySelectorAll("table.groups tbody tr:not([hidden])").length;
    section.hidden =
      (task && section.dataset.task !== task) || (data && section.dataset.data !== data) ||
      (model && !rows && !words.length) || !(rows || groups);
    shown += section.hidden ? 0 : rows;
    const entry = document.querySelector(`nav a[href="#${section.id}"]`);
    entry.parentNode.hidden = section.hidden;
  }
  for (const chip of document.querySelectorAll(".chip")) {
    chip.hidden = Boolean(model && chip.dataset.model && chip.dataset.model !== model);
  }
  document.getElementById("shown").textContent = `${shown} run${shown === 1 ? "" : "s"} shown`;
  plots.forEach(update);
}

document.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (head) sort(head);
  const chip = event.target.closest(".chip");
  if (chip) press([chip], chip.getAttribute("aria-pressed") !== "true");
  const all = event.target.closest(".chips-all");
  if (all) {
    const on = all.textContent === "show all";
    all.textContent = on ? "hide all" : "show all";
    press([...all.parentNode.querySelectorAll(".chip")], on);
  }
});
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
for (const event of ["input", "change"]) document.querySelector(".filters").addEventListener(event, filter);
dark.addEventListener("change", () => plots.filter((plot) => plot.drawn).forEach((plot) => Plotly.relayout(plot, theme())));
window.addEventListener("beforeprint", () => plots.forEach(draw));

const seen = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => { seen.unobserve(entry.target); draw(entry.target); }),
  { rootMargin: "600px" },
);
plots.forEach((plot) => seen.observe(plot));
filter();
