// Draws the figures of vitlite.explore, and answers to mouse, touch and keyboard.
//
// A figure is an element with its data as JSON in data-figure:
//   bytes, size      maps ("frames") of `size` bytes each, one after the other, as base64
//   low, high        the values of byte 0, and of byte 255: one for all frames, or one for each
//   palette          256 colours, as base64;   channels: 1 byte a patch for those, or 3 for red, green, blue
//   grids            [rows, columns] of patches, one for all frames or one for each place of the first slider
//   prefix           names of the tokens that come before the patches; their values end at 1, not at high
//   sliders          {label, values, start}
//   panels           {name, image} or {name, tiles} or {name, first, strides, follows, unit}; such a map shows frame
//                    first + strides · sliders, and where it follows, + the number of the chosen token
//   most, least      words for the largest and smallest value that the chosen token has to others
//   columns          panels in a row
(() => {
  const SHARP = 600; // pixels: a canvas has more than a screen shows of it
  const SMALL_IMAGE = 96; // pixels: images up to this are drawn pixel by pixel

  const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const number = (value) => String(Number(value.toPrecision(2))).replace("-", "−");
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  function add(parent, tag, name, text = "", attributes = {}) {
    const element = parent.appendChild(document.createElement(tag));
    element.className = name;
    element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  // A picture of width × height pixels; a pixel without a colour stays transparent.
  function paint(width, height, colourAt) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const colour = colourAt(y, x);
        if (colour) pixels.data.set([...colour, 255], 4 * (y * width + x));
      }
    }
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  class Explorer {
    constructor(root) {
      this.spec = JSON.parse(root.dataset.figure);
      this.bytes = decode(this.spec.bytes);
      this.palette = decode(this.spec.palette);
      this.at = this.spec.sliders.map((slider) => slider.start);
      // A place is a share of the height and of the width, so that it holds on every grid; or it is a prefix token.
      this.kept = this.shown = { y: 0.5, x: 0.5, prefix: -1 };
      this.build(root);
      this.show(this.kept);
    }

    // ------------------------------------------------------------ what is shown

    grid() {
      const { grids } = this.spec;
      return grids[grids.length > 1 ? this.at[0] : 0];
    }

    cell() {
      const [rows, columns] = this.grid();
      return [Math.floor(this.shown.y * rows), Math.floor(this.shown.x * columns)];
    }

    token() {
      if (this.shown.prefix >= 0) return this.shown.prefix;
      const [row, column] = this.cell();
      return this.spec.prefix.length + row * this.grid()[1] + column;
    }

    frame(panel) {
      const strides = panel.strides ?? [];
      const first = strides.reduce((sum, stride, i) => sum + stride * this.at[i], panel.first ?? 0);
      return panel.follows ? first + this.token() : first;
    }

    high(frame) {
      return this.spec.high[this.spec.high.length > 1 ? frame : 0];
    }

    value(frame, token) {
      const { low, size, prefix } = this.spec;
      const high = token < prefix.length ? 1 : this.high(frame);
      return low + (this.bytes[frame * size + token] / 255) * (high - low);
    }

    colour(frame, row, column) {
      const { size, channels, prefix } = this.spec;
      const start = frame * size + (prefix.length + row * this.grid()[1] + column) * channels;
      if (channels === 3) return this.bytes.subarray(start, start + 3);
      return this.palette.subarray(3 * this.bytes[start], 3 * this.bytes[start] + 3);
    }

    // ------------------------------------------------------------ drawing

    show(place) {
      this.shown = place;
      for (const panel of this.spec.panels) this.draw(panel);
      this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === place.prefix)));
      this.live.textContent = this.sentence();
    }

    keep(place) {
      this.kept = place;
      this.show(place);
    }

    picture(panel) {
      const [rows, columns] = this.grid();
      if (panel.image) return panel.loaded;
      if (!panel.tiles) return paint(columns, rows, (y, x) => this.colour(this.frame(panel), y, x));
      panel.drawn ??= paint(columns * (columns + 1) - 1, rows * (rows + 1) - 1, (y, x) => {
        const [row, column] = [y % (rows + 1), x % (columns + 1)];
        if (row === rows || column === columns) return null; // the gap between two maps
        return this.colour(Math.floor(y / (rows + 1)) * columns + Math.floor(x / (columns + 1)), row, column);
      });
      return panel.drawn;
    }

    draw(panel) {
      const picture = this.picture(panel);
      if (!picture?.width) return; // an image that is not yet decoded
      const times = Math.ceil(SHARP / picture.width);
      const { canvas } = panel;
      [canvas.width, canvas.height] = [times * picture.width, times * picture.height];
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = Boolean(panel.image) && picture.width > SMALL_IMAGE;
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      if (panel.image) this.cuts(context);
      if (this.shown.prefix < 0) this.outline(context, panel.tiles ? times : 0);
      if (panel.end) panel.end.textContent = number(this.high(this.frame(panel)));
    }

    // Lines between the patches of an image.
    cuts(context) {
      const [rows, columns] = this.grid();
      const { width, height } = context.canvas;
      context.fillStyle = "rgb(255 255 255 / 45%)";
      for (let row = 1; row < rows; row++) context.fillRect(0, Math.round((row * height) / rows), width, 2);
      for (let col = 1; col < columns; col++) context.fillRect(Math.round((col * width) / columns), 0, 2, height);
    }

    // White on black around the chosen patch, or around its map where maps lie side by side with a gap.
    outline(context, gap) {
      const [rows, columns] = this.grid();
      const [row, column] = this.cell();
      const { width, height } = context.canvas;
      const [wide, tall] = [(width + gap) / columns, (height + gap) / rows];
      const line = width / 120;
      const left = Math.max(column * wide - gap / 2, 1.5 * line);
      const top = Math.max(row * tall - gap / 2, 1.5 * line);
      const right = Math.min((column + 1) * wide - gap / 2, width - 1.5 * line);
      const bottom = Math.min((row + 1) * tall - gap / 2, height - 1.5 * line);
      for (const [colour, thick] of [["#000", 3 * line], ["#fff", line]]) {
        [context.strokeStyle, context.lineWidth] = [colour, thick];
        context.strokeRect(left, top, right - left, bottom - top);
      }
    }

    // ------------------------------------------------------------ the same in words

    name(token) {
      const { prefix } = this.spec;
      if (token < prefix.length) return prefix[token];
      const [patch, columns] = [token - prefix.length, this.grid()[1]];
      return `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
    }

    sentence() {
      const { sliders, panels, grids } = this.spec;
      const settings = sliders.map(({ label, values }, i) => `${label} ${values[this.at[i]]}`).join(", ");
      const size = grids.length > 1 ? ` (${this.grid().join(" × ")} patches)` : "";
      const facts = panels.filter((panel) => panel.unit).map((panel) => this.facts(panel)).join("; ");
      return `${settings ? `${capital(settings)}${size}. ` : ""}${capital(this.name(this.token()))}: ${facts}.`;
    }

    facts(panel) {
      const { channels, panels, prefix, most, least } = this.spec;
      const [frame, token, [rows, columns]] = [this.frame(panel), this.token(), this.grid()];
      if (channels === 3) {
        const shares = [...this.colour(frame, ...this.cell())].map((byte) => number(byte / 255));
        return `red ${shares[0]}, green ${shares[1]}, blue ${shares[2]}`;
      }
      const said = (other) => `${this.name(other)} (${number(this.value(frame, other))})`;
      const patches = [...Array(rows * columns).keys()].map((patch) => prefix.length + patch);
      const others = least && patches.length > 1 ? patches.filter((other) => other !== token) : patches;
      const sorted = others.sort((a, b) => this.value(frame, a) - this.value(frame, b));
      if (!panel.follows) {
        const which = panels.length > 2 ? `${panel.name}: ` : "";
        return `${which}${number(this.value(frame, token))}, the largest at ${said(sorted.at(-1))}`;
      }
      const apart = prefix.map((name, other) => `; ${name}: ${number(this.value(frame, other))}`).join("");
      return `${most} ${said(sorted.at(-1))}${least ? `, ${least} ${said(sorted[0])}` : ""}${apart}`;
    }

    // ------------------------------------------------------------ elements and what they answer to

    build(root) {
      const body = document.createElement("div");
      root.style.setProperty("--columns", this.spec.columns);
      root.insertBefore(body, root.querySelector(".ve-caption"));
      const controls = add(body, "div", "ve-controls");
      this.spec.sliders.forEach((slider, i) => this.addSlider(controls, slider, i));
      const panels = add(body, "div", "ve-panels");
      this.spec.panels.forEach((panel, i) => this.addPanel(panels, panel, i));
      panels.addEventListener("keydown", (event) => this.press(event));
      this.buttons = this.spec.prefix.map((name, i) => {
        const button = add(body, "button", "", name, { type: "button" });
        button.addEventListener("click", () => this.keep({ ...this.kept, prefix: this.kept.prefix === i ? -1 : i }));
        return button;
      });
      // JupyterLab would take the arrow keys for itself, and Enter too.
      for (const element of body.querySelectorAll("input, canvas, button")) {
        element.setAttribute("data-lm-suppress-shortcuts", "");
      }
      this.live = add(body, "p", "ve-live", "", { role: "status", "aria-live": "polite" });
    }

    addSlider(parent, { label, values, start }, i) {
      const row = add(parent, "label", "");
      add(row, "span", "", label);
      const range = add(row, "input", "", "", { type: "range", min: 0, max: values.length - 1, "aria-label": label });
      const output = add(row, "output", "", "", { "aria-live": "off" }); // the sentence says it
      range.value = start;
      const say = () => {
        this.at[i] = Number(range.value);
        output.textContent = values[this.at[i]];
        range.setAttribute("aria-valuetext", values[this.at[i]]);
      };
      range.addEventListener("input", () => (say(), this.show(this.kept)));
      say();
    }

    addPanel(parent, panel, i) {
      const box = add(parent, "div", "");
      add(box, "div", "ve-name", panel.name);
      const keys = { role: "application", "aria-roledescription": "map of patches", tabindex: 0 };
      const label = i ? panel.name : `${panel.name}; the arrow keys choose a patch`;
      const canvas = add(box, "canvas", "", "", { "aria-label": label, ...(i ? { role: "img", tabindex: -1 } : keys) });
      panel.canvas = canvas;
      const place = (event) => {
        const { left, top, width, height } = canvas.getBoundingClientRect();
        const share = (part, whole) => clamp(part / whole, 0, 0.9999);
        return { y: share(event.clientY - top, height), x: share(event.clientX - left, width), prefix: -1 };
      };
      canvas.addEventListener("pointerdown", (event) => this.keep(place(event)));
      canvas.addEventListener("pointermove", (event) => (event.buttons ? this.keep : this.show).call(this, place(event)));
      canvas.addEventListener("pointerleave", () => this.show(this.kept));
      if (panel.image) {
        panel.loaded = new Image();
        panel.loaded.onload = () => this.draw(panel);
        panel.loaded.src = panel.image;
      }
      if (panel.unit) this.addBar(box, panel);
    }

    addBar(box, panel) {
      if (this.spec.channels === 1) {
        const bar = add(box, "div", "ve-bar");
        add(bar, "span", "", number(this.spec.low));
        const stops = Array.from({ length: 17 }, (_, i) => Math.min(16 * i, 255));
        const colours = stops.map((stop) => `rgb(${this.palette.subarray(3 * stop, 3 * stop + 3).join(" ")})`);
        add(bar, "span", "ve-colours").style.background = `linear-gradient(to right, ${colours.join(", ")})`;
        panel.end = add(bar, "span", "");
      }
      add(box, "div", "ve-unit", panel.unit);
    }

    press(event) {
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const step = steps[event.key];
      if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      this.shown = this.kept;
      const [rows, columns] = this.grid();
      const move = this.kept.prefix < 0 ? step : [0, 0]; // the first key after a prefix token leads back to the patch
      const [row, column] = this.cell().map((old, i) => clamp(old + move[i], 0, this.grid()[i] - 1));
      this.keep({ y: (row + 0.5) / rows, x: (column + 0.5) / columns, prefix: -1 });
    }
  }

  // A notebook may run this script from another place in the page than it stands: so look for what is not yet drawn.
  for (const root of document.querySelectorAll(".vitlite-explorer:not([data-drawn])")) {
    root.setAttribute("data-drawn", "");
    new Explorer(root);
  }
})();
