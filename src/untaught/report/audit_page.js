"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const { sample, columns, rows } = read("data");
const texts = read("texts");
const spot = columns.indexOf("label");
const memory = "untaught-audit-" + sample.slice(0, 16);
const element = (id) => document.getElementById(id);
const labels = rows.slice(0, texts.length).map((row) => row[spot]);
let at = 0;
let unsaved = false;

function remembered() {
  try {
    const found = JSON.parse(localStorage.getItem(memory) || "{}");
    rows.slice(0, texts.length).forEach((row, index) => {
      const [before, label] = found[row[0] + ":" + row[1]] || [];
      if (before === labels[index] && label !== before) { labels[index] = label; unsaved = true; }
    });
  } catch (error) { element("kept").textContent = "This browser keeps no labels: save before you close the page."; }
}

function remember() {
  const found = {};
  labels.forEach((label, index) => { if (label !== rows[index][spot]) found[rows[index][0] + ":" + rows[index][1]] = [rows[index][spot], label]; });
  try { localStorage.setItem(memory, JSON.stringify(found)); } catch (error) { /* said when the page was opened */ }
}

function show(focus) {
  const done = labels.filter((label) => label).length;
  const label = labels[at];
  element("place").textContent = `Document ${at + 1} of ${texts.length}`;
  element("done").textContent = `${done} of ${texts.length} labelled`;
  element("bar").style.width = `${100 * done / Math.max(texts.length, 1)}%`;
  element("text").textContent = texts[at];
  element("label").textContent = label ? `Labelled ${label}` : "No label yet";
  for (const word of ["hazard", "benign"]) element(word).setAttribute("aria-pressed", String(label === word));
  element("clear").disabled = !label;
  element("back").disabled = at === 0;
  element("next").disabled = at === texts.length - 1;
  element("save").classList.toggle("due", unsaved);
  if (focus) { element("text").scrollTop = 0; window.scrollTo(0, 0); }
}

function give(label) {
  labels[at] = label;
  unsaved = true;
  remember();
  if (label && at < texts.length - 1) { at += 1; show(true); } else { show(false); }
}

function go(step) {
  at = Math.min(Math.max(at + step, 0), texts.length - 1);
  show(true);
}

function unlabelled() {
  const order = [...labels.keys()];
  const found = [...order.slice(at + 1), ...order.slice(0, at + 1)].find((index) => !labels[index]);
  if (found !== undefined) { at = found; show(true); }
}

function cell(value) {
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

function save() {
  const lines = [columns, ...rows.map((row, index) => row.map((value, column) => column === spot && index < labels.length ? labels[index] : value))];
  const blob = new Blob([lines.map((line) => line.map(cell).join(",") + "\n").join("")], { type: "text/csv" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "audit.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  unsaved = false;
  show(false);
}

const keys = { h: () => give("hazard"), b: () => give("benign"), u: () => give(""), s: save, n: unlabelled, ArrowLeft: () => go(-1), ArrowRight: () => go(1) };
document.addEventListener("keydown", (event) => {
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  event.preventDefault();
  act();
});
window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
element("hazard").onclick = () => give("hazard");
element("benign").onclick = () => give("benign");
element("clear").onclick = () => give("");
element("back").onclick = () => go(-1);
element("next").onclick = () => go(1);
element("left").onclick = unlabelled;
element("save").onclick = save;
if (texts.length) {
  remembered();
  const first = labels.findIndex((label) => !label);
  at = first < 0 ? 0 : first;
  element("desk").hidden = false;
  show(false);
}
