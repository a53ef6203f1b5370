/* --- one row, large: side by side, or source and variation under a slider; and the zoom --- */

const detail = $("detail"), zoom = $("zoom");
let open = null; // the row
let variationAt = 0; // in the slider
let scale = 0; // of the zoom; 0: as large as fits

const isComparing = () => $("compare").getAttribute("aria-pressed") === "true";

function enlarge(row, output) {
  open = row;
  variationAt = Math.max(0, row.outputs.indexOf(output));
  const n = placeOf(row);
  $("heading").textContent = nameOf(row);
  $("tick").checked = ticked.has(row.row);
  $("previous").disabled = n <= 0;
  $("next").disabled = n < 0 || n === shownCount() - 1;
  $("compare").hidden = !canCompare(row).length;
  showPictures();
  showFields(row);
  if (!detail.open) detail.showModal();
  detail.scrollTop = 0;
}

function showPictures() {
  const compares = isComparing() && canCompare(open).length > 0;
  $("large").hidden = compares;
  $("slider").hidden = !compares;
  $("large").replaceChildren(...(compares ? [] : [sourceFigure(open), ...open.outputs.map(output => outputFigure(open, output))]));
  $("both").replaceChildren();
  if (compares) showSlider();
}

function sourceFigure(row) {
  const image = sourceOf(row), link = webLink(row.image) ?? sourceLink(row);
  sharpen(image, sourceLink(row));
  if (image.tagName === "IMG") image.onclick = () => enlargeMore(image);
  return make("figure", "", image, make("figcaption", "", linked("Source", link), copying(row.image, "Copy URI")));
}

function outputFigure(row, output) {
  const frame = variation(row, output, () => { refresh(row); showPictures(); }), caption = make("figcaption", "", linked(nameOfOutput(output), output.link));
  if (!output.quarantined && !hides(output)) {
    sharpen(frame.firstChild, output.link);
    if (frame.firstChild.tagName === "IMG") frame.firstChild.onclick = () => enlargeMore(frame.firstChild);
  }
  caption.append(marks(marksOf(output)), copying(output.uri, "Copy URI"));
  if (output.link) caption.append(downloading(row, output));
  return make("figure", "", frame, caption);
}

function linked(text, href) {
  if (!href) return text;
  const anchor = make("a", "", text + ", full size");
  anchor.href = href; anchor.target = "_blank"; anchor.rel = "noopener noreferrer";
  return anchor;
}

function downloading(row, output) {
  const anchor = make("a", "plain", "Download");
  anchor.href = served ? output.link + "?download" : output.link;
  anchor.download = `${nameOf(row)}-${output.number}.${output.uri.split(".").pop()}`.replace(/[^\w.-]+/g, "-");
  return anchor;
}

/* --- before and after --- */

const canCompare = row => thumbnail(row, row.source) || sourceLink(row) ? row.outputs.filter(output => !output.quarantined) : [];

function showSlider() {
  const outputs = canCompare(open), output = outputs.includes(open.outputs[variationAt]) ? open.outputs[variationAt] : outputs[0];
  const after = variation(open, output, () => { refresh(open); showSlider(); }), before = make("span", "framed before", sourceOf(open));
  $("both").replaceChildren(after, before);
  sharpen(before.firstChild, sourceLink(open));
  if (!hides(output)) sharpen(after.firstChild, output.link);
  before.hidden = hides(output);
  $("which").replaceChildren(...(outputs.length < 2 ? [] : outputs.map(each => {
    const chosen = button(nameOfOutput(each), () => { variationAt = open.outputs.indexOf(each); showSlider(); });
    chosen.setAttribute("aria-pressed", each === output);
    return chosen;
  })));
  slide();
}

function slide() { $("both").style.setProperty("--cut", $("cut").value + "%"); }

function toggleCompare() {
  $("compare").setAttribute("aria-pressed", !isComparing());
  showPictures();
}

/* --- the zoom --- */

function enlargeMore(image) {
  const large = make("img");
  large.alt = image.alt;
  large.src = image.src;
  large.onclick = () => setScale(scale === 0 ? 1 : scale === 1 ? 2 : 0);
  $("pan").replaceChildren(large);
  zoom.showModal();
  setScale(0);
}

function setScale(to) {
  scale = Math.max(0, Math.min(8, to));
  const large = $("pan").firstChild;
  large.classList.toggle("fits", scale === 0);
  large.style.width = scale ? large.naturalWidth * scale + "px" : "";
  $("pan").scrollTo((($("pan").scrollWidth - $("pan").clientWidth)) / 2, ($("pan").scrollHeight - $("pan").clientHeight) / 2);
}

/* --- all that is known of it --- */

function showFields(row) {
  const path = row.metadata_uri ?? "", side = make("a", "", uriOf(path));
  if (linkOf(path)) side.href = linkOf(path);
  const id = row.id == null ? null : make("span", "", row.id, " ", copying(row.id, "Copy id"));
  const fields = [
    ["Row", count(row.row)], ["Id", id], ["Image", row.image, "code"], ["Status", make("span", "", badge(row), make("span", "meaning", MEANINGS[row.status]))],
    ["Warnings", warningsOf(row).join("; ")],
    ["Error", row.error_type], ["Message", row.error_message], ["Retryable", row.retryable == null ? null : row.retryable ? "yes" : "no"], ["Cost", row.cost_usd == null ? null : dollars(row.cost_usd)],
    ["Time", row.seconds == null ? null : seconds(row.seconds)], ["Seed", row.seed, "code"], ["Variant", row.variant || null],
    ["Attempts", row.attempts], ...row.attempt_errors.map((error, n) => [`Attempt ${n + 1}`, error]), ["Prediction", row.prediction_id, "code"], ["Job", row.job_key, "code"],
    ...Object.entries(row.carried ?? {}),
    ...row.outputs.map(output => [nameOfOutput(output), output.uri, "code"]),
    ["Side-car", path && (linkOf(path) ? side : path), "code"],
  ];
  $("fields").replaceChildren(...fields.filter(([, value]) => value != null && value !== "").flatMap(
    ([term, value, kind]) => [make("dt", "", term), make("dd", kind, value instanceof Node ? value : String(value))]));
}

function step(by) {
  const n = placeOf(open) + by;
  if (n >= 0 && n < shownCount()) enlarge(shownAt(n));
}
