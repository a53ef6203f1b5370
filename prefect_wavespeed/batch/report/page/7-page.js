/* --- the head of the page, and what its controls and keys do --- */

$("title").textContent = summary.flow_run_name || "Batch";
$("about").textContent = [
  `${summary.manifest} → ${summary.output}`,
  new Date(summary.started).toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" }), duration(summary.seconds),
].join(" · ");
const figures = [
  ["rows", count(summary.rows)], ["pictures stored", count(summary.images)], ["spent", dollars(summary.spent_usd)],
  ["pictures a minute", summary.images_per_minute == null ? null : count(Math.round(summary.images_per_minute))],
  ["median time", summary.latency_p50 == null ? null : seconds(summary.latency_p50)],
  ["95th percentile", summary.latency_p95 == null ? null : seconds(summary.latency_p95)],
  ["pictures flagged", summary.flagged ? count(summary.flagged) : null],
];
$("figures").append(...figures.filter(([, value]) => value != null).map(([term, value]) => make("div", "", make("dt", "", term), make("dd", "", value))));
for (const name of Object.keys(MEANINGS).filter(name => summary.counts[name])) {
  const share = make("i", name);
  share.style.width = 100 * summary.counts[name] / summary.rows + "%";
  $("share").append(share);
}
if (rows.length < summary.rows) {
  const link = make("a", "", "report.jsonl");
  link.href = "report.jsonl";
  $("note").append(`This page shows ${count(rows.length)} of ${count(summary.rows)} rows, ${page.order === "failures" ? "failures first" : "the first ones"}. All of them are in `, link, ".");
  $("note").hidden = false;
}
document.documentElement.style.setProperty("--outs", page.most);
document.documentElement.classList.toggle("many", page.most > 2);
if (innerWidth <= 760) $("size").value = 110;
chips();

function offerSources() {
  const elsewhere = rows.filter(row => row.source == null && webLink(row.image));
  if (!elsewhere.length) return;
  const hosts = new Set(elsewhere.map(row => row.image.split("/")[2]));
  $("load").textContent = `Load sources from ${hosts.size === 1 ? [...hosts][0] : `${count(hosts.size)} hosts`}`;
  $("load").hidden = false;
  $("load").onclick = () => { loadsSources = true; $("load").hidden = true; redraw(); };
}

function offerUnseen() {
  if (!rows.some(row => row.outputs.some(hides) && !isFlagged(row))) return;
  $("show").title = WARNINGS.unseen[1];
  $("show").hidden = false;
  $("show").onclick = () => { showsUnseen = true; $("show").hidden = true; redraw(); };
}

let asked = 0;
const soon = action => { cancelAnimationFrame(asked); asked = requestAnimationFrame(action); };
addEventListener("scroll", () => soon(draw), { passive: true });
addEventListener("resize", () => soon(redraw));

function toggleSheet() {
  $("sheet").setAttribute("aria-pressed", !isSheet());
  $("sizes").hidden = !isSheet();
  redraw();
}

function resize(by) {
  $("size").value = Number($("size").value) + by;
  redraw();
}

$("filter").addEventListener("change", choose);
for (const id of ["search", "value"]) $(id).addEventListener("input", choose);
for (const id of ["sort", "warning"]) $(id).addEventListener("change", choose);
$("column").addEventListener("change", offerValues);
$("size").addEventListener("input", () => soon(redraw));
$("sheet").onclick = toggleSheet;
$("reset").onclick = reset;
$("tick-shown").onclick = tickShown;
$("untick").onclick = untick;
$("export").onclick = saveCsv;
$("ask").onclick = () => $("help").showModal();
$("tick").onchange = () => setTick(open, $("tick").checked);
$("compare").onclick = toggleCompare;
$("cut").addEventListener("input", slide);
$("previous").onclick = () => step(-1);
$("next").onclick = () => step(1);
$("close").onclick = () => detail.close();
for (const dialog of [detail, zoom, $("help")]) dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
detail.addEventListener("close", () => focusItem(isSheet() ? tiles.findIndex(tile => tile.row === open) : placeOf(open)));

/* --- keys --- */

const inDetail = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), c: () => { if (!$("compare").hidden) toggleCompare(); },
  x: () => $("tick").click(), z: () => (detail.querySelector("figure:nth-of-type(2) img") ?? detail.querySelector("figure img"))?.onclick?.(),
};
const inZoom = { "+": () => setScale(scale + 1), "-": () => setScale(scale - 1), z: () => zoom.close() };
const onPage = {
  "/": () => $("search").focus(), s: toggleSheet, "+": () => resize(40), "-": () => resize(-40),
  ArrowDown: () => move(view.columns), ArrowUp: () => move(-view.columns),
  ArrowRight: () => { if (isSheet()) move(1); }, ArrowLeft: () => { if (isSheet()) move(-1); },
  x: () => { const n = focused(); if (n >= 0) setTick(itemAt(n).row, !ticked.has(itemAt(n).row.row)); },
};
const focused = () => document.activeElement.closest?.(".row, .tile")?.n ?? -1;
const move = by => focusItem(focused() < 0 ? 0 : focused() + by);

addEventListener("keydown", event => {
  const typing = /^(search|text)$/.test(document.activeElement.type) || document.activeElement.tagName === "SELECT";
  const sliding = document.activeElement.type === "range" && event.key.startsWith("Arrow");
  if (typing || sliding || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") { if (!$("help").open) $("help").showModal(); return; }
  const keys = $("help").open ? {} : zoom.open ? inZoom : detail.open ? inDetail : onPage;
  if (!Object.hasOwn(keys, event.key)) return;
  const scrolls = keys === onPage && event.key.startsWith("Arrow") && focused() < 0; // no row has the focus
  if (scrolls) return;
  event.preventDefault();
  keys[event.key]();
});

/* --- the first view, and then all other rows, a few at a time --- */

function parseRest() {
  if (!parseFor(15)) { setTimeout(parseRest); return; }
  warningsAndColumns();
  offerSources();
  offerUnseen();
}
choose();
parseRest();
