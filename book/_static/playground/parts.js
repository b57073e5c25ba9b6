// Small parts of the page: elements, maps of token squares, bars, the plot of distances.
var playground = globalThis.playground ?? {};

(() => {
  const { GRID, HEADS, LAYERS, PATCH, SIDE } = playground;
  const SVG = "http://www.w3.org/2000/svg";

  // An element with its attributes and children; a function among the attributes listens to the event of that name.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(key, value);
      else if (value !== false && value !== undefined) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  }

  const percent = (share) => `${share > 0 && share < 0.005 ? "<1" : Math.round(100 * share)}\u00a0%`;
  const placeName = (patch) => `row ${Math.floor(patch / GRID) + 1}, column ${(patch % GRID) + 1}`;
  const tokenName = (token) => (token ? `the patch in ${placeName(token - 1)}` : "the class token");

  // Put pixels [side, side, 3] on a canvas of so many pixels.
  function paint(canvas, pixels) {
    const image = new ImageData(canvas.width, canvas.height);
    for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4)
      image.data.set([pixels[from], pixels[from + 1], pixels[from + 2], 255], to);
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // A frame around a patch, which moves.
  class Mark {
    constructor(name) {
      this.element = make("span", { class: `pg-mark ${name}`, hidden: true });
    }

    move(patch) {
      this.element.hidden = patch === null || patch < 0;
      this.element.style.left = `${((patch % GRID) * 100) / GRID}%`;
      this.element.style.top = `${(Math.floor(patch / GRID) * 100) / GRID}%`;
    }
  }

  // The patch under a pointer, from the box of 8 × 8 patches that it is over.
  function patchAt(event, box) {
    const { left, top, width, height } = box.getBoundingClientRect();
    const index = (part, whole) => Math.min(Math.max(Math.floor((part / whole) * GRID), 0), GRID - 1);
    return index(event.clientY - top, height) * GRID + index(event.clientX - left, width);
  }

  // 8 × 8 squares coloured by a value each.
  class TokenMap {
    constructor(label, pick) {
      this.canvas = make("canvas", { width: GRID, height: GRID, role: "img", "aria-label": label });
      this.mark = new Mark("pg-query");
      this.box = make("div", { class: "pg-map" }, this.canvas, this.mark.element);
      if (pick) this.box.addEventListener("click", (event) => pick(patchAt(event, this.box)));
      this.label = label;
    }

    // Values [64] on a scale from low to high, and the patch that looks.
    draw(values, low, high, query) {
      const palette = (this.palette ??= Uint8Array.from(atob(playground.scenes.palette), (x) => x.charCodeAt(0)));
      const pixels = new Uint8Array(3 * values.length);
      values.forEach((value, i) => {
        const step = Math.round((255 * (value - low)) / (high - low || 1));
        pixels.set(palette.subarray(3 * step, 3 * step + 3), 3 * i);
      });
      paint(this.canvas, pixels);
      this.mark.move(query);
    }

    describe(text) {
      this.canvas.setAttribute("aria-label", `${this.label}: ${text}`);
    }
  }

  // One bar for each class and network.
  class Bars {
    constructor(classes) {
      this.rows = classes.map((name) => {
        const bars = [0, 1].map((which) => make("i", { class: `pg-bar pg-net${which}` }));
        const numbers = [0, 1].map((which) => make("b", { class: `pg-net${which}` }));
        const row = make("li", {}, make("span", { class: "pg-class" }, name), make("span", { class: "pg-track" }, ...bars),
          make("span", { class: "pg-numbers" }, ...numbers));
        return { row, bars, numbers };
      });
      this.element = make("ul", { class: "pg-bars" }, ...this.rows.map(({ row }) => row));
    }

    // Shares [classes] of network 0 or 1, or null.
    draw(which, shares) {
      const best = shares && shares.indexOf(Math.max(...shares));
      this.rows.forEach(({ bars, numbers, row }, i) => {
        bars[which].style.width = shares ? `${100 * shares[i]}%` : "0";
        numbers[which].textContent = shares ? percent(shares[i]) : "";
        if (which === 0) row.classList.toggle("pg-best", i === best);
      });
    }
  }

  // What the head would say after each layer.
  class Lens {
    constructor() {
      this.rows = Array.from({ length: LAYERS + 1 }, (_, layer) => {
        const [bar, text] = [make("i", { class: "pg-bar" }), make("b")];
        const row = make("li", {}, make("span", { class: "pg-class" }, layer ? `layer ${layer}` : "at first"),
          make("span", { class: "pg-track" }, bar), make("span", { class: "pg-numbers" }, text));
        return { row, bar, text };
      });
      this.element = make("ul", { class: "pg-bars pg-lens" }, ...this.rows.map(({ row }) => row));
    }

    draw(lens, classes) {
      const best = lens.map((shares) => shares.indexOf(Math.max(...shares))), final = best.at(-1);
      this.rows.forEach(({ row, bar, text }, layer) => {
        const share = lens[layer][best[layer]];
        bar.style.width = `${100 * share}%`;
        text.textContent = `${classes[best[layer]]} ${percent(share)}`;
        row.classList.toggle("pg-agrees", best[layer] === final);
      });
    }
  }

  function svg(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  // One dot for each head: how far it looks in this picture.
  class Distances {
    constructor() {
      const high = 24, x = (layer) => 34 + layer * 32, y = (pixels) => 128 - (pixels * 112) / high;
      const line = (pixels, name) => svg("line", { x1: 18, x2: 210, y1: y(pixels), y2: y(pixels), class: name });
      const ticks = [0, 8, 16, 24].flatMap((pixels) => [line(pixels, "pg-rule"),
        svg("text", { x: 14, y: y(pixels) + 3.5, "text-anchor": "end" }, String(pixels))]);
      const names = [...Array(LAYERS).keys()].map((layer) =>
        svg("text", { x: x(layer), y: 144, "text-anchor": "middle" }, String(layer + 1)));
      this.dots = [...Array(LAYERS * HEADS).keys()].map((i) =>
        svg("circle", { r: 4, cx: x(Math.floor(i / HEADS)) + 6 * (i % HEADS) - 9, class: "pg-dot" }));
      this.place = (dot, pixels) => dot.setAttribute("cy", y(pixels));
      this.element = svg("svg", { viewBox: "0 0 216 150", role: "img", class: "pg-distances" }, ...ticks,
        line(uniformDistance(), "pg-uniform"), ...names, ...this.dots);
    }

    // Pixels by layer and head; which layer is looked into; what is off.
    draw(distances, chosen, isOff) {
      distances.flat().forEach((pixels, i) => {
        const layer = Math.floor(i / HEADS), dot = this.dots[i];
        this.place(dot, pixels);
        dot.setAttribute("class", `pg-dot${layer === chosen ? " pg-chosen" : ""}${isOff(layer, i % HEADS) ? " pg-is-off" : ""}`);
      });
      const mean = distances.map((heads) => heads.reduce((sum, pixels) => sum + pixels / HEADS, 0).toFixed(1));
      this.element.setAttribute("aria-label", `Mean attention distance by layer, mean of its heads, in pixels: ${mean.join(", ")}`);
    }
  }

  // The distance of attention that takes the same from every patch: the dashed line.
  function uniformDistance() {
    const even = new Float64Array((GRID * GRID + 1) ** 2).fill(1);
    return playground.distance(even, 0, GRID * GRID + 1, PATCH);
  }

  Object.assign(playground, { Bars, Distances, Lens, Mark, TokenMap, make, paint, patchAt, percent, placeName, tokenName });
  playground.canvasOf = (pixels, attributes = {}) => {
    const canvas = make("canvas", { width: SIDE, height: SIDE, ...attributes });
    paint(canvas, pixels);
    return canvas;
  };
})();
