/* --- rows that a person ticks, and what can be taken away --- */

const ticked = new Set(); // numbers of rows

function setTick(row, on) {
  if (on) ticked.add(row.row); else ticked.delete(row.row);
  for (const [n, element] of drawn) if (itemAt(n).row === row) element.querySelector(".tick input").checked = on;
  sayTicks();
}

function sayTicks() {
  $("ticks").textContent = ticked.size ? `${count(ticked.size)} ticked` : "";
  $("export").hidden = $("untick").hidden = !ticked.size;
}

function tickShown() {
  for (const row of shown ?? allRows()) ticked.add(row.row);
  redraw();
  sayTicks();
}

function untick() {
  ticked.clear();
  redraw();
  sayTicks();
}

/* A cell of CSV. A spreadsheet would run what begins like a formula; an id such as -5 stays as it is. */
function cell(value) {
  const text = String(value ?? "");
  return `"${(/^[=@\t\r]/.test(text) ? "'" + text : text).replaceAll('"', '""')}"`;
}

/* A file by its path. */
const pathOf = image => image.startsWith("file:///") ? decoded(image.slice(7)) : image;

function csv() {
  const lines = allRows().filter(row => ticked.has(row.row)).map(row => [row.id, row.row, pathOf(row.image), row.status].map(cell).join(","));
  return ["id,row,image,status", ...lines].join("\r\n") + "\r\n";
}

function saveCsv() {
  const anchor = make("a");
  anchor.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  anchor.download = `${(summary.flow_run_name || "batch").replace(/[^\w.-]+/g, "-")}-ticked.csv`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
}

function copying(text, what) {
  const made = button(what, async () => {
    try { await navigator.clipboard.writeText(text); made.textContent = "Copied"; }
    catch { made.textContent = "Not allowed here"; }
    setTimeout(() => { made.textContent = what; }, 1500);
  });
  return made;
}
