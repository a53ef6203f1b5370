/* --- which rows are shown, and in which order --- */

const KINDS = { all: () => true, warned: row => row.warnings.length > 0, flagged: isFlagged };
const ORDER_OF_STATUS = ["failed", "given_up", "invalid", "open", "submitted", "unsubmitted", "stored", "done"];
const ORDERS = {
  cost_usd: (one, other) => (other.cost_usd ?? -1) - (one.cost_usd ?? -1),
  seconds: (one, other) => (other.seconds ?? -1) - (one.seconds ?? -1),
  status: (one, other) => ORDER_OF_STATUS.indexOf(one.status) - ORDER_OF_STATUS.indexOf(other.status),
};

function choose() {
  const kind = document.querySelector("#filter :checked").value, of = KINDS[kind] ?? (row => row.status === kind);
  const words = $("search").value.trim().toLowerCase().split(/\s+/);
  const warning = $("warning").value, column = $("column").value, value = $("value").value.trim().toLowerCase();
  const inColumn = row => row.carried?.[column] != null && String(row.carried[column]).toLowerCase().includes(value);
  const isEvery = kind === "all" && !words[0] && !warning && !column && !$("sort").value;
  shown = isEvery ? null : allRows().filter(row => of(row) && (!words[0] || words.every(word => textOf(row).includes(word)))
    && (!warning || row.warnings.includes(warning)) && (!column || inColumn(row)));
  if ($("sort").value) shown.sort(ORDERS[$("sort").value]);
  $("found").textContent = shownCount() === rows.length ? "" : `${count(shownCount())} of ${count(rows.length)}`;
  $("nothing").hidden = shownCount() > 0;
  if ($("tools").getBoundingClientRect().top <= 0) scrollTo(0, $("tools").parentElement.offsetTop);
  redraw();
}

function reset() {
  for (const field of ["search", "sort", "warning", "column", "value"]) $(field).value = "";
  $("value").disabled = true;
  document.querySelector("#filter input").checked = true;
  choose();
  $("search").focus();
}

function chips() {
  const tally = new Map([["all", rows.length]]);
  const tell = (name, number) => { if (number) tally.set(name, number); };
  for (const name of Object.keys(MEANINGS)) tell(name, page.counts[name]);
  tell("warned", page.warned);
  tell("flagged", page.flagged);
  const titles = { ...MEANINGS, flagged: "with pictures that WaveSpeedAI flags as unsafe for work" };
  for (const [name, number] of tally) {
    const radio = make("input");
    radio.type = "radio"; radio.name = "status"; radio.value = name; radio.checked = name === "all";
    const words = name === "warned" ? "with warnings" : summary.words[name] ?? name, text = words[0].toUpperCase() + words.slice(1);
    const chip = make("label", `chip ${name}`, radio, ...(name === "all" ? [] : [make("i", "dot")]), text, make("b", "", count(number)));
    chip.title = titles[name] ?? "";
    $("filter").append(chip);
  }
}

function option(value, text) {
  const made = make("option", "", text);
  made.value = value;
  return made;
}

function warningsAndColumns() {
  const codes = Object.keys(WARNINGS).filter(code => rows.some(row => row.warnings.includes(code)));
  $("warning").append(...codes.map(code => option(code, WARNINGS[code][0])));
  $("by-warning").hidden = codes.length < 2;
  const columns = [...new Set(rows.flatMap(row => Object.keys(row.carried ?? {})))];
  $("column").append(...columns.map(name => option(name, name)));
  $("by-column").hidden = !columns.length;
}

function offerValues() {
  const column = $("column").value;
  const values = [...new Set(allRows().map(row => row.carried?.[column]).filter(value => value != null).map(String))].sort();
  $("values").replaceChildren(...(values.length <= 200 ? values : []).map(value => option(value, value)));
  $("value").value = "";
  $("value").disabled = !column;
  choose();
}
