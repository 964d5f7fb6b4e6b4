// The viewer: an image under its heat map on a canvas. Plain JavaScript, no build step.
//
// Python sends one block of bytes: the length of a JSON header (4 bytes, little endian), the header, and the PNGs that
// it points to. Back go three states: "log", the last events, numbered, so that none is lost or taken twice when several
// come in one run; "view", the part of a reduced image that is looked at closely; and "wanted", whether somebody looks
// at reconstructions. Coordinates are pixels of the image, from its upper left; boxes are [top, left, bottom, right],
// half-open.

const LARGEST = 64; // screen pixels to one of the image
const OUTLINE = "#40e0ff"; // cyan, which neither a grey image nor the heat colours have
const KEYS = { n: "next", p: "previous", m: "map", g: "reconstruction", b: "boxes", d: "draw",
  0: "fit", "+": "in", "=": "in", "-": "out" };
const TOLD = { next: "Next", previous: "Previous", box: "Box drawn" };

function parse(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  return { header, blob: (place) => bytes.slice(4 + length + place[0], 4 + length + place[0] + place[1]) };
}

function decode(data) {
  return createImageBitmap(new Blob([data], { type: "image/png" }), { colorSpaceConversion: "none" });
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// Heat levels, a grey PNG, in the colours of the table: 256 times red, green, blue, opacity.
async function heated(data, table) {
  const levels = await decode(data);
  const canvas = canvasOf(levels.width, levels.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(levels, 0, 0);
  const picture = context.getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Uint32Array(table.buffer, table.byteOffset, 256);
  const pixels = new Uint32Array(picture.data.buffer);
  const grey = new Uint8Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) {
    grey[i] = picture.data[4 * i];
    pixels[i] = colours[grey[i]];
  }
  context.putImageData(picture, 0, 0);
  return { canvas, levels: grey };
}

class Viewer {
  constructor(root) {
    this.root = root;
    this.find = (what) => root.querySelector(what);
    this.box = this.find(".viewer");
    this.stage = this.find(".stage");
    this.canvas = this.find(".stage canvas");
    this.tip = this.find(".tip");
    this.shown = { map: true, reconstruction: false, boxes: true, draw: false };
    this.opacity = 1;
    this.layers = {};
    this.header = null;
    this.turn = 0;
    this.log = { mount: Math.random().toString(36).slice(2), events: [] };
    this.sequence = 0;
    this.stop = new AbortController();
    this.listen();
  }

  listen() {
    const on = (where, what, act, more = {}) => where.addEventListener(what, act, { signal: this.stop.signal, ...more });
    on(this.box, "click", (event) => {
      const button = event.target.closest("button[data-do]");
      if (button && !button.disabled) this.act(button.dataset.do);
    });
    on(this.find(".opacity"), "input", (event) => {
      this.opacity = event.target.value / 100;
      this.draw();
    });
    on(this.canvas, "wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 200 : 1;
      this.zoom(Math.exp(-0.0016 * Math.max(-400, Math.min(400, event.deltaY * lines))), event.offsetX, event.offsetY);
    }, { passive: false });
    on(this.canvas, "dblclick", () => this.fit());
    on(this.canvas, "pointerdown", (event) => this.press(event));
    on(this.canvas, "pointermove", (event) => this.move(event));
    on(this.canvas, "pointerup", (event) => this.release(event));
    on(this.canvas, "pointercancel", () => this.cancel());
    on(this.canvas, "pointerleave", () => { this.tip.hidden = true; this.find(".place").textContent = ""; });
    // Before Streamlit's own keys, of which r is one.
    on(window, "keydown", (event) => this.key(event), { capture: true });
    on(document, "click", (event) => {
      const chosen = event.target.closest?.("[data-defect]"); // in the page's list of defects
      const defect = chosen && this.header?.defects[chosen.dataset.defect - 1];
      if (defect) this.look(defect.box);
    });
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(this.stage);
  }

  close() {
    this.stop.abort();
    this.sized.disconnect();
    clearTimeout(this.waiting);
  }

  // --- what Python sends ---

  async update(data, setState) {
    this.setState = setState;
    if (!data) return;
    const turn = ++this.turn;
    const { header, blob } = parse(data);
    const fresh = !this.header || this.header.image !== header.image;
    try {
      const layers = fresh || this.header.stamp !== header.stamp ? await this.open(header.layers, blob) : this.layers;
      const crop = header.crop ? { box: header.crop.box, ...await this.open(header.crop.layers, blob) } : null;
      if (turn !== this.turn) return; // a later one is on its way
      const size = this.header && [this.header.height, this.header.width].join();
      this.header = header;
      this.layers = layers;
      this.crop = crop;
      if (fresh) this.drawn = null;
      this.dress(header);
      const said = this.find(".said");
      if (layers.reconstruction && said.textContent === "Reconstructing ...") said.textContent = "Reconstruction";
      if (fresh && (this.scale === undefined || size !== [header.height, header.width].join())) this.fit();
      this.box.dataset.image = header.image;
      this.draw();
    } catch (error) {
      this.find(".said").textContent = `The image cannot be shown: ${error.message}`;
    }
  }

  async open(places, blob) {
    const [image, reconstruction, heat] = await Promise.all([
      decode(blob(places.image)),
      places.reconstruction && decode(blob(places.reconstruction)),
      places.heat && heated(blob(places.heat), blob(places.colours)),
    ]);
    if (places.colours) this.colours = blob(places.colours);
    return { image, reconstruction, heat };
  }

  dress(header) {
    this.canvas.setAttribute("aria-label", header.label);
    this.stage.style.setProperty("--height", header.tall);
    this.find(".steps").hidden = !header.steps;
    this.offer(header.judging);
    const button = this.find('[data-do="reconstruction"]');
    const offered = header.layers.reconstruction || header.more;
    button.disabled = !offered;
    button.title = offered ? "Image or reconstruction (g)" : header.without;
    button.hidden = !offered && !header.without;
    this.find('[data-do="draw"]').hidden = !header.drawing;
    this.find('[data-do="boxes"]').hidden = !header.defects.length;
    this.find(".scale").style.visibility = header.heat ? "visible" : "hidden";
    if (header.heat) {
      this.find(".low").textContent = header.heat[0].toFixed(1);
      this.find(".high").textContent = `${header.heat[1].toFixed(1)} map`;
      this.explain(String(this.colours));
    }
    this.show();
  }

  // The colours of the heat, in the foot; they are the same for all images of a detector.
  explain(colours) {
    if (colours === this.explained) return;
    this.explained = colours;
    const context = this.find(".legend").getContext("2d");
    context.clearRect(0, 0, 120, 10);
    for (let x = 0; x < 120; x++) {
      const at = 4 * Math.round(1 + 254 * x / 119);
      context.fillStyle = `rgb(${this.colours[at]} ${this.colours[at + 1]} ${this.colours[at + 2]})`;
      context.fillRect(x, 0, 1, 10);
    }
  }

  // The buttons of what can be said of this image, each with its key.
  offer(judging) {
    const asked = JSON.stringify(judging);
    if (asked === this.offered) return;
    this.offered = asked;
    const group = this.find(".judging");
    group.hidden = !judging.length;
    group.replaceChildren(...judging.map(({ kind, label, key, title }) => {
      const button = Object.assign(document.createElement("button"), { type: "button", title: `${title} (${key})` });
      button.dataset.do = kind;
      button.append(`${label} `, Object.assign(document.createElement("kbd"), { textContent: key }));
      return button;
    }));
  }

  show() {
    for (const [name, on] of Object.entries(this.shown)) {
      this.find(`[data-do="${name}"]`).setAttribute("aria-pressed", String(on));
    }
    this.stage.classList.toggle("drawing", this.shown.draw);
  }

  // --- what people do ---

  act(what) {
    const header = this.header;
    if (!header) return;
    if (what === "fit") this.fit();
    else if (what === "in" || what === "out") {
      this.zoom(what === "in" ? 1.5 : 1 / 1.5, this.canvas.clientWidth / 2, this.canvas.clientHeight / 2);
    } else if (what in this.shown) {
      const has = header.layers.reconstruction;
      if (what === "reconstruction" && !has && !header.more || what === "draw" && !header.drawing) return;
      this.shown[what] = !this.shown[what];
      if (what === "reconstruction") this.setState("wanted", this.shown[what]); // it comes, as long as somebody looks
      if (what === "reconstruction" && this.shown[what] && !has) this.find(".said").textContent = "Reconstructing ...";
      this.show();
      this.draw();
    } else if (what === "next" || what === "previous" ? header.steps : this.judgement(what)) this.post(what);
  }

  judgement(kind) {
    return this.header.judging.find((one) => one.kind === kind);
  }

  post(kind, more = {}) {
    this.log.events.push({ sequence: ++this.sequence, kind, image: this.header.image, ...more });
    this.log.events = this.log.events.slice(-50);
    this.find(".said").textContent = TOLD[kind] || this.judgement(kind).told;
    this.setState("log", { mount: this.log.mount, events: this.log.events });
  }

  key(event) {
    if (!this.header?.keys || event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    const target = event.composedPath()[0];
    const ours = event.composedPath().includes(this.root);
    // Elsewhere keys belong to whatever has the focus: a field to type in, a list, a button. A link, such as that of the
    // page just chosen in the menu, has none of ours, and neither has a defect just chosen in the list.
    const free = target === document.body || target === document.documentElement || target.closest("a, [data-defect]");
    if (!ours && !free) return;
    if (ours && target.tagName === "INPUT" && event.key.startsWith("Arrow")) return;
    const arrows = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const pressed = event.key.toLowerCase();
    const what = this.header.judging.find((one) => one.key === pressed)?.kind || KEYS[pressed];
    if (what) {
      if (!event.repeat || what === "next" || what === "previous" || what === "in" || what === "out") this.act(what);
    } else if (event.key === "Escape" && (this.dragging || this.shown.draw)) {
      this.cancel();
      this.shown.draw = false;
      this.show();
    } else if (event.key in arrows && ours) this.pan(...arrows[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  press(event) {
    if (!this.header || event.button !== 0) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.dragging = { x: event.offsetX, y: event.offsetY, from: this.pixel(event), box: this.shown.draw };
    this.stage.classList.toggle("dragging", !this.shown.draw);
  }

  move(event) {
    if (!this.header) return;
    const drag = this.dragging;
    if (drag && drag.box) {
      drag.to = this.pixel(event);
      this.draw();
    } else if (drag) {
      this.pan(event.offsetX - drag.x, event.offsetY - drag.y);
      drag.x = event.offsetX;
      drag.y = event.offsetY;
    }
    this.hover(event);
  }

  release() {
    const drag = this.dragging;
    this.cancel();
    if (!drag || !drag.box || !drag.to) return;
    const { height, width } = this.header;
    const [x, y] = [[drag.from.x, drag.to.x], [drag.from.y, drag.to.y]];
    const clamp = (value, most) => Math.max(0, Math.min(most, value));
    const box = [clamp(Math.floor(Math.min(...y)), height), clamp(Math.floor(Math.min(...x)), width),
      clamp(Math.ceil(Math.max(...y)), height), clamp(Math.ceil(Math.max(...x)), width)];
    if (box[2] - box[0] < 2 || box[3] - box[1] < 2) return;
    this.drawn = box;
    this.post("box", { box });
    this.draw();
  }

  cancel() {
    this.dragging = null;
    this.stage.classList.remove("dragging");
    if (this.header) this.draw();
  }

  hover(event) {
    const { x, y } = this.pixel(event);
    const { height, width, defects, heat } = this.header;
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    let place = inside ? `x ${Math.floor(x)}, y ${Math.floor(y)} px` : "";
    if (inside && heat && this.layers.heat) {
      const { canvas, levels } = this.layers.heat;
      const at = Math.floor(y * canvas.height / height) * canvas.width + Math.floor(x * canvas.width / width);
      const value = heat[0] + (levels[at] - 1) / 254 * (heat[1] - heat[0]);
      const sign = levels[at] === 255 ? "\u2265" : levels[at] === 1 ? "\u2264" : "=";
      if (levels[at]) place += `, map ${sign} ${value.toFixed(2)}`;
    }
    this.find(".place").textContent = place;
    const over = this.shown.boxes ? defects.filter(({ box }) => y >= box[0] && x >= box[1] && y < box[2] && x < box[3]) : [];
    over.sort((a, b) => area(a.box) - area(b.box));
    this.tip.hidden = !over.length || Boolean(this.dragging);
    if (!this.tip.hidden) {
      this.tip.textContent = over[0].text; // as text: nothing that comes from a file is ever read as markup
      this.tip.style.left = `${Math.min(event.offsetX + 14, this.canvas.clientWidth - 200)}px`;
      this.tip.style.top = `${Math.min(event.offsetY + 14, this.canvas.clientHeight - 70)}px`;
    }
  }

  // --- where we look ---

  pixel(event) {
    return { x: (event.offsetX - this.left) / this.scale, y: (event.offsetY - this.top) / this.scale };
  }

  whole() {
    const { height, width } = this.header;
    return Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height);
  }

  fit() {
    if (!this.header || !this.canvas.clientWidth) return;
    this.fitted = true;
    this.scale = this.whole();
    this.left = (this.canvas.clientWidth - this.header.width * this.scale) / 2;
    this.top = (this.canvas.clientHeight - this.header.height * this.scale) / 2;
    this.settle();
  }

  look(box) {
    const room = 3 * Math.max(box[2] - box[0], box[3] - box[1], 24);
    this.fitted = false;
    this.scale = Math.min(LARGEST, Math.min(this.canvas.clientWidth, this.canvas.clientHeight) / room);
    this.left = this.canvas.clientWidth / 2 - this.scale * (box[1] + box[3]) / 2;
    this.top = this.canvas.clientHeight / 2 - this.scale * (box[0] + box[2]) / 2;
    this.settle();
  }

  zoom(factor, x, y) {
    if (!this.header) return;
    const scale = Math.max(0.5 * this.whole(), Math.min(LARGEST, this.scale * factor));
    this.left = x - (x - this.left) * scale / this.scale;
    this.top = y - (y - this.top) * scale / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.settle();
  }

  pan(x, y) {
    this.left += x;
    this.top += y;
    this.fitted = false;
    this.settle();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.fitted || this.scale === undefined) this.fit();
    else this.draw();
  }

  // The picture never leaves the stage; a close look at a reduced image asks for its pixels.
  settle() {
    const { height, width, step } = this.header;
    const keep = 40;
    this.left = Math.max(keep - width * this.scale, Math.min(this.canvas.clientWidth - keep, this.left));
    this.top = Math.max(keep - height * this.scale, Math.min(this.canvas.clientHeight - keep, this.top));
    this.draw();
    clearTimeout(this.waiting);
    if (step === 1 || this.scale * step < 1.2) return;
    const [right, bottom] = [(this.canvas.clientWidth - this.left) / this.scale, (this.canvas.clientHeight - this.top) / this.scale];
    const box = [Math.max(0, Math.floor(-this.top / this.scale)), Math.max(0, Math.floor(-this.left / this.scale)),
      Math.min(height, Math.ceil(bottom)), Math.min(width, Math.ceil(right))];
    const [image, asked] = [this.header.image, [this.header.image, ...box].join()];
    if (asked === this.asked || box[2] <= box[0] || box[3] <= box[1]) return;
    this.waiting = setTimeout(() => {
      this.asked = asked;
      this.setState("view", { image, box });
    }, 200);
  }

  // --- drawing ---

  draw() {
    if (!this.header || this.scale === undefined) return;
    const context = this.canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.left, ratio * this.top);
    this.paint(context, this.layers, [0, 0, this.header.height, this.header.width]);
    if (this.crop) this.paint(context, this.crop, this.crop.box);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.shown.boxes) this.header.defects.forEach(({ box }, i) => this.outline(context, box, OUTLINE, String(i + 1)));
    for (const box of this.header.marks) this.outline(context, box, "#ffffff", "", [6, 4]);
    if (this.drawn) this.outline(context, this.drawn, "#ffffff", "", [6, 4]);
    const drag = this.dragging;
    if (drag && drag.box && drag.to) {
      this.outline(context, [Math.min(drag.from.y, drag.to.y), Math.min(drag.from.x, drag.to.x),
        Math.max(drag.from.y, drag.to.y), Math.max(drag.from.x, drag.to.x)], "#ffffff", "", [6, 4]);
    }
    Object.assign(this.box.dataset, { scale: this.scale, left: this.left, top: this.top, crop: this.crop ? this.crop.box.join() : "" });
  }

  paint(context, layers, box) {
    const [top, left, height, width] = [box[0], box[1], box[2] - box[0], box[3] - box[1]];
    const base = this.shown.reconstruction && layers.reconstruction || layers.image;
    context.imageSmoothingEnabled = this.scale * width / base.width < 2; // beyond that, pixels are to be seen
    context.imageSmoothingQuality = "high";
    context.globalAlpha = 1;
    context.drawImage(base, left, top, width, height);
    if (this.shown.map && layers.heat) {
      context.globalAlpha = Math.min(1, this.opacity);
      context.drawImage(layers.heat.canvas, left, top, width, height);
      if (this.opacity > 1) { // what covers two thirds at most may cover more, laid on twice
        context.globalAlpha = this.opacity - 1;
        context.drawImage(layers.heat.canvas, left, top, width, height);
      }
    }
    context.globalAlpha = 1;
  }

  outline(context, box, colour, number, dashes = []) {
    const [x, y] = [this.left + this.scale * box[1], this.top + this.scale * box[0]];
    const [width, height] = [this.scale * (box[3] - box[1]), this.scale * (box[2] - box[0])];
    context.setLineDash([]);
    for (const [style, thick] of [["#000a", 4], [colour, 2]]) {
      context.strokeStyle = style;
      context.lineWidth = thick;
      context.strokeRect(x - 2, y - 2, width + 4, height + 4);
      context.setLineDash(dashes);
    }
    context.setLineDash([]);
    if (!number) return;
    context.font = "600 13px sans-serif";
    const wide = context.measureText(number).width + 8;
    const above = y - 20 < 0 ? y + 2 : y - 20;
    context.fillStyle = "#000c";
    context.fillRect(x - 3, above, wide, 17);
    context.fillStyle = colour;
    context.fillText(number, x + 1, above + 13);
  }
}

function area(box) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}

const viewers = new WeakMap();

export default function ({ data, parentElement, setStateValue }) {
  if (!viewers.has(parentElement)) viewers.set(parentElement, new Viewer(parentElement));
  const viewer = viewers.get(parentElement);
  viewer.update(data, setStateValue);
  return () => {
    viewer.close();
    viewers.delete(parentElement);
  };
}
