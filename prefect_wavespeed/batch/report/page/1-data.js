"use strict";

/* --- what the page holds, and how it is said --- */

const $ = id => document.getElementById(id);
const data = kind => [...document.querySelectorAll(`script[data-is="${kind}"]`)];
const summary = JSON.parse(data("summary")[0].textContent);
const blocks = data("pictures");
const rows = data("rows").flatMap((block, number) => JSON.parse(block.textContent).map(row => ({ ...row, block: number })));

const MEANINGS = {
  stored: "by this run", done: "stored before this run", submitted: "left to settle",
  failed: "for good, or in this run", given_up: "failed for good in an earlier run",
  open: "left open in the ledger when the run ended", unsubmitted: "never sent", invalid: "a bad row that was skipped",
};
const WARNINGS = {
  missing_outputs: ["pictures missing", "fewer pictures than asked for"], extra_outputs: ["more pictures came", "more pictures than asked for, of which so many are stored"], size_differs: ["other size", "not the size that was asked for"],
  format_differs: ["other format", "not the format that was asked for"], blank: ["blank", "one colour all over"],
  not_checked: ["not checked", "WaveSpeedAI did not say whether it is safe for work"],
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

for (const row of rows) {
  row.text = [
    row.id, row.image, row.error_type, row.error_message, ...row.attempt_errors, ...Object.values(row.carried ?? {}),
    ...row.warnings.flatMap(code => WARNINGS[code]), ...(row.flagged.length ? WARNINGS.flagged : []),
  ].filter(value => value != null).join("\n").toLowerCase();
}
