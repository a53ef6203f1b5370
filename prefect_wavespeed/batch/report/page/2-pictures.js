/* --- pictures: a block of thumbnails is parsed when the first of them is needed --- */

const served = location.protocol === "http:" && location.hostname === "127.0.0.1"; // by `restyle gallery`
let loadsSources = false; // from elsewhere: only once a person has asked for it
let showsUnseen = false; // pictures of earlier runs, likewise
const revealed = new Set(); // pictures that are flagged, or may be, that a person wanted to see, by their uris

const parsed = new Map();
function thumbnail(row, index) {
  if (index == null) return null;
  let block = parsed.get(row.block);
  if (!block) {
    block = JSON.parse(blocks.pictures[row.block].textContent);
    if (parsed.size > 7) parsed.delete(parsed.keys().next().value);
    parsed.set(row.block, block);
  }
  return "data:image/jpeg;base64," + block[index];
}

/* Where a query was replaced by its digest, the address opens nothing. */
const webLink = uri => /^https?:\/\//i.test(uri) && !/[?&]query-sha256=[0-9a-f]{16}(&|$)/.test(uri) ? uri : null;

/* Where the source itself is: shown large, and for a source without a thumbnail. */
function sourceLink(row) {
  if (webLink(row.image)) return loadsSources && row.job_key ? row.image : null; // never of a refused row
  if (served) return row.job_key && /^s3:/i.test(row.image) ? `../../../source/${row.row}` : null;
  return location.protocol === "file:" && row.job_key && /^file:\/\/\/[^/\\]/.test(row.image) ? row.image : null;
}

function nothing(alt) {
  const box = make("span", "picture none");
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", alt + ", not shown");
  return box;
}

function picture(src, link, alt) {
  if (!src && !link) return nothing(alt);
  const image = make("img", "picture");
  image.alt = alt;
  image.decoding = "async";
  image.loading = "lazy";
  image.referrerPolicy = "no-referrer";
  image.addEventListener("error", () => image.replaceWith(nothing(alt)), { once: true });
  image.src = src ?? link;
  return image;
}

/* Put the whole picture in the place of its thumbnail, once it has arrived. */
function sharpen(image, link) {
  if (!link || image.tagName !== "IMG" || image.src === link) return;
  const whole = new Image();
  whole.referrerPolicy = "no-referrer";
  whole.onload = () => { if (image.isConnected) image.src = link; };
  whole.src = link;
}

const sourceOf = row => picture(thumbnail(row, row.source), sourceLink(row), "Source");
const hides = output => (output.flagged || output.unseen && !showsUnseen) && !revealed.has(output.uri);

/* A variation; one that is flagged, or may be, is blurred, and loaded whole, only once it has been clicked. */
function variation(row, output, onReveal) {
  const image = picture(thumbnail(row, output.picture), output.quarantined || hides(output) ? null : output.link, nameOfOutput(output));
  const frame = make("span", "framed", image);
  if (hides(output) && !output.quarantined) {
    const veil = make("button", "veil", "Show");
    veil.type = "button";
    veil.title = WARNINGS[output.flagged ? "flagged" : "unseen"][1];
    veil.setAttribute("aria-label", `Show ${nameOfOutput(output)}, ${output.flagged ? "flagged as unsafe for work" : veil.title}`);
    veil.onclick = event => { event.stopPropagation(); revealed.add(output.uri); onReveal(); };
    frame.classList.add("blurred");
    frame.append(veil);
  }
  return frame;
}

function marks(codes) {
  return make("span", "marks", ...codes.map(code => {
    const mark = make("i", "mark " + code, WARNINGS[code][0]);
    mark.title = WARNINGS[code][1];
    return mark;
  }));
}
