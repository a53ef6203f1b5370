/* --- the list and the contact sheet: only what is in view, and a little around it, is in the document --- */

const list = $("rows"), drawn = new Map();
let shown = null; // rows that match, in their order; null: all, parsed or not
let tiles = []; // of the contact sheet: a row, or a picture of one
let view = { columns: 1, width: 0, height: 120 };
const GAP = 14;

const shownCount = () => shown?.length ?? rows.length;
const shownAt = n => shown ? shown[n] : rowAt(n);
const placeOf = row => shown ? shown.indexOf(row) : row.n;
const itemCount = () => isSheet() ? tiles.length : shownCount();
const itemAt = n => isSheet() ? tiles[n] : { row: shownAt(n) };
const isSheet = () => $("sheet").getAttribute("aria-pressed") === "true";

function draw() {
  const top = list.getBoundingClientRect().top, around = isSheet() ? 1 : 4;
  const first = Math.max(0, Math.floor(-top / view.height) - around) * view.columns;
  const last = Math.min(itemCount(), (Math.ceil((innerHeight - top) / view.height) + around) * view.columns);
  for (const [n, element] of drawn) {
    if ((n < first || n >= last) && !element.contains(document.activeElement)) { element.remove(); drawn.delete(n); }
  }
  for (let n = first; n < last; n++) if (!drawn.has(n)) insert(n);
}

function insert(n) {
  const { row, output } = itemAt(n);
  const element = isSheet() ? tile(row, output, n) : line(row, n);
  element.n = n;
  element.style.transform = `translate(${(n % view.columns) * view.width}px, ${Math.floor(n / view.columns) * view.height}px)`;
  element.setAttribute("role", "listitem");
  element.setAttribute("aria-setsize", itemCount());
  element.setAttribute("aria-posinset", n + 1);
  element.addEventListener("click", event => { if (!event.target.closest("label, a, .veil") && !String(getSelection())) enlarge(row, output); });
  list.insertBefore(element, [...list.children].find(other => other.n > n) ?? null);
  drawn.set(n, element);
}

function redraw() {
  const sheet = isSheet(), size = Number($("size").value);
  list.classList.toggle("sheet", sheet);
  document.documentElement.classList.toggle("as-sheet", sheet);
  if (sheet) {
    const columns = Math.max(1, Math.floor((list.clientWidth + GAP) / (size + GAP)));
    const width = (list.clientWidth + GAP) / columns;
    view = { columns, width, height: width + 34 };
    list.style.setProperty("--tile", width - GAP + "px");
    tiles = (shown ?? allRows()).flatMap(row => row.outputs.length ? row.outputs.map(output => ({ row, output })) : [{ row }]);
  } else {
    view = { columns: 1, width: 0, height: parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row")) };
  }
  list.replaceChildren();
  drawn.clear();
  list.style.height = Math.ceil(itemCount() / view.columns) * view.height + "px";
  draw();
}

/* Draw an item again where it is. */
function refresh(row) {
  for (const [n, element] of [...drawn]) if (itemAt(n).row === row) { element.remove(); drawn.delete(n); insert(n); }
}

const badge = row => make("span", `status ${row.status}`, make("i", "dot"), statusOf(row));

function nameButton(row) {
  const name = make("button", "name", nameOf(row));
  name.type = "button";
  name.title = nameOf(row);
  return name;
}

function tickBox(row) {
  const box = make("input");
  box.type = "checkbox";
  box.checked = ticked.has(row.row);
  box.setAttribute("aria-label", `Tick ${nameOf(row)}`);
  box.onchange = () => setTick(row, box.checked);
  return make("label", "tick", box);
}

function line(row, n) {
  const outputs = row.outputs.map(output => {
    const frame = variation(row, output, () => refresh(row));
    frame.append(marks(marksOf(output)));
    return frame;
  });
  outputs.push(...row.dropped.map(number => make("span", "framed", nothing(`Variation ${number}, dropped`), marks(["flagged"]))));
  if (!outputs.length) outputs.push(nothing("No variation"));
  const cut = row.image.lastIndexOf("/") + 1, parts = [row.image.slice(0, cut), row.image.slice(cut)].filter(Boolean);
  const text = make("div", "text", nameButton(row), make("div", "path", ...parts.map(part => make("span", "", part))));
  text.lastChild.title = row.image;
  if (missing(row).length) text.append(marks(missing(row)));
  if (row.error_message || row.error_type) text.append(make("div", "error", row.error_message || row.error_type));
  return make("div", "row",
    make("span", "n", tickBox(row), count(row.row)), sourceOf(row), make("div", "pictures", ...outputs), text, make("div", "state", badge(row)),
    make("span", "right cost", dollars(row.cost_usd)),
    make("span", "right small seed", row.seed == null ? "–" : String(row.seed)),
    make("span", "right took", seconds(row.seconds)));
}

function tile(row, output) {
  const frame = output ? variation(row, output, () => refresh(row)) : make("span", "framed", sourceOf(row));
  const whole = output && !output.quarantined && !hides(output) && view.width > 180;
  if (whole) setTimeout(() => { if (frame.isConnected) sharpen(frame.firstChild, output.link); }, 200); // not while scrolling past
  frame.append(marks(output ? marksOf(output) : row.dropped.length ? ["flagged"] : []));
  if (!output) frame.append(badge(row));
  const caption = make("div", "caption", tickBox(row), nameButton(row));
  if (row.outputs.length > 1) caption.append(make("span", "n", String(output.number)));
  return make("div", output ? "tile" : "tile without", frame, caption);
}

/* Give an item the focus, wherever it is. */
function focusItem(n) {
  if (n < 0 || n >= itemCount()) return;
  const clear = $("tools").offsetHeight, top = list.getBoundingClientRect().top + Math.floor(n / view.columns) * view.height;
  if (top < clear) scrollBy(0, top - clear - 8);
  else if (top + view.height > innerHeight) scrollBy(0, top + view.height - innerHeight + 8);
  draw();
  drawn.get(n)?.querySelector(".name").focus({ preventScroll: true });
}
