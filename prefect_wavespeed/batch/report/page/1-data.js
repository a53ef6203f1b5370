"use strict";

/* --- what the page holds, and how it is said --- */

const $ = id => document.getElementById(id);
const data = kind => [...document.querySelectorAll(`script[data-is="${kind}"]`)];
const summary = JSON.parse(data("summary")[0].textContent);
const page = JSON.parse(data("page")[0].textContent); // in figures
const blocks = { rows: data("rows"), pictures: data("pictures") };

const MEANINGS = {
  stored: "by this run", done: "stored before this run", submitted: "left to settle",
  failed: "for good, or in this run", given_up: "failed for good in an earlier run",
  open: "left open in the ledger when the run ended", unsubmitted: "never sent", invalid: "a bad row that was skipped",
};
const WARNINGS = {
  missing_outputs: ["pictures missing", "fewer pictures than asked for"], extra_outputs: ["more pictures came", "more pictures than asked for, of which so many are stored"], size_differs: ["other size", "not the size that was asked for"],
  format_differs: ["other format", "not the format that was asked for"], blank: ["blank", "one colour all over"],
  not_checked: ["not checked", "WaveSpeedAI did not say whether it is safe for work"],
  unseen: ["not loaded", "stored before this run, which did not look whether it is safe for work"],
  unusual: ["unusual", "it could not be looked at in full: another format, too many pixels, broken metadata"],
  flagged: ["flagged", "WaveSpeedAI flags it as unsafe for work"],
};

const count = number => number.toLocaleString("en-GB");
const dollars = usd => usd == null ? "–" : "$" + (Math.round(usd * 1e6) / 1e6).toLocaleString("en-US", { minimumFractionDigits: usd ? 2 : 0, maximumFractionDigits: 6 });
const seconds = time => time == null ? "–" : time < 100 ? time.toFixed(1) + " s" : count(Math.round(time)) + " s";
const duration = time => time < 100 ? seconds(time) : time < 5400 ? `${Math.round(time / 60)} min` : `${(time / 3600).toFixed(1)} h`;
const nameOf = row => row.id ?? (decoded(row.image.split(/[?#]/)[0]).split("/").filter(Boolean).pop() || row.image || `row ${row.row}`);
const nameOfOutput = output => `Variation ${output.number}${output.quarantined ? ", in quarantine" : ""}`;
const statusOf = row => summary.words[row.status];
const isFlagged = row => row.flagged.length > 0;
const missing = row => row.warnings.filter(code => code === "missing_outputs" || code === "extra_outputs");
const marksOf = output => [...(output.flagged ? ["flagged"] : []), ...output.warnings];
const warningsOf = row => [
  ...missing(row).map(code => WARNINGS[code][1]),
  ...row.outputs.flatMap(output => marksOf(output).map(code => `variation ${output.number}: ${WARNINGS[code][1]}`)),
  ...row.dropped.map(number => `variation ${number}: flagged as unsafe for work, and dropped`),
];

function decoded(text) { try { return decodeURIComponent(text); } catch { return text; } }

function make(tag, className, ...inside) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...inside);
  return element;
}

function button(text, action) {
  const made = make("button", "plain", text);
  made.type = "button";
  made.onclick = action;
  return made;
}

/* --- the rows: a block is parsed when one of its rows is in view, or when its turn comes --- */

const rows = new Array(page.rows);
let parsedBlocks = 0; // all before it are

const pathToLink = path => summary.up + path.slice(2).split("/").map(encodeURIComponent).join("/");
const linkOf = path => path.startsWith("./") ? pathToLink(path) : null; // relative, to an object of the same store
const uriOf = path => path.startsWith("./") ? summary.root + path.slice(1) : path;

function outputsOf({ outputs: paths = [], numbers, pictures = [], quarantined = [], ...row }) {
  return paths.map((path, at) => {
    const number = numbers?.[at] ?? at + 1;
    return {
      number, path, uri: uriOf(path), link: linkOf(path), picture: pictures[at], quarantined: quarantined.includes(number),
      flagged: row.flagged.includes(number), warnings: row.warnings.filter((_, n) => row.warning_outputs[n] === number),
      unseen: row.status === "done" && row.prediction_id == null, // its side-car was not read
    };
  });
}

function parseBlock(number) {
  JSON.parse(blocks.rows[number].textContent).forEach((told, at) => {
    const n = number * page.block + at, row = { image: "", warnings: [], warning_outputs: [], flagged: [], attempt_errors: [], ...told, block: number, n };
    row.outputs = outputsOf(row);
    row.dropped = row.flagged.filter(flagged => !row.outputs.some(output => output.number === flagged));
    rows[n] = row;
  });
  blocks.rows[number].remove();
  blocks.rows[number] = null; // its text is not needed any more
}

function rowAt(n) {
  if (!rows[n]) parseBlock(Math.floor(n / page.block));
  return rows[n];
}

/* Parse more rows for so long; whether all are. */
function parseFor(milliseconds) {
  for (const end = performance.now() + milliseconds; parsedBlocks < blocks.rows.length && performance.now() < end; parsedBlocks++) rowAt(parsedBlocks * page.block);
  return parsedBlocks === blocks.rows.length;
}

function allRows() {
  parseFor(Infinity);
  return rows;
}

const textOf = row => row.text ??= [
  row.id, row.image, row.error_type, row.error_message, ...row.attempt_errors, ...Object.values(row.carried ?? {}),
  ...row.warnings.flatMap(code => WARNINGS[code]), ...(isFlagged(row) ? WARNINGS.flagged : []),
].filter(value => value != null).join("\n").toLowerCase();
